//! One process that is to let go of a lock, and how it is asked to.

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
    /// Its number.
    pub pid: i32,
    /// The process itself, and not one that gets its number later.
    pub process: OwnedFd,
    /// How it is asked.
    pub kind: Kind,
    /// By which grants it has the lock.
    pub grants: Vec<Locker>,
}

/// What kind of process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A lockrun that took the lock, or waits for it, or watches one that does.
    /// It ends its command and all that this started, and says by whom.
    Lockrun,
    /// Anybody else who has the lock: flock(1), COMMAND of a lockrun that was
    /// killed, or of `--exec`.
    Other,
    /// Another user's: all that we are shown is its number, beside the lock.
    Unseen,
}

impl Rival {
    /// The process, if what makes it one still holds when we cannot mistake
    /// it any more.
    pub fn find(pid: i32, look: impl FnOnce() -> Option<(Kind, Vec<Locker>)>) -> Result<Option<Self>> {
        let Some(process) = process::open(pid)? else { return Ok(None) };
        Ok(look().map(|(kind, grants)| Self { pid, process, kind, grants }))
    }

    /// Asks it to let go.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub fn ask(&self, what: LetGo) -> Result<()> {
        self.sent(sys::ask_to_let_go(&self.process, what))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is another user's. That it has ended is none.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let is_unseen = self.kind == Kind::Unseen;
        self.sent(if is_unseen { Err(Errno::PERM) } else { sys::send_by_pidfd(&self.process, signal) })
    }

    fn sent(&self, sent: rustix::io::Result<()>) -> Result<()> {
        let is_ours = || geteuid().is_root() || process::user_id(self.pid) == Some(geteuid().as_raw());
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM) if self.kind == Kind::Unseen || !is_ours() => {
                Err(anyhow!("pid {} belongs to another user, and cannot be ended by us", self.pid))
                    .context(Advice::new("ask that user, or root"))
            }
            Err(e) => Err(process::cannot_signal(e)).with_context(|| format!("cannot end pid {}", self.pid)),
        }
    }
}

/// Whether all of them may be signalled by us.
///
/// # Errors
/// One of them may not be signalled by us.
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
