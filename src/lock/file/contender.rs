//! One lock, from its files to its grant.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{CWD, FlockOperation};
use rustix::process::getpid;

use super::dir::Advice;
use super::nesting::{self, Marker, Nesting, Strength};
use super::open::{self, Identity, Opened};
use super::queue::{Queue, Ticket};
use super::slots::Slots;
use super::{Dir, Target, floor, rivals};
use crate::lock::{Grant, Mode, Patience};
use crate::name;
use crate::record::{self, Claim, PreparedRecord, Record, Text};
use crate::sys;

/// A lock's files, open, and how far we have come with them.
pub struct Contender {
    target: Target,
    mode: Mode,
    /// Where a `--file` is, from any directory.
    path: Option<PathBuf>,
    /// The file that is locked.
    lock: Opened,
    /// Its queue; `None` on a read-only file system, where only the kernel
    /// knows an order.
    queue: Option<Queue>,
    /// Name of the file in DIR that holds queue and text.
    queue_name: String,
    /// Where that is, from any directory.
    queue_path: PathBuf,
    queue_identity: Identity,
    in_door: bool,
    ticket: Option<Ticket>,
    /// The slot of the pool that we have.
    slot: Option<u32>,
    /// The number of our grant.
    fence: Option<u64>,
    /// Its text, as far as it can be written in advance.
    draft: Option<PreparedRecord>,
    /// Held by a lockrun around us, so that there is nothing to take.
    covered: bool,
    /// What lockruns around us hold of it.
    held_around: Vec<Marker>,
    /// Our grant's signs are on the queue, which stays open for them.
    token_announced: bool,
}

impl Contender {
    /// Opens a target's files.
    ///
    /// # Errors
    /// See [`open::lock_file`] and [`open::user_file`].
    pub fn open(dir: &Dir, target: &Target, mode: Mode) -> Result<Self> {
        let path = match target {
            Target::Name(_) => None,
            Target::Path(path) => Some(std::path::absolute(path).context("cannot tell where we are")?),
        };
        let (lock, queue_name) = match target {
            Target::Name(name) => {
                let file_name = name::stem(name) + ".lock";
                let lock = open::lock_file(dir, &file_name)?;
                if matches!(mode, Mode::Slot { .. }) && !lock.writable {
                    return Err(anyhow!(
                        "cannot lock {file_name}: its file system is read-only, where slots cannot be locked"
                    ))
                    .context(Advice("use another --dir, or no --slots"));
                }
                (lock, file_name)
            }
            Target::Path(path) => {
                let lock = open::user_file(path)?;
                let stem = name::path_stem(lock.identity.device, lock.identity.inode);
                (lock, stem + ".gate")
            }
        };
        // A description of its own for the queue: when it is closed, as it is
        // when COMMAND is executed, door and ticket are given back while the
        // lock stays.
        let queue = open::lock_file(dir, &queue_name)?;
        Ok(Self {
            target: target.clone(),
            mode,
            path,
            lock,
            queue: queue.writable.then(|| Queue::on(queue.file)),
            queue_path: dir.path_of(&queue_name),
            queue_name,
            queue_identity: queue.identity,
            in_door: false,
            ticket: None,
            slot: None,
            fence: None,
            draft: None,
            covered: false,
            held_around: Vec::new(),
            token_announced: false,
        })
    }

    /// See [`Place::of_cohabitant`](crate::lock::Place::of_cohabitant).
    pub fn of_cohabitant(&self) -> Self {
        let file = sys::descriptor_of_cohabitant;
        Self {
            target: self.target.clone(),
            mode: self.mode,
            path: self.path.clone(),
            lock: Opened { file: file(&self.lock.file), ..self.lock },
            queue: self.queue.as_ref().map(|queue| Queue::on(file(queue.file()))),
            queue_name: self.queue_name.clone(),
            queue_path: self.queue_path.clone(),
            queue_identity: self.queue_identity,
            in_door: self.in_door,
            ticket: self.ticket,
            slot: self.slot,
            fence: self.fence,
            draft: None,
            covered: self.covered,
            held_around: self.held_around.clone(),
            token_announced: self.token_announced,
        }
    }

    /// Nothing has to be taken: a lockrun around us holds it, by this grant.
    pub fn cover(&mut self, fence: u64, slot: Option<u32>) {
        self.covered = true;
        self.queue = None;
        self.fence = Some(fence);
        self.slot = slot;
    }

