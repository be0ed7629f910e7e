//! The record of a grant and its fencing token.

use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use rustix::process::getpid;

use super::dir::Dir;
use super::files::Files;
use super::kernel::Locker;
use super::queue::Queue;
use super::taking::Taking;
use super::{floor, open};
use crate::advice::Advice;
use crate::lock::Mode;
use crate::process;
use crate::record::{self, Claim, PreparedRecord, Record, Text};
use crate::sys;

#[derive(Default)]
pub struct Ledger {
    fence: Option<u64>,
    /// Written before the grant, as far as possible.
    prepared: Option<PreparedRecord>,
    /// The token is announced on the queue, which has to stay open.
    token_announced: bool,
}

/// Which records of a file a change is about.
pub enum Whose {
    Grant(Option<u64>),
    /// That of a grant to one of these processes, for a parent whose child was granted
    /// the lock.
    Processes([i32; 2]),
}

impl Whose {
    fn is(&self, record: &Record) -> bool {
        match self {
            Self::Grant(fence) => Some(record.fence) == *fence,
            Self::Processes(pids) => pids.contains(&record.pid) && record.run.is_none(),
        }
    }
}

impl Ledger {
    /// For a process that shares our memory.
    pub fn of_cohabitant(&self) -> Self {
        Self { fence: self.fence, prepared: None, token_announced: self.token_announced }
    }

    pub fn cover(&mut self, fence: u64) {
        self.fence = Some(fence);
    }

    pub fn fence(&self) -> Option<u64> {
        self.fence
    }

    /// Whether the queue must stay open.
    pub fn is_token_announced(&self) -> bool {
        self.token_announced
    }

    /// Draws the fencing token and writes the record. The lock is held.
    /// Errors: the file has a foreign text.
    pub fn settle(&mut self, files: &Files, taking: &Taking, dir: Option<&Dir>, claim: &Claim) -> Result<()> {
        let own = own_offset(files, taking);
        let fence = match self.write_prepared(files, taking.slot(), own) {
            Some(fence) => fence,
            None => {
                let record = next_record(files, taking, dir, claim, SystemTime::now())?;
                write(files, own, &record.to_text());
                record.fence
            }
        };
        self.fence = Some(fence);
        if claim.is_token {
            self.announce_token(files, fence, claim.owner)?;
        }
        Ok(())
    }

    fn announce_token(&mut self, files: &Files, fence: u64, owner: Option<i32>) -> Result<()> {
        let us = getpid().as_raw_nonzero().get();
        if let Some(queue) = files.queue() {
            queue.announce_token(fence, owner, us).with_context(|| files.cannot_lock())?;
            self.token_announced = true;
        } else if files.has_slots()
            && let Ok(lock) = files.lock().try_clone()
        {
            // On a read-only file system there is no queue. Without the mark, an
            // --expires around us would not know us as the keeper of a token.
            let _ = Queue::on(lock).announce_token(fence, owner, us);
        }
        Ok(())
    }

    /// Prepares the grant while still waiting, because work done after it delays the
    /// whole queue.
    pub fn prepare(&mut self, files: &Files, taking: &Taking, dir: Option<&Dir>, claim: &Claim) {
        let now = SystemTime::now();
        // `settle` reports what is wrong with the file.
        if let Ok(record) = next_record(files, taking, dir, claim, now) {
            self.fence = Some(record.fence);
            self.prepared = PreparedRecord::new(&record, claim, now);
        }
    }

    /// The fencing token, if the record was prepared.
    fn write_prepared(&mut self, files: &Files, slot: Option<u32>, own: Option<u64>) -> Option<u64> {
        let mut prepared = self.prepared.take()?;
        // The slot was not known in advance.
        let queue = files.queue().filter(|_| slot.is_none())?;
        let (fence, text) = record::with_text(queue.file(), 0, |before| prepared.fill(before, SystemTime::now()))?;
        write(files, own, text);
        Some(fence)
    }

    /// Withdraws the token before its lock is released.
    /// Errors: `ENOLCK`.
    pub fn withdraw_token(&self, files: &Files) -> Result<()> {
        if let (true, Some(queue)) = (self.token_announced, files.queue()) {
            queue.withdraw_token().with_context(|| files.cannot_unlock())?;
        }
        Ok(())
    }

    /// The fencing token of our grant, as [`Whose`].
    pub fn ours(&self) -> Whose {
        Whose::Grant(self.fence)
    }
}

