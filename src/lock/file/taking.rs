//! Taking one lock: door, ticket, flock(2), slot.
//!
//! [The engine](super) has the rules. All of these are kernel locks on [`Files`], so
//! nothing remains after a kill.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::getpid;

use super::files::Files;
use super::lanes::Ticket;
use super::slots::Slots;
use super::{descriptor, rivals};
use crate::lock::{Mode, Patience};
use crate::sys;

/// How long `--timeout 0` waits at the door. Only a stopped process keeps it longer.
const DOOR_LIMIT: Duration = Duration::from_secs(1);

/// Progress with one lock.
pub struct Taking {
    mode: Mode,
    in_door: bool,
    ticket: Option<Ticket>,
    slot: Option<u32>,
    /// The process that called flock(2).
    locker: Option<i32>,
}

impl Taking {
    pub fn new(mode: Mode) -> Self {
        Self { mode, in_door: false, ticket: None, slot: None, locker: None }
    }

    /// For a process that shares our memory.
    pub fn of_cohabitant(&self) -> Self {
        Self { ..*self }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn slot(&self) -> Option<u32> {
        self.slot
    }

    /// The process that the kernel shows as the locker: in a set that had to wait, our
    /// parent for some of the locks. Before the grant, this process.
    pub fn locker(&self) -> i32 {
        self.locker.unwrap_or_else(us)
    }

    pub fn cover(&mut self, slot: Option<u32>) {
        self.slot = slot;
    }

    /// Enters the door, usually at once; `false` if the time is over first.
    pub fn enter_door(&mut self, files: &Files, patience: &Patience) -> Result<bool> {
        let Some(queue) = files.queue() else { return Ok(true) };
        if !queue.try_enter_door().with_context(|| files.cannot_lock())? {
            // Its holder leaves within microseconds, unless SIGSTOP stopped it there.
            let limit = if patience.waits() { patience.left() } else { Some(DOOR_LIMIT) };
            if !interruptibly(patience, limit, || queue.enter_door()).with_context(|| files.cannot_lock())? {
                return Ok(false);
            }
        }
        self.in_door = true;
        Ok(true)
    }

    pub fn leave_door(&mut self, files: &Files) -> Result<()> {
        if let Some(queue) = files.queue().filter(|_| self.in_door) {
            queue.leave_door().with_context(|| files.cannot_lock())?;
        }
        self.in_door = false;
        Ok(())
    }

    /// Takes the lock if that overtakes no waiter; `false` if it has to be waited for.
    /// Only under the door.
    pub fn take(&mut self, files: &mut Files) -> Result<bool> {
        self.try_take(files).map_err(|error| files.lock_failed(error))
    }

    fn try_take(&mut self, files: &mut Files) -> io::Result<bool> {
        if let Some(queue) = files.queue()
            && queue.somebody_waits(self.mode)?
        {
            return Ok(false);
        }
        // Slots first: looking at them disturbs no other process.
        match self.mode {
            Mode::Shared if files.has_slots() && Slots::of(files.lock()).any_is_held()? => return Ok(false),
            Mode::Slot { .. } => {
                self.slot = self.free_slot(files)?;
                if self.slot.is_none() {
                    return Ok(false);
                }
            }
            _ => {}
        }
        if !self.try_flock(files)? {
            return Ok(false);
        }
        let slots = Slots::of(files.lock());
        let taken = match (self.mode, self.slot) {
            (Mode::Shared, _) if files.has_slots() => slots.try_share_all()?,
            (Mode::Slot { .. }, Some(slot)) => slots.try_take(slot)?,
            _ => true,
        };
        // Possible only without a door: another process took it in between.
        if !taken {
            fs2::FileExt::unlock(files.lock())?;
        }
        Ok(taken)
    }

    fn free_slot(&self, files: &Files) -> io::Result<Option<u32>> {
        let slots = Slots::of(files.lock());
        let Mode::Slot { of, which } = self.mode else { return Ok(None) };
        match (which, files.queue()) {
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

    fn try_flock(&mut self, files: &mut Files) -> io::Result<bool> {
        let try_once = |files: &Files| match self.mode {
            Mode::Exclusive => fs2::FileExt::try_lock_exclusive(files.lock()),
            Mode::Shared | Mode::Slot { .. } => fs2::FileExt::try_lock_shared(files.lock()),
        };
        let mut result = try_once(files);
        if result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EBADF)) {
            files.reopen_for_writing()?;
            result = try_once(files);
        }
        match result {
            Ok(()) => {
                self.locker = Some(us());
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Downgrades the lock on the caller's description, if it is requested shared.
    /// Errors: `ENOLCK`.
    pub fn make_weaker(&self, files: &Files) -> Result<bool> {
        if self.mode != Mode::Shared {
            return Ok(false);
        }
        match rustix::fs::flock(files.lock(), FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(files.lock_failed(e.into())),
        }
    }

    /// Sleeps until the lock is ours: first on the lower tickets, then on the lock
    /// itself.
    /// Errors: `EINTR`, when a timer or a signal came; may be called again.
    pub fn wait(&mut self, files: &Files) -> io::Result<()> {
        if let (Some(queue), Some(ticket)) = (files.queue(), self.ticket) {
            queue.wait_for_turn(ticket, self.mode)?;
        }
        let operation = match self.mode {
            Mode::Exclusive => FlockOperation::LockExclusive,
            Mode::Shared | Mode::Slot { .. } => FlockOperation::LockShared,
        };
        let slots = Slots::of(files.lock());
        let waits_for_slots = self.mode != Mode::Exclusive && files.has_slots();
        if waits_for_slots {
            slots.mark_as_waiting()?;
        }
        // fs2 writes to errno, which a child that shares our memory also uses.
        sys::asleep(|| rustix::fs::flock(files.lock(), operation))?;
        self.locker = Some(us());
        match (self.mode, files.queue(), self.ticket) {
            (Mode::Shared, ..) if files.has_slots() => slots.share_all()?,
            (Mode::Slot { which: Some(slot), .. }, ..) => {
                slots.take(slot)?;
                self.slot = Some(slot);
            }
            (Mode::Slot { which: None, of }, Some(queue), Some(ticket)) => {
                self.slot = Some(slots.take_any(of, queue, ticket)?);
            }
            _ => {}
        }
        if waits_for_slots {
            slots.mark_as_held()?;
        }
        Ok(())
    }

    /// Joins the queue. Only under the door.
    pub fn draw_ticket(&mut self, files: &Files, will_replace: bool) -> Result<()> {
        self.locker = None;
        if let Some(queue) = files.queue() {
            let ticket = queue.draw_ticket(self.mode, us()).with_context(|| files.cannot_lock())?;
            if will_replace {
                queue.mark_as_replacer(ticket).with_context(|| files.cannot_lock())?;
            }
            self.ticket = Some(ticket);
        }
        Ok(())
    }

    /// Leaves this queue: we have the lock, and wait for another of the set.
    pub fn give_ticket_back(&mut self, files: &Files) {
        if let (Some(queue), Some(_)) = (files.queue(), self.ticket.take()) {
            // If it fails, the ticket ends with this process.
            let _ = queue.give_tickets_back();
        }
    }

    /// Door and ticket ended with the queue's description.
    pub fn queue_closed(&mut self) {
        self.in_door = false;
        self.ticket = None;
    }

    /// Whether we would have to wait although `most` are waiting, not counting waiters
    /// with --replace. Only under the door.
    pub fn would_wait_with(&mut self, files: &mut Files, most: usize) -> Result<bool> {
        let waiting = files.queue().map_or(Ok(0), |queue| queue.waiting_patiently(most));
        if waiting.with_context(|| files.cannot_lock())? < most {
            return Ok(false);
        }
        let taken = self.take(files)?;
        if taken {
            self.release(files)?;
        }
        Ok(!taken)
    }

    /// Ends the holders, and earlier waiters with --replace.
    /// Errors: one of them belongs to another user.
    pub fn end_rivals(&self, files: &Files) -> Result<()> {
        if let (Some(queue), Some(ticket)) = (files.queue(), self.ticket) {
            // Trying the lock on the caller's description would succeed if a process
            // that shares it has it.
            let again = files.are_callers().then(|| descriptor::open_again(files.lock()).ok()).flatten();
            let lock = again.as_ref().unwrap_or(files.lock());
            let ended = rivals::end(lock, queue, ticket).context("cannot end its holder");
            ended.with_context(|| files.cannot_lock())?;
        }
        Ok(())
    }

    /// Releases the lock, also for processes that still have it open.
    pub fn release(&self, files: &Files) -> Result<()> {
        if self.slot.is_some() || self.mode != Mode::Exclusive && files.has_slots() {
            Slots::of(files.lock()).give_back().with_context(|| files.cannot_unlock())?;
        }
        fs2::FileExt::unlock(files.lock()).with_context(|| files.cannot_unlock())
    }
}

fn us() -> i32 {
    getpid().as_raw_nonzero().get()
}

/// Repeats a call that sleeps in the kernel until it succeeds or the time is over
/// (`false`). Signals that the caller had not blocked end us, as there is nothing to
/// clean up. Signals that stop us are deferred: others may be waiting at our door.
fn interruptibly(
    patience: &Patience,
    limit: Option<Duration>,
    mut call: impl FnMut() -> io::Result<()>,
) -> io::Result<bool> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let _interrupter = sys::Interrupter::new(limit, &[], &patience.mask.and(&sys::STOPPING))?;
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                if sys::has_caught() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    return Ok(false);
                }
            }
            other => return other.map(|()| true),
        }
    }
}
