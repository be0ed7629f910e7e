//! The child's side of a wait: see [`Waiter`](super::Waiter).

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use anyhow::{Result, anyhow};
use rustix::process::set_parent_process_death_signal;
use rustix::thread::futex::{self, Timespec};

use super::outcome::{AGAIN, GRANTED, REFUSALS, REFUSED, SHOWN, STARTING, SharedOutcome, WAITING};
use crate::lock::{NotGranted, Waited};
use crate::sys::{self, Exec};

/// COMMAND waits no longer than this for a parent to clear its line: it may have been
/// stopped.
const CLEARED_AT_LAST: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The child's side, once the lock is granted.
pub struct WaitingChild<'a> {
    pub(super) outcome: &'a SharedOutcome,
    /// Present until we let go of the parent; never in the parent's memory, where it is
    /// not woken and the kernel closes our copy.
    pub(super) event: Cell<Option<OwnedFd>>,
    pub(super) notify: bool,
    pub(super) lives_with_parent: bool,
}

impl WaitingChild<'_> {
    pub fn set_fence(&self, fence: u64) {
        self.outcome.fence.store(fence, Ordering::Relaxed);
    }

    /// The last step before this process becomes something else: from now on it
    /// survives its parent. Does not return if the parent has given up.
    pub fn let_go_of_parent(&self) {
        if let Err(error) = set_parent_process_death_signal(None) {
            self.failed(&anyhow!(error).context("cannot outlive the process that watches the lock"));
        }
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
    }

    /// Becomes COMMAND. Returns only on failure, with `errno`.
    pub fn exec(&self, exec: &Exec) -> i32 {
        if self.lives_with_parent { exec.exec_without_a_stop() } else { exec.exec() }
    }

    /// Ends, because COMMAND could not be executed.
    pub fn exec_failed(&self, errno: i32) -> ! {
        self.outcome.exec_errno.store(errno, Ordering::SeqCst);
        sys::exit_now(if errno == libc::ENOENT { 127 } else { 126 })
    }

    /// Ends with any other error.
    pub fn failed(&self, error: &anyhow::Error) -> ! {
        self.outcome.fail(error)
    }
}

pub(super) fn live<H>(
    granted: WaitingChild,
    wait: impl FnOnce() -> Result<Waited<H>>,
    then: impl FnOnce(H, &WaitingChild),
) -> ! {
    let outcome = granted.outcome;
    sys::become_waiter();
    // Touches the page now, not during the hand-over.
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
    sys::keep_the_baton();
    if !outcome.change(WAITING, GRANTED) {
        sys::exit_now(0);
    }
    then(held, &granted);
    sys::exit_now(0)
}