    /// Whether nobody else is to hold it beside us.
    pub fn is_exclusive(&self) -> bool {
        self.mode == Mode::Exclusive
    }

    /// Whether nothing has to be taken.
    pub fn is_covered(&self) -> bool {
        self.covered
    }

    /// Which file is locked, for the order in which several are taken.
    pub fn identity(&self) -> Identity {
        self.lock.identity
    }

    /// Enters the door, usually at once; `false` if the time is over first.
    pub fn enter_door(&mut self, patience: &Patience) -> Result<bool> {
        let Some(queue) = &self.queue else { return Ok(true) };
        if !queue.try_enter_door().with_context(|| self.cannot_lock())? {
            // Somebody is in there for some microseconds, or was stopped in
            // there by SIGSTOP.
            let limit = if patience.queue { patience.left() } else { Some(DOOR_LIMIT) };
            if !interruptibly(patience, limit, || queue.enter_door()).with_context(|| self.cannot_lock())? {
                return Ok(false);
            }
        }
        self.in_door = true;
        Ok(true)
    }

    /// Leaves the door.
    pub fn leave_door(&mut self) -> Result<()> {
        if let Some(queue) = self.queue.as_ref().filter(|_| self.in_door) {
            queue.leave_door().with_context(|| self.cannot_lock())?;
        }
        self.in_door = false;
        Ok(())
    }

    /// Takes the lock if that passes nobody; `false` if it has to be waited
    /// for. Only under the door.
    pub fn take(&mut self) -> Result<bool> {
        if self.covered {
            return Ok(true);
        }
        self.try_take().with_context(|| self.cannot_lock())
    }

    fn try_take(&mut self) -> io::Result<bool> {
        if let Some(queue) = &self.queue
            && queue.somebody_waits(self.mode)?
        {
            return Ok(false);
        }
        // Slots first: nobody is disturbed by a look.
        match self.mode {
            Mode::Shared if self.has_slots() && Slots::of(&self.lock.file).any_is_held()? => return Ok(false),
            Mode::Slot { .. } => {
                self.slot = self.free_slot()?;
                if self.slot.is_none() {
                    return Ok(false);
                }
            }
            _ => {}
        }
        if !self.try_flock()? {
            return Ok(false);
        }
        let slots = Slots::of(&self.lock.file);
        let taken = match (self.mode, self.slot) {
            (Mode::Shared, _) if self.has_slots() => slots.try_share_all()?,
            (Mode::Slot { .. }, Some(slot)) => slots.try_take(slot)?,
            _ => true,
        };
        // Only where there is no door could somebody come between.
        if !taken {
            fs2::FileExt::unlock(&self.lock.file)?;
        }
        Ok(taken)
    }

    /// Only lock files of names have slots, and only where they can be
    /// locked.
    fn has_slots(&self) -> bool {
        matches!(self.target, Target::Name(_))
    }

    fn free_slot(&self) -> io::Result<Option<u32>> {
        let slots = Slots::of(&self.lock.file);
        let Mode::Slot { of, which } = self.mode else { return Ok(None) };
        match (which, &self.queue) {
            (Some(slot), _) => slots.first_free(slot..slot + 1),
            (None, Some(queue)) => {
                let mut start = 0;
                while let Some(slot) = slots.first_free(start..of)? {
                    if !queue.is_slot_wanted(slot)? {
                        return Ok(Some(slot));
                    }
                    start = slot + 1;
                }
                Ok(None)
            }
            (None, None) => slots.first_free(0..of),
        }
    }

