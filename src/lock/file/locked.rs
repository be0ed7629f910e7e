//! One lock from the first try to its release: contender, waiter, holder.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use rustix::process::getpid;

use super::dir::Advice;
use super::open::{self, Identity, Opened};
use super::queue::{Queue, Ticket};
use super::{Dir, Target, floor};
use crate::lock::{Grant, Held, Lost, Mode, Patience, Place, Turn};
use crate::name;
use crate::record::{self, Claim, Record, Text};
use crate::sys;

/// A lock's files, open, and how far we have come with them.
pub struct Contender {
    target: Target,
    mode: Mode,
    /// The file that is locked.
    lock: Opened,
    /// Its queue; `None` on a read-only file system, where only the kernel
    /// knows an order.
    queue: Option<Queue>,
    /// Name of the file in DIR that holds queue and text.
    queue_name: String,
    queue_identity: Identity,
    in_door: bool,
    ticket: Option<Ticket>,
    /// The number of our grant.
    fence: Option<u64>,
}

impl Contender {
    /// Opens a target's files.
    ///
    /// # Errors
    /// See [`open::lock_file`] and [`open::user_file`].
    pub fn open(dir: &Dir, target: &Target, mode: Mode) -> Result<Self> {
        let (lock, queue_name) = match target {
            Target::Name(name) => {
                let file_name = name::stem(name) + ".lock";
                (open::lock_file(dir, &file_name)?, file_name)
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
            lock,
            queue: queue.writable.then(|| Queue::on(queue.file)),
            queue_name,
            queue_identity: queue.identity,
            in_door: false,
            ticket: None,
            fence: None,
        })
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
        if let Some(queue) = &self.queue
            && queue.somebody_waits(self.mode).with_context(|| self.cannot_lock())?
        {
            return Ok(false);
        }
        let mut result = self.try_flock();
        if let (Err(e), Target::Path(path)) = (&result, &self.target)
            && e.raw_os_error() == Some(libc::EBADF)
        {
            self.lock.file = open::user_file_for_writing(path)?;
            result = self.try_flock();
        }
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e).with_context(|| self.cannot_lock()),
        }
    }

    /// Joins the queue. Only under the door.
    pub fn draw_ticket(&mut self) -> Result<()> {
        if let Some(queue) = &self.queue {
            let pid = getpid().as_raw_nonzero().get();
            self.ticket = Some(queue.draw_ticket(self.mode, pid).with_context(|| self.cannot_lock())?);
        }
        Ok(())
    }

    /// Whether the files that we have open are still those at their paths.
    /// After a grant: if not, somebody else can lock what is there now.
    pub fn is_current(&self, dir: &Dir) -> Result<bool> {
        let queue = open::identity_at(dir, &self.queue_name).with_context(|| self.cannot_lock())?;
        let lock = match &self.target {
            Target::Name(_) => queue,
            Target::Path(path) => open::identity_of(path).with_context(|| self.cannot_lock())?,
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
    fn settle(&mut self, dir: &Dir, claim: &Claim) -> Result<Grant> {
        // Two who share the lock might read the same last number.
        if self.mode == Mode::Shared
            && !self.in_door
            && let Some(queue) = &self.queue
        {
            queue.enter_door().with_context(|| self.cannot_lock())?;
        }
        let text = self.read_own_text()?;
        let now = SystemTime::now();
        let clock = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        // Without a record, the file is new: perhaps an older one was pruned.
        let last = text.record().map_or_else(|| floor::read(dir), |record| record.fence);
        let next = last.checked_add(1).ok_or_else(|| anyhow!("{}: damaged: its fence is used up", self.queue_name))?;
        let fence = clock.max(next);
        if let Some(queue) = &self.queue {
            let pid = getpid().as_raw_nonzero().get();
            let record = Record::new(claim, self.target.name(), fence, pid, now);
            // A full disk must not keep anybody from locking: the text is a
            // hint, and the clock goes on without it.
            let _ = queue.file().write_all_at(&record.to_text(), 0);
        }
        self.fence = Some(fence);
        Ok(Grant { name: self.target.name().to_vec(), file: self.queue_name.clone(), fence })
    }

    /// Changes the record of our grant, if it is still there.
    fn amend(&self, dir: &Dir, change: &dyn Fn(&mut Record)) {
        let Ok(opened) = open::lock_file(dir, &self.queue_name) else { return };
        if opened.identity != self.queue_identity {
            return;
        }
        let Some(mut record) = record::read(&opened.file).record() else { return };
        if Some(record.fence) == self.fence {
            change(&mut record);
            let _ = opened.file.write_all_at(&record.to_text(), 0);
        }
    }

    fn try_flock(&self) -> io::Result<()> {
        match self.mode {
            Mode::Exclusive => fs2::FileExt::try_lock_exclusive(&self.lock.file),
            Mode::Shared => fs2::FileExt::try_lock_shared(&self.lock.file),
        }
    }

    fn flock(&self) -> io::Result<()> {
        match self.mode {
            Mode::Exclusive => fs2::FileExt::lock_exclusive(&self.lock.file),
            Mode::Shared => fs2::FileExt::lock_shared(&self.lock.file),
        }
    }

    fn cannot_lock(&self) -> String {
        match &self.target {
            Target::Name(_) => format!("cannot lock {}", self.queue_name),
            Target::Path(path) => format!("cannot lock {}", path.display()),
        }
    }
}

/// How long `--timeout 0` waits for somebody who is in the door; nobody is
/// there that long who was not stopped.
const DOOR_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Repeats a call that sleeps in the kernel until it succeeds or the time is
/// over (`false`). The signals that the caller had not blocked end us, as
/// they would end any program that has nothing to clean up.
fn interruptibly(
    patience: &Patience,
    limit: Option<std::time::Duration>,
    mut call: impl FnMut() -> io::Result<()>,
) -> io::Result<bool> {
    let deadline = limit.and_then(|limit| std::time::Instant::now().checked_add(limit));
    let before = sys::restore(&patience.mask);
    let timer = limit.map(|limit| sys::Interrupter::new(Some(limit), &[])).transpose()?;
    let result = loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                if deadline.is_some_and(|deadline| deadline <= std::time::Instant::now()) {
                    break Ok(false);
                }
            }
            other => break other.map(|()| true),
        }
    };
    // In this order: no signal of the timer may stay behind, pending.
    drop(timer);
    sys::restore(&before);
    result
}