/// Changes the record of a grant where it still stands: as the last grant of the lock
/// and of its slot or shared holder.
pub fn amend(files: &Files, taking: &Taking, dir: Option<&Dir>, whose: &Whose, change: &dyn Fn(&mut Record)) {
    let opened;
    let file = match files.record_in_lock() {
        Some(file) => file,
        None => {
            let Some(dir) = dir else { return };
            let Ok(Some(found)) = open::existing_lock_file(dir, files.queue_name()) else { return };
            if Some(found.identity) != files.queue_identity() {
                return;
            }
            opened = found.file;
            &opened
        }
    };
    let amend_at = |offset| {
        let record = record::read_at(file, offset).record();
        let Some(mut record) = record.filter(|record| whose.is(record)) else { return false };
        change(&mut record);
        if file.write_all_at(&record.to_text(), offset).is_err() {
            sys::discard(libc::SIGXFSZ);
        }
        true
    };
    amend_at(0);
    match (taking.mode(), taking.slot()) {
        (Mode::Exclusive, _) => {}
        (Mode::Shared, _) => {
            let locker = [taking.locker()];
            let pids: &[i32] = if let Whose::Processes(pids) = whose { pids } else { &locker };
            pids.iter().flat_map(|pid| record::offsets_of_sharer(*pid)).any(amend_at);
        }
        (Mode::Slot { .. }, Some(slot)) => {
            amend_at(record::offset_of_slot(slot));
        }
        // The child took it that waited.
        (Mode::Slot { of, .. }, None) => {
            (0..of.min(record::MOST_SLOTS)).map(record::offset_of_slot).any(amend_at);
        }
    }
}

/// Reads the record.
/// Errors: the file has a foreign text, which must not be overwritten.
pub fn read_own_text(files: &Files) -> Result<Text> {
    let text = files.read_text();
    if text == Text::Foreign {
        return Err(anyhow!("{}: its content is not lockrun's, and would be overwritten", files.queue_name()))
            .context(Advice::new("use another --name, or --file to lock it as it is"));
    }
    Ok(text)
}

/// Whether a record is about the grant that the kernel shows.
pub fn is_about(record: &Record, locker: Locker) -> bool {
    match locker.pid {
        1.. => record.pid == locker.pid,
        // A lockrun that locked a script's descriptor has ended, and outside of the
        // first pid namespace the kernel shows no number for dead processes.
        _ => record.script.is_some() && process::parent(record.pid).is_none(),
    }
}

/// Where a grant has a record of its own, beside the one of the last grant.
fn own_offset(files: &Files, taking: &Taking) -> Option<u64> {
    match taking.mode() {
        Mode::Exclusive => None,
        Mode::Slot { .. } => taking.slot().map(record::offset_of_slot),
        Mode::Shared => {
            let queue = files.queue()?;
            let is_taken = |offset: &u64| {
                let record = record::read_at(queue.file(), *offset).record();
                record.is_some_and(|record| record.pid != taking.locker() && is_of_living(&record))
            };
            record::offsets_of_sharer(taking.locker()).find(|offset| !is_taken(offset))
        }
    }
}

/// Whether the process or script that a record is about is still there.
fn is_of_living(record: &Record) -> bool {
    match record.script {
        Some(script) => process::incarnation(script.pid) == Some((script.start, script.id)),
        None => process::parent(record.pid).is_some(),
    }
}

fn write(files: &Files, own: Option<u64>, text: &[u8]) {
    let Some(queue) = files.queue() else { return };
    // A full disk must not prevent locking: the record is a hint, and the clock still
    // makes the next fencing token larger.
    let mut written = queue.file().write_all_at(text, 0);
    if let Some(offset) = own {
        written = written.and(queue.file().write_all_at(text, offset));
    }
    if written.is_err() {
        // RLIMIT_FSIZE must not end COMMAND.
        sys::discard(libc::SIGXFSZ);
    }
}

/// The record of a grant to us now.
fn next_record(files: &Files, taking: &Taking, dir: Option<&Dir>, claim: &Claim, now: SystemTime) -> Result<Record> {
    let text = read_own_text(files)?;
    let clock = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let is_damaged = text == Text::Damaged;
    let last = text.record();
    let highest = match (&last, files.queue()) {
        (Some(record), _) => record.fence,
        (None, Some(queue)) if is_damaged => record::highest_fence(queue.file()).max(dir.map_or(0, floor::read)),
        // The file is new; an older one may have been pruned.
        _ => dir.map_or(0, floor::read),
    };
    let fence = clock.max(highest.saturating_add(1));
    let mut record = Record::new(claim, &files.recorded_name(), fence, taking.locker(), now);
    record.slot = taking.slot();
    record.shared = taking.mode() == Mode::Shared;
    record.previous = last.and_then(|last| Some((last.fence, last.ended?)));
    record.slots = match taking.mode() {
        Mode::Slot { of, .. } => Some(of),
        Mode::Exclusive | Mode::Shared => None,
    };
    Ok(record)
}
