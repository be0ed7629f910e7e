//! Making others let go: those who hold a lock, and those who wait to end the
//! holder themselves.
//!
//! A process is signalled only if the kernel shows, after we have a
//! descriptor of the process, that it has the lock, or the ticket, now. A pid
//! from a text is never used.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::process::getpid;

use super::kernel::{self, FileId, Kernel};
use super::slots;
use crate::advice::Advice;
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
    /// The kernel shows us that it has the lock. Of others we only know that
    /// it had it once, so that they may be named, but never signalled.
    is_seen: bool,
    /// The child that waits for it, if it is one that waits: the lock may be
    /// granted to it, and it may be the holder of a token, by the time of a
    /// signal that its parent does not read any more.
    child: Option<(i32, OwnedFd)>,
}

/// Ends who holds `lock`, and those of `replacers` who wait on `queue`.
///
/// # Errors
/// One of the holders is another user's: then none has been signalled.
pub fn end(lock: &File, queue: &File, replacers: &[i32]) -> Result<()> {
    let queue = FileId::of(queue);
    let has_ticket = |pid| queue.is_some_and(|queue| has_ticket(pid, queue));
    let waiting = replacers.iter().filter_map(|pid| Rival::find(*pid, &|| has_ticket(*pid)));
    let waiting: Vec<Rival> = waiting.filter(|rival| rival.is_lockrun).collect();
    let lock = FileId::of(lock);
    let holding = lock.map(holding).unwrap_or_default();
    require_ours(&holding)?;
    for rival in &waiting {
        rival.signal(sys::replace_signal())?;
    }
    match lock {
        Some(lock) if ask_to_end(&holding, sys::replace_signal())? => kill_later(lock, holding),
        _ => Ok(()),
    }
}

/// Asks everybody to end who holds the lock: a lockrun by `signal`, so that
/// it ends its command and all it started, anybody else by TERM. Returns
/// whether there is anybody else.
///
/// # Errors
/// See [`Rival::signal`].
fn ask_to_end(holding: &[Rival], signal: i32) -> Result<bool> {
    let (lockruns, others) = lockruns_and_others(holding);
    let asked = lockruns.into_iter().map(|rival| (rival, signal));
    for (rival, signal) in asked.chain(others.iter().map(|rival| (*rival, libc::SIGTERM))) {
        rival.signal(signal)?;
        // What is stopped cannot end.
        if process::is_stopped(rival.pid) {
            rival.signal(libc::SIGCONT)?;
        }
    }
    Ok(!others.is_empty())
}

/// A lockrun ends all that it runs by itself. One that runs under another
/// holder has only inherited the lock, and is not asked.
fn lockruns_and_others(holding: &[Rival]) -> (Vec<&Rival>, Vec<&Rival>) {
    let is_below = |rival: &Rival, holders: &[&Rival]| {
        process::ancestors(rival.pid).any(|ancestor| holders.iter().any(|holder| holder.pid == ancestor))
    };
    let all: Vec<&Rival> = holding.iter().collect();
    let (lockruns, others): (Vec<_>, Vec<_>) =
        holding.iter().partition(|rival| rival.is_lockrun && !is_below(rival, &all));
    let others = others.into_iter().filter(|rival| !is_below(rival, &lockruns)).collect();
    (lockruns, others)
}

/// Everybody who has the lock on this file. We do not count, nor do those who
/// have the file open without holding it, or wait for a place in its pool.
fn holding(lock: FileId) -> Vec<Rival> {
    let has_it = |pid| kernel::has_now(pid, lock) && !slots::only_waits(pid, lock);
    let kernel = Kernel::look();
    let mut pids: Vec<i32> = kernel.inheritors(lock).into_iter().map(|(pid, _)| pid).collect();
    // While we read, the lock may have been granted to a child of one that we
    // had passed by then.
    let parents: Vec<i32> = pids.iter().filter_map(|pid| process::parent(*pid)).collect();
    pids.extend(parents);
    pids.sort_unstable();
    pids.dedup();
    let mut rivals: Vec<Rival> =
        pids.into_iter().filter(|pid| *pid != us()).filter_map(|pid| Rival::find(pid, &|| has_it(pid))).collect();
    // Of other users we see only who called flock(2). They cannot be signalled
    // by us, but they can be named.
    let strangers = kernel.lockers(lock).iter().filter(|locker| kernel.locks_of(locker.pid).is_none());
    let strangers = strangers.filter_map(|locker| Rival::find(locker.pid, &|| true));
    rivals.extend(strangers.map(|rival| Rival { is_seen: false, ..rival }));
    rivals
}

/// # Errors
/// One of them may not be signalled by us.
fn require_ours(rivals: &[Rival]) -> Result<()> {
    const NOTHING: i32 = 0;
    rivals.iter().try_for_each(|rival| rival.signal(NOTHING))
}

/// The wrapper leaves the ticket to the child that waits in it.
fn has_ticket(pid: i32, queue: FileId) -> bool {
    kernel::has_now(pid, queue) || process::children(pid).into_iter().any(|child| kernel::has_now(child, queue))
}

