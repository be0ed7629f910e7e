//! Making others let go: those who hold a lock, and those who wait to end the
//! holder themselves.
//!
//! A process is signalled only if the kernel shows, after we have a
//! descriptor of the process, that it has the lock, or the ticket, now. A pid
//! from a text is never used.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, set_parent_process_death_signal};

use super::dir::Advice;
use super::holders;
use crate::process;
use crate::sys::{self, Forked};

/// A holder without a lockrun around it gets so long from TERM to KILL.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// A process that has the lock, or waits for it.
pub struct Rival {
    pid: i32,
    process: OwnedFd,
    /// A lockrun, which ends its command by itself when it is asked to, and
    /// says by whom.
    is_lockrun: bool,
}

/// Ends who holds `lock`, and those of `replacers` who wait on `queue`.
///
/// # Errors
/// One of them is another user's; those that are ours have been signalled.
pub fn end(lock: &File, queue: &File, replacers: &[i32]) -> Result<()> {
    let waiting = replacers.iter().filter_map(|pid| Rival::find(*pid, || has_ticket(*pid, queue)));
    let waiting: Vec<Rival> = waiting.filter(|rival| rival.is_lockrun).collect();
    let holding = holding(lock);
    for rival in &waiting {
        rival.signal(sys::REPLACE())?;
    }
    if ask(&holding, sys::REPLACE())? { Ok(()) } else { end_by_force(lock, holding) }
}

/// Asks those of the holders to end who are a lockrun; `false` if none is.
/// One that runs under another one, and has only inherited the lock, is ended
/// by that.
///
/// # Errors
/// They are another user's.
pub fn ask(holding: &[Rival], signal: i32) -> Result<bool> {
    let lockruns: Vec<&Rival> = holding.iter().filter(|rival| rival.is_lockrun).collect();
    let outermost = lockruns.iter().filter(|rival| {
        !process::ancestors(rival.pid).any(|ancestor| lockruns.iter().any(|other| other.pid == ancestor))
    });
    let mut asked = false;
    for rival in outermost {
        rival.signal(signal)?;
        asked = true;
    }
    Ok(asked)
}

/// Everybody who has the lock on this file. We do not count, nor do those who
/// have the file open without holding it.
pub fn holding(lock: &File) -> Vec<Rival> {
    let Some(file_id) = holders::file_id(lock) else { return Vec::new() };
    let pids = holders::with_lock(&file_id, "FLOCK");
    pids.into_iter().filter_map(|pid| Rival::find(pid, || holders::with_lock_in(pid, &file_id, "FLOCK"))).collect()
}

fn has_ticket(pid: i32, queue: &File) -> bool {
    // The wrapper leaves the ticket to the child that waits in it.
    let Some(file_id) = holders::file_id(queue) else { return false };
    holders::with_lock_in(pid, &file_id, "OFDLCK")
        || process::children(pid).into_iter().any(|child| holders::with_lock_in(child, &file_id, "OFDLCK"))
}

impl Rival {
    /// The process, if what makes it one still holds when we cannot mistake
    /// it any more.
    fn find(pid: i32, is_one: impl Fn() -> bool) -> Option<Self> {
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        is_one().then(|| Self { pid, process, is_lockrun: is_lockrun(pid) })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is another user's. That it has ended is none.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match sys::send_by_pidfd(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM) => Err(anyhow!("pid {} belongs to another user, and cannot be ended by us", self.pid))
                .context(Advice("ask that user, or root")),
            Err(e) => Err(e).with_context(|| format!("cannot end pid {}", self.pid)),
        }
    }

    /// Sleeps until it has ended, or the time is over.
    pub fn wait(&self, limit: Duration) -> bool {
        let limit =
            Timespec { tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() };
        poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&limit)).is_ok_and(|ended| ended > 0)
    }
}

/// Told by its name in the kernel, or by being the same program as we are.
/// Anybody else would just die of what only a lockrun understands.
fn is_lockrun(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let program = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| (file.dev(), file.ino()));
    ["lockrun", sys::HOLDER_NAME].contains(&name.trim_end())
        || program(&pid.to_string()).is_some_and(|theirs| program("self") == Some(theirs))
}

/// TERM, and KILL for what still has the lock after a while. By a process of
/// its own, so that nobody's wait depends on it.
fn end_by_force(lock: &File, rivals: Vec<Rival>) -> Result<()> {
    for rival in &rivals {
        rival.signal(libc::SIGTERM)?;
        // What is stopped cannot end.
        rival.signal(libc::SIGCONT)?;
    }
    if rivals.is_empty() {
        return Ok(());
    }
    let parent = getpid();
    if let Forked::Child = sys::fork().context("cannot start a process")? {
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        if rustix::process::getppid() == Some(parent) {
            let deadline = std::time::Instant::now() + KILL_AFTER;
            for rival in &rivals {
                rival.wait(deadline.saturating_duration_since(std::time::Instant::now()));
            }
            for rival in holding(lock).iter().filter(|rival| rivals.iter().any(|ended| ended.pid == rival.pid)) {
                let _ = rival.signal(libc::SIGKILL);
            }
        }
        sys::exit_now(0);
    }
    Ok(())
}
