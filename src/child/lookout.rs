//! A process that shows a wait while this one sleeps in the kernel.
//!
//! A wait on the caller's own open file must end with us, because a killed process must
//! not get the lock afterwards. So we wait ourselves instead of a child, and an
//! interruption would cost us our place in the kernel's queue. The child has only the
//! clock and the terminal.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::Watch;
use crate::sys::{self, Arrived, Forked};

/// Limit for clearing what it showed.
const HIDING: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_micros(50);

/// The process. Dropping this ends it and clears what it showed.
pub struct Lookout {
    child: Pid,
}

impl Lookout {
    /// Starts a process that calls `watch`, with stderr and `keep` as its only
    /// descriptors, so that it keeps nothing open that is closed here. It dies with us.
    pub fn start(keep: &[BorrowedFd<'_>], mut watch: impl Watch) -> io::Result<Self> {
        let parent = getpid();
        if let Forked::Parent(child) = sys::fork()? {
            return Ok(Self { child });
        }
        sys::end_with(parent);
        sys::block_all();
        sys::become_waiter();
        sys::close_all_but(&[&[rustix::stdio::stderr()], keep].concat());
        loop {
            let limit = watch.look().map(|at| at.saturating_duration_since(Instant::now()));
            if let Arrived::Signal { number: libc::SIGTERM, sender, .. } = sys::next_signal(limit)
                && [0, parent.as_raw_nonzero().get()].contains(&sender)
            {
                watch.hide();
                sys::exit_now(0);
            }
        }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        if sys::send(self.child, libc::SIGTERM).is_ok() {
            let until = Instant::now() + HIDING;
            while !sys::has_ended(self.child) && Instant::now() < until {
                sys::nap(LOOK);
            }
        }
        // It was stopped, or a sandbox forbids kill(2). It dies with us in any case.
        sys::end_child(self.child);
        let _ = waitpid(Some(self.child), WaitOptions::NOHANG);
    }
}