/// A place in the queue of one lock of a set; those before it are held, those
/// after it still have to be asked for.
pub struct FilePlace {
    dir: Dir,
    contenders: Vec<Contender>,
    /// The one that we wait for.
    at: usize,
}

impl FilePlace {
    pub(super) fn new(dir: Dir, contenders: Vec<Contender>, at: usize) -> Self {
        Self { dir, contenders, at }
    }

    fn wait_for_this(&mut self) -> io::Result<()> {
        let contender = &self.contenders[self.at];
        if let (Some(queue), Some(ticket)) = (&contender.queue, contender.ticket) {
            queue.wait_for_turn(ticket, contender.mode)?;
        }
        contender.flock()
    }
}

impl Place for FilePlace {
    type Held = FileHeld;

    fn wait(&mut self, patience: &Patience) -> Result<Turn> {
        loop {
            match self.wait_for_this() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    if patience.is_over() {
                        return Ok(Turn::TimedOut);
                    }
                    continue;
                }
                Err(e) => return Err(e).with_context(|| self.contenders[self.at].cannot_lock()),
            }
            // Those after this one, as a newcomer would take them.
            loop {
                if !self.contenders[self.at].is_current(&self.dir)? {
                    return Ok(Turn::Again);
                }
                self.at += 1;
                let Some(next) = self.contenders.get_mut(self.at) else { return Ok(Turn::Granted) };
                if !next.enter_door(patience)? {
                    return Ok(Turn::TimedOut);
                }
                let taken = next.take()?;
                if !taken {
                    next.draw_ticket()?;
                }
                next.leave_door()?;
                if !taken {
                    break;
                }
            }
        }
    }

    fn leave_to_child(&mut self) {
        for contender in &mut self.contenders {
            contender.queue = None;
        }
    }

    fn into_held(self) -> FileHeld {
        FileHeld::new(self.dir, self.contenders)
    }
}

/// A granted set of locks.
pub struct FileHeld {
    dir: Dir,
    contenders: Vec<Contender>,
}

impl FileHeld {
    pub(super) fn new(dir: Dir, contenders: Vec<Contender>) -> Self {
        Self { dir, contenders }
    }
}

impl Held for FileHeld {
    fn settle(&mut self, claim: &Claim) -> Result<Vec<Grant>> {
        self.contenders.iter_mut().map(|contender| contender.settle(&self.dir, claim)).collect()
    }

    fn step_aside(&mut self) {
        for contender in &mut self.contenders {
            contender.queue = None;
        }
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.contenders.iter().map(|contender| contender.lock.file.as_raw_fd()).collect()
    }

    fn amend(&self, change: &dyn Fn(&mut Record)) {
        for contender in &self.contenders {
            contender.amend(&self.dir, change);
        }
    }

    fn lost(&self) -> Option<Lost> {
        let gone = |contender: &&Contender| {
            let now = match &contender.target {
                Target::Name(_) => open::identity_at(&self.dir, &contender.queue_name),
                Target::Path(path) => open::identity_of(path),
            };
            // Where we cannot look, we do not know that it is gone.
            now.is_ok_and(|now| now != Some(contender.lock.identity))
        };
        let contender = self.contenders.iter().find(gone)?;
        Some(Lost { name: contender.target.name().to_vec(), how: contender.removed() })
    }

    fn release(&mut self) -> Result<()> {
        for contender in self.contenders.iter().rev() {
            fs2::FileExt::unlock(&contender.lock.file)
                .with_context(|| format!("cannot unlock {}", contender.path(&self.dir).display()))?;
        }
        Ok(())
    }
}

impl Contender {
    fn path(&self, dir: &Dir) -> PathBuf {
        match &self.target {
            Target::Name(_) => dir.path().join(&self.queue_name),
            Target::Path(path) => path.clone(),
        }
    }

    fn removed(&self) -> String {
        let file = match &self.target {
            Target::Name(_) => format!("its file {}", self.queue_name),
            Target::Path(_) => "the file".into(),
        };
        format!("{file} was removed or replaced while it was held, so others could take it")
    }
}
