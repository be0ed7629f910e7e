//! The child's side of a wait: see [`Waiter`](super::Waiter).

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use anyhow::Result;
use rustix::process::set_parent_process_death_signal;
use rustix::thread::futex::{self, Timespec};

use super::outcome::{AGAIN, GRANTED, REFUSALS, REFUSED, SHOWN, STARTING, SharedOutcome, WAITING};
use crate::lock::{NotGranted, Waited};
use crate::sys::{self, Exec};

/// A parent that was stopped does not clear its line; COMMAND does not wait
/// longer for that.
const CLEARED_AT_LAST: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The child's view, once the lock is granted.
pub struct WaitingChild<'a> {
    pub(super) outcome: &'a SharedOutcome,
    /// Until we let go of the parent. In its memory there is none: the parent is
    /// not woken, and the kernel closes our copy.
    pub(super) event: Cell<Option<OwnedFd>>,
    pub(super) notify: bool,
    pub(super) lives_with_parent: bool,
}

impl WaitingChild<'_> {
    /// Remembers the grant's number for the parent.
    pub fn set_fence(&self, fence: u64) {
        self.outcome.fence.store(fence, Ordering::Relaxed);
    }

    /// To be called last before this process becomes something else: from
    /// now on it lives on when the parent is killed. Does not return if the
    /// parent has given up.
    pub fn let_go_of_parent(&self) {
        if !self.outcome.change(GRANTED, STARTING) {
            sys::exit_now(0);
        }
        if let Some(event) = self.event.take()
            && self.notify
        {
            let _ = rustix::io::write(&event, &1_u64.to_ne_bytes());
            if self.outcome.line.load(Ordering::SeqCst) == SHOWN {
                let _ = futex::wait(&self.outcome.line, futex::Flags::empty(), SHOWN, Some(&CLEARED_AT_LAST));
            }
        }
        let _ = set_parent_process_death_signal(None);
    }

    /// Becomes COMMAND. Returns only if that failed, with `errno`.
    pub fn exec(&self, exec: &Exec) -> i32 {
        if self.lives_with_parent { exec.exec_without_a_stop() } else { exec.exec() }
    }

    /// COMMAND could not be executed.
    pub fn exec_failed(&self, errno: i32) -> ! {
        self.outcome.exec_errno.store(errno, Ordering::SeqCst);
        sys::exit_now(127)
    }

    /// Something else went wrong.
    pub fn failed(&self, error: &anyhow::Error) -> ! {
        self.outcome.fail(error)
    }
}

/// What the child does.
pub(super) fn live<H>(
    granted: WaitingChild,
    wait: impl FnOnce() -> Result<Waited<H>>,
    then: impl FnOnce(H, &WaitingChild),
) -> ! {
    let outcome = granted.outcome;
    sys::become_waiter();
    // So that its page is there before somebody waits for us.
    outcome.granted_at.store(0, Ordering::Relaxed);
    let held = match wait() {
        Ok(Ok(held)) => held,
        Ok(Err(NotGranted::Refused(refusal))) => {
            outcome.end(REFUSALS.iter().zip(REFUSED..).find(|(known, _)| **known == refusal).map_or(AGAIN, |(_, s)| s))
        }
        Ok(Err(_)) => outcome.end(AGAIN),
        Err(error) => outcome.fail(&error),
    };
    outcome.granted_at.store(sys::suspend_aware_now().as_nanos() as u64, Ordering::Relaxed);
    sys::keep_the_floor();
    if !outcome.change(WAITING, GRANTED) {
        sys::exit_now(0);
    }
    then(held, &granted);
    sys::exit_now(0)
}