    fn try_flock(&mut self) -> io::Result<bool> {
        let try_once = |this: &Self| match this.mode {
            Mode::Exclusive => fs2::FileExt::try_lock_exclusive(&this.lock.file),
            Mode::Shared | Mode::Slot { .. } => fs2::FileExt::try_lock_shared(&this.lock.file),
        };
        let mut result = try_once(self);
        if let (Err(e), Target::Path(path)) = (&result, &self.target)
            && e.raw_os_error() == Some(libc::EBADF)
        {
            self.lock.file = open::user_file_for_writing(path)?.into();
            result = try_once(self);
        }
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sleeps until the lock is ours: first behind those with lower tickets,
    /// then on the lock itself.
    ///
    /// # Errors
    /// `EINTR`, when a timer or a signal came: to be called again, or not.
    pub fn wait(&mut self) -> io::Result<()> {
        if let (Some(queue), Some(ticket)) = (&self.queue, self.ticket) {
            queue.wait_for_turn(ticket, self.mode)?;
        }
        sys::asleep(|| self.flock())?;
        let slots = Slots::of(&self.lock.file);
        match (self.mode, &self.queue, self.ticket) {
            (Mode::Shared, ..) if self.has_slots() => slots.share_all()?,
            (Mode::Slot { which: Some(slot), .. }, ..) => {
                slots.take(slot)?;
                self.slot = Some(slot);
            }
            (Mode::Slot { which: None, of }, Some(queue), Some(ticket)) => {
                self.slot = Some(slots.take_any(of, queue, ticket)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Not by fs2: it would write to errno, which is also that of a process that
    /// we live with.
    fn flock(&self) -> io::Result<()> {
        let operation = match self.mode {
            Mode::Exclusive => FlockOperation::LockExclusive,
            Mode::Shared | Mode::Slot { .. } => FlockOperation::LockShared,
        };
        Ok(rustix::fs::flock(&self.lock.file, operation)?)
    }

    /// Joins the queue. Only under the door.
    pub fn draw_ticket(&mut self, will_replace: bool) -> Result<()> {
        if let Some(queue) = &self.queue {
            let pid = getpid().as_raw_nonzero().get();
            let ticket = queue.draw_ticket(self.mode, pid).with_context(|| self.cannot_lock())?;
            if will_replace {
                queue.mark_as_replacer(ticket, pid).with_context(|| self.cannot_lock())?;
            }
            self.ticket = Some(ticket);
        }
        Ok(())
    }

    /// We have the lock, and wait for another one of our set: not in this
    /// queue any more.
    pub fn give_ticket_back(&mut self) {
        if let (Some(queue), Some(_)) = (&self.queue, self.ticket.take()) {
            // If it fails, the ticket goes with us.
            let _ = queue.give_tickets_back();
        }
    }

    /// How many wait already, counted up to `most`; not those who end the
    /// holder.
    fn waiting(&self, most: usize) -> Result<usize> {
        self.queue.as_ref().map_or(Ok(0), |queue| queue.waiting_patiently(most)).with_context(|| self.cannot_lock())
    }

    /// Whether we would have to wait, and so many wait already. Only under the
    /// door.
    pub fn would_wait_with(&mut self, most: usize) -> Result<bool> {
        if self.covered || self.waiting(most)? < most {
            return Ok(false);
        }
        let taken = self.take()?;
        if taken {
            self.release()?;
        }
        Ok(!taken)
    }

    /// Ends who holds the lock, and who waits before us to do the same.
    ///
    /// # Errors
    /// They are another user's.
    pub fn end_rivals(&self) -> Result<()> {
        if let (Some(queue), Some(ticket)) = (&self.queue, self.ticket) {
            let replacers = queue.replacers_before(ticket).with_context(|| self.cannot_lock())?;
            rivals::end(&self.lock.file, queue.file(), &replacers).with_context(|| self.cannot_lock())?;
        }
        Ok(())
    }

    /// Whether the files that we have open are still those at their paths.
    /// After a grant: if not, somebody else can lock what is there now.
    pub fn is_current(&self) -> Result<bool> {
        if self.covered {
            return Ok(true);
        }
        let queue = open::identity_at(CWD, &self.queue_path).with_context(|| self.cannot_lock())?;
        let lock = match &self.path {
            None => queue,
            Some(path) => open::identity_of(path).with_context(|| self.cannot_lock())?,
        };
        Ok(queue == Some(self.queue_identity) && lock == Some(self.lock.identity))
    }

    /// What the lock's file says; nobody else's file is made ours.
    ///
    /// # Errors
    /// It says something that lockrun did not write.
    pub fn read_own_text(&self) -> Result<Text> {
        let text = self.read_text();
        if text == Text::Foreign {
            return Err(anyhow!("{}: its content is not lockrun's, and would be overwritten", self.queue_name))
                .context(Advice("use another --name, or --file to lock it as it is"));
        }
        Ok(text)
    }

    fn read_text(&self) -> Text {
        match &self.queue {
            Some(queue) => record::read(queue.file()),
            None if matches!(self.target, Target::Name(_)) => record::read(&self.lock.file),
            None => Text::Empty,
        }
    }

    /// Numbers the grant and writes who we are. The lock is held.
    pub fn settle(&mut self, dir: &Dir, claim: &Claim) -> Result<()> {
        if self.covered {
            return Ok(());
        }
        // Two who share the lock might read the same last number.
        if self.mode != Mode::Exclusive
            && !self.in_door
            && let Some(queue) = &self.queue
        {
            queue.enter_door().with_context(|| self.cannot_lock())?;
        }
        let fence = match self.write_draft() {
            Some(fence) => fence,
            None => {
                let record = self.next_record(dir, claim, SystemTime::now())?;
                self.write(&record.to_text());
                record.fence
            }
        };
        self.fence = Some(fence);
        if let (true, Some(queue)) = (claim.is_token, &self.queue) {
            let us = getpid().as_raw_nonzero().get();
            queue.announce_token(fence, claim.owner, us).with_context(|| self.cannot_lock())?;
            self.token_announced = true;
        }
        Ok(())
    }

    fn write(&self, text: &[u8]) {
        let Some(queue) = &self.queue else { return };
        // A full disk must not keep anybody from locking: the text is a hint,
        // and the clock goes on without it.
        let mut written = queue.file().write_all_at(text, 0);
        if let Some(slot) = self.slot {
            written = written.and(queue.file().write_all_at(text, record::offset_of_slot(slot)));
        }
        if written.is_err() {
            // A limit on the size of files (RLIMIT_FSIZE) must not end COMMAND.
            sys::discard(libc::SIGXFSZ);
        }
    }

    /// The number of the grant, if the text for it was ready.
    fn write_draft(&mut self) -> Option<u64> {
        let mut draft = self.draft.take()?;
        // In a pool, the slot was not known.
        let queue = self.queue.as_ref().filter(|_| self.slot.is_none())?;
        let (fence, text) = record::with_text(queue.file(), 0, |before| draft.fill(before, SystemTime::now()))?;
        self.write(text);
        Some(fence)
    }

    /// The record of a grant to us now.
    fn next_record(&self, dir: &Dir, claim: &Claim, now: SystemTime) -> Result<Record> {
        let text = self.read_own_text()?;
        let clock = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        // Without a record, the file is new: perhaps an older one was pruned.
        let last = text.record();
        let highest = last.as_ref().map_or_else(|| floor::read(dir), |record| record.fence);
        let next =
            highest.checked_add(1).ok_or_else(|| anyhow!("{}: damaged: its fence is used up", self.queue_name))?;
        let fence = clock.max(next);
        let pid = getpid().as_raw_nonzero().get();
        let mut record = Record::new(claim, self.target.name(), fence, pid, now);
        record.slot = self.slot;
        record.shared = self.mode == Mode::Shared;
        record.previous = last.and_then(|last| Some((last.fence, last.ended?)));
        record.slots = match self.mode {
            Mode::Slot { of, .. } => Some(of),
            Mode::Exclusive | Mode::Shared => None,
        };
        Ok(record)
    }

    /// See [`Place::prepare`](crate::lock::Place::prepare).
    pub fn prepare(&mut self, dir: &Dir, claim: &Claim) -> Option<Grant> {
        if !self.covered {
            let now = SystemTime::now();
            let record = self.next_record(dir, claim, now).ok()?;
            self.fence = Some(record.fence);
            self.draft = PreparedRecord::new(&record, claim, now);
        }
        // Which slot of a pool it will be is not known.
        let is_foretold = self.slot.is_some() || !matches!(self.mode, Mode::Slot { .. });
        self.grant().filter(|_| is_foretold)
    }

    /// The number of our grant.
    pub fn fence(&self) -> Option<u64> {
        self.fence
    }

    /// What was granted to us.
    pub fn grant(&self) -> Option<Grant> {
        let fence = self.fence?;
        let strength = Strength::of(self.mode, self.slot);
        Some(Grant {
            name: self.target.name().to_vec(),
            file: self.queue_name.clone(),
            fence,
            slot: self.slot,
            marker: Marker { identity: self.lock.identity, fence, strength }.to_string(),
        })
    }

    /// What a request of this mode comes to, under these markers.
    pub fn judge_markers(&mut self, around: &[Marker], reentrant: bool) -> Nesting {
        self.held_around = nesting::held_around(around, &self.lock.file, self.lock.identity);
        nesting::judge(&self.held_around, self.mode, reentrant)
    }

    /// And under tokens. To be asked only of what could not be taken, or is
    /// shared: anything else that is taken was nobody's.
    pub fn judge_tokens(&self, reentrant: bool) -> Result<Nesting> {
        let Some(queue) = &self.queue else { return Ok(Nesting::Outside) };
        let held = nesting::held_by_tokens(self.lock.identity, queue, self.queue_identity);
        let held = held.with_context(|| self.cannot_lock())?;
        let nothing_new = held.is_empty();
        let all = [&self.held_around[..], &held].concat();
        Ok(if nothing_new { Nesting::Outside } else { nesting::judge(&all, self.mode, reentrant) })
    }

    /// Lets the next in the queue come forward.
    pub fn close_queue(&mut self) {
        match &self.queue {
            // If it fails, they go with us.
            Some(queue) if self.token_announced => {
                let _ = queue.leave_door().and_then(|()| queue.give_tickets_back());
            }
            _ => self.queue = None,
        }
        self.in_door = false;
        self.ticket = None;
    }

    /// What COMMAND inherits.
    pub fn descriptor(&self) -> Option<RawFd> {
        (!self.covered).then(|| self.lock.file.as_raw_fd())
    }

    /// The lock's name, as it was given.
    pub fn name(&self) -> &[u8] {
        self.target.name()
    }

    /// Whether the file at the lock's path is another one by now.
    pub fn is_lost(&self) -> bool {
        let now = match &self.path {
            _ if self.covered => return false,
            None => open::identity_at(CWD, &self.queue_path),
            Some(path) => open::identity_of(path),
        };
        // Where we cannot look, we do not know that it is gone.
        now.is_ok_and(|now| now != Some(self.lock.identity))
    }

    /// How it was lost, as a clause.
    pub fn how_lost(&self) -> String {
        let file = match &self.target {
            Target::Name(_) => format!("its file {}", self.queue_name),
            Target::Path(_) => "the file".into(),
        };
        format!("{file} was removed or replaced while it was held, so others could take it")
    }

    /// Gives the lock back, also from processes that still have it open.
    pub fn release(&self) -> Result<()> {
        if self.covered {
            return Ok(());
        }
        if let (true, Some(queue)) = (self.token_announced, &self.queue) {
            queue.withdraw_token().with_context(|| self.cannot_unlock())?;
        }
        if self.slot.is_some() || self.mode != Mode::Exclusive && self.has_slots() {
            Slots::of(&self.lock.file).give_back().with_context(|| self.cannot_unlock())?;
        }
        fs2::FileExt::unlock(&self.lock.file).with_context(|| self.cannot_unlock())
    }

    fn cannot_unlock(&self) -> String {
        format!("cannot unlock {}", printable_path(&self.target, &self.queue_name))
    }

    /// Changes the record of our grant where it is still there: as the last
    /// one, and as that of its slot.
    pub fn amend(&self, dir: &Dir, change: &dyn Fn(&mut Record)) {
        let Ok(Some(opened)) = open::existing_lock_file(dir, &self.queue_name) else { return };
        if opened.identity != self.queue_identity {
            return;
        }
        for offset in [Some(0), self.slot.map(record::offset_of_slot)].into_iter().flatten() {
            let record = record::read_at(&opened.file, offset).record();
            if let Some(mut record) = record.filter(|record| Some(record.fence) == self.fence) {
                change(&mut record);
                let _ = opened.file.write_all_at(&record.to_text(), offset);
            }
        }
    }

    /// What was tried when something fails.
    pub fn cannot_lock(&self) -> String {
        format!("cannot lock {}", printable_path(&self.target, &self.queue_name))
    }
}

fn printable_path(target: &Target, queue_name: &str) -> String {
    match target {
        Target::Name(_) => queue_name.to_owned(),
        Target::Path(path) => path.display().to_string(),
    }
}

/// How long `--timeout 0` waits for somebody who is in the door; nobody is
/// there that long who was not stopped.
const DOOR_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Repeats a call that sleeps in the kernel until it succeeds or the time is
/// over (`false`). The signals that the caller had not blocked end us, as
/// they would end any program that has nothing to clean up; those that stop
/// wait: others might be waiting at a door of ours.
fn interruptibly(
    patience: &Patience,
    limit: Option<std::time::Duration>,
    mut call: impl FnMut() -> io::Result<()>,
) -> io::Result<bool> {
    let deadline = limit.and_then(|limit| std::time::Instant::now().checked_add(limit));
    let _interrupter = sys::Interrupter::new(limit, &[], &patience.mask.and(&sys::STOPPING))?;
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                if deadline.is_some_and(|deadline| deadline <= std::time::Instant::now()) {
                    return Ok(false);
                }
            }
            other => return other.map(|()| true),
        }
    }
}
