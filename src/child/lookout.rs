//! A process that shows a wait while this one sleeps in the kernel.
//!
//! A wait on our caller's own description must end with us: what is killed gets
//! no lock afterwards. So no child waits for it; we do, and any interruption
//! would cost us our place in the kernel's queue. A child has the clock and the
//! terminal instead, and nothing else.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::Watch;
use crate::sys::{self, Arrived, Forked};

/// The process. It ends when this is dropped, and what it showed has vanished
/// then.
pub struct Lookout {
    child: Pid,
}

impl Lookout {
    /// Starts a process that calls `watch`, with stderr and the descriptors
    /// `keep` alone: whatever else is open here can be closed here.
    ///
    /// # Errors
    /// `EAGAIN` (process limit), `ENOMEM`.
    ///
    /// # Crash
    /// If we are killed, so is the process.
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
        let _ = sys::send(self.child, libc::SIGTERM);
        let _ = waitpid(Some(self.child), WaitOptions::empty());
    }
}
