//! One process that is to release a lock.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::kernel::Locker;
use crate::advice::Advice;
use crate::process;
use crate::sys::{self, LetGo};

/// A process that has the lock, or waits for it.
pub struct Rival {
    pub pid: i32,
    /// Its pidfd, which is safe from reuse of the number.
    pub process: OwnedFd,
    pub kind: Kind,
    /// The grants by which it has the lock.
    pub grants: Vec<Locker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A lockrun that took the lock, waits for it, or watches a waiter. It ends its
    /// command and everything it started, and reports who asked.
    Lockrun,
    /// Any other holder: flock(1), COMMAND of a killed lockrun, or of `--exec`.
    Other,
    /// Another user's: only its number is visible.
    Unseen,
}

impl Rival {
    /// Opens the pidfd, then checks that the process is a rival.
    pub fn find(pid: i32, look: impl FnOnce() -> Option<(Kind, Vec<Locker>)>) -> Result<Option<Self>> {
        let Some(process) = process::open(pid)? else { return Ok(None) };
        Ok(look().map(|(kind, grants)| Self { pid, process, kind, grants }))
    }

    /// Asks it to release the lock.
    pub fn ask(&self, what: LetGo) -> Result<()> {
        self.sent(sys::ask_to_let_go(&self.process, what))
    }

    /// Sends a signal. A process that has ended is no error.
    /// Errors: it belongs to another user.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let is_unseen = self.kind == Kind::Unseen;
        self.sent(if is_unseen { Err(Errno::PERM) } else { sys::send_by_pidfd(&self.process, signal) })
    }

    fn sent(&self, sent: rustix::io::Result<()>) -> Result<()> {
        let is_ours = || geteuid().is_root() || process::user_id(self.pid) == Some(geteuid().as_raw());
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM) if self.kind == Kind::Unseen || !is_ours() => {
                Err(anyhow!("pid {} belongs to another user, so we cannot end it", self.pid))
                    .context(Advice::new("ask that user, or root"))
            }
            Err(e) => Err(process::cannot_signal(e)).with_context(|| format!("cannot end pid {}", self.pid)),
        }
    }
}

/// Checks that we may signal all of them.
/// Errors: permission is missing for one.
pub fn require_ours(rivals: &[Rival]) -> Result<()> {
    const NOTHING: i32 = 0;
    rivals.iter().try_for_each(|rival| rival.signal(NOTHING))
}

/// Sleeps until all of them have ended, at most `limit`.
pub fn wait_for_all(rivals: &[Rival], limit: Duration) {
    let deadline = Instant::now() + limit;
    for rival in rivals {
        process::wait_for_end(&rival.process, deadline.saturating_duration_since(Instant::now()));
    }
}