impl Rival {
    /// The process, if what makes it one still holds when we cannot mistake
    /// it any more.
    fn find(pid: i32, is_one: &dyn Fn() -> bool) -> Option<Self> {
        let process = process::open(pid)?;
        if !is_one() {
            return None;
        }
        // A lockrun's child that waits listens to nobody; its parent does.
        if process::name(pid) == sys::WAITER_NAME {
            let parent = process::parent(pid)?;
            let rival = Self::find(parent, &|| process::parent(pid) == Some(parent))?;
            let child = rival.child.or(Some((pid, process)));
            return Some(Self { child, ..rival });
        }
        Some(Self { pid, process, is_lockrun: is_lockrun(pid), is_seen: true, child: None })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is another user's. That it has ended is none.
    fn signal(&self, signal: i32) -> Result<()> {
        let mut sent = if self.is_seen { sys::send_by_pidfd(&self.process, signal) } else { Err(Errno::PERM) };
        if let Some((pid, child)) = &self.child
            && process::name(*pid) == sys::KEEPER_NAME
        {
            sent = sys::send_by_pidfd(child, signal);
        }
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM) => Err(anyhow!("pid {} belongs to another user, and cannot be ended by us", self.pid))
                .context(Advice::new("ask that user, or root")),
            Err(e) => Err(e).with_context(|| format!("cannot end pid {}", self.pid)),
        }
    }

    /// Sleeps until it has ended, or the time is over.
    pub fn wait(&self, limit: Duration) -> bool {
        process::wait_for_end(&self.process, limit)
    }
}

/// Makes whoever holds the lock on this file let go, and waits until they
/// have: a lockrun ends its command and all it started, anybody else gets
/// TERM; what is left after `kill_after` gets KILL. Returns whether anybody
/// was seen to hold it.
///
/// # Errors
/// They are another user's: then nobody was signalled. Or they did not end
/// even so.
pub fn break_lock(lock: &File, kill_after: Duration) -> Result<bool> {
    let Some(lock) = FileId::of(lock) else { return Ok(false) };
    let rivals = holding(lock);
    require_ours(&rivals)?;
    ask_to_end(&rivals, sys::break_signal())?;
    wait_for_all(&rivals, kill_after);
    let left = still_holding(lock, &rivals);
    // A lockrun that is asked twice kills what it runs, and then says so; if
    // even it does not answer, it is killed as anybody else.
    let (lockruns, others) = lockruns_and_others(&left);
    for rival in &lockruns {
        rival.signal(sys::break_signal())?;
    }
    for rival in &others {
        rival.signal(libc::SIGKILL)?;
    }
    wait_for_all(&left, KILLED);
    for rival in still_holding(lock, &left) {
        rival.signal(libc::SIGKILL)?;
    }
    wait_for_all(&left, KILLED);
    match still_holding(lock, &left).first() {
        None => Ok(!rivals.is_empty()),
        Some(rival) => Err(anyhow!("pid {} holds it even after KILL", rival.pid)),
    }
}

/// The end of a killed process takes no longer, unless it hangs in the
/// kernel.
const KILLED: Duration = Duration::from_secs(5);

/// Those who held the lock and hold it still.
fn still_holding(lock: FileId, rivals: &[Rival]) -> Vec<Rival> {
    let was_there = |now: &Rival| rivals.iter().any(|rival| rival.pid == now.pid);
    holding(lock).into_iter().filter(was_there).collect()
}

fn us() -> i32 {
    getpid().as_raw_nonzero().get()
}

fn wait_for_all(rivals: &[Rival], limit: Duration) {
    // One that is too far off for the clock is none.
    let deadline = Instant::now().checked_add(limit);
    for rival in rivals {
        rival.wait(deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now())));
    }
}

/// Told by its name in the kernel, or by being the same program as we are.
/// Anybody else would just die of what only a lockrun understands.
fn is_lockrun(pid: i32) -> bool {
    let program = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| (file.dev(), file.ino()));
    ["lockrun", sys::KEEPER_NAME].contains(&process::name(pid).as_str())
        || program(&pid.to_string()).is_some_and(|theirs| program("self") == Some(theirs))
}

/// KILL for what still has the lock after a while. By a process of its own,
/// so that nobody's wait depends on it.
fn kill_later(lock: FileId, rivals: Vec<Rival>) -> Result<()> {
    let parent = getpid();
    if let Forked::Child = sys::fork().context("cannot start a process")? {
        // Only our parent ends us; nothing else interrupts.
        sys::end_with(parent);
        sys::block_all();
        // Our ticket and what we hold are not its own, and may be given back
        // while it waits.
        sys::close_all_but(&rivals.iter().map(|rival| rival.process.as_fd()).collect::<Vec<_>>());
        wait_for_all(&rivals, KILL_AFTER);
        let left = still_holding(lock, &rivals);
        for rival in lockruns_and_others(&left).1 {
            let _ = rival.signal(libc::SIGKILL);
        }
        sys::exit_now(0);
    }
    Ok(())
}
