//! Making others let go: those who hold a lock, and those who wait to end the
//! holder themselves.
//!
//! A process is asked only if the kernel shows, after we have a descriptor of
//! the process, that it has the lock, or the ticket, on a descriptor of its
//! own. Neither a text nor a name nor a relative makes it a rival.
//!
//! Everybody is asked by SIGTERM, see [`LetGo`]: a waiter may be COMMAND by the
//! time it comes.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::getpid;

use super::holding::{BETWEEN_LOOKS, Holding, LOOKS, Records, holding, inherited_by, replacers_before, still_holding};
use super::kernel::{FileId, Kernel};
use super::lanes::Ticket;
use super::queue::Queue;
use super::rival::{Kind, Rival, require_ours, wait_for_all};
use super::script::ScriptTree;
use crate::advice::Advice;
use crate::lock::{NOBODY_SEEN, WHO_SEES};
use crate::process;
use crate::record;
use crate::sys::{self, Forked, LetGo};

/// A holder without a lockrun around it gets so long from TERM to KILL.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// The end of a killed process takes no longer, unless it hangs in the
/// kernel.
const KILLED: Duration = Duration::from_secs(5);
/// So often we look whether one that does not end has let go.
const LOOK: Duration = Duration::from_secs(1);

/// Ends who holds `lock`, and who waits on `queue` before `ticket` to do the
/// same.
///
/// # Errors
/// One of the holders is another user's, or cannot be seen: then nobody has
/// been signalled.
pub fn end(lock: &File, queue: &Queue, ticket: Ticket) -> Result<()> {
    let Some(id) = FileId::of(lock) else { return require_free(lock) };
    for _ in 0..LOOKS {
        let waiting = replacers_before(queue, ticket)?;
        let holding = Holding::look(id, &|| record::all(queue.file()))?;
        if !waiting.is_empty() || !holding.is_empty() {
            holding.require_ours()?;
            ask(&waiting, LetGo::Replace)?;
            let is_lockruns_own = ask(&holding.rivals, LetGo::Replace)?;
            holding.scripts.iter().for_each(ScriptTree::ask);
            return if is_lockruns_own && holding.scripts.is_empty() { Ok(()) } else { kill_later(id, holding) };
        }
        if is_free(lock) || !Kernel::look().lockers(id).is_empty() {
            return Ok(());
        }
        sys::nap(BETWEEN_LOOKS);
    }
    require_free(lock)
}

fn require_free(lock: &File) -> Result<()> {
    if is_free(lock) { Ok(()) } else { Err(anyhow!(NOBODY_SEEN)).context(Advice::new(WHO_SEES)) }
}

/// Takes the lock for a moment. Nobody is hurt by that: who comes now finds our
/// ticket, and who waits before us is asleep on the lock.
fn is_free(lock: &File) -> bool {
    let is_free = rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK);
    let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
    is_free
}

/// Makes whoever holds the lock on this file let go, and waits until they
/// have: a lockrun ends its command and all it started, anybody else gets
/// TERM; what is left after `kill_after` gets KILL. Returns whether anybody
/// was seen to hold it, or has let go meanwhile. `records` are those of the lock.
///
/// # Errors
/// They are another user's, or have only inherited it: then nobody was
/// signalled. Or they did not end even so.
pub fn break_lock(lock: &File, records: &Records, kill_after: Duration) -> Result<bool> {
    let Some(lock) = FileId::of(lock) else { return Ok(false) };
    let (found, has_let_go) = Holding::look_while_it_changes(lock, records)?;
    let Holding { rivals, mut scripts, inherited } = found;
    if has_let_go {
        return Ok(true);
    }
    require_ours(&rivals)?;
    scripts.iter().try_for_each(ScriptTree::require_ours)?;
    ask(&rivals, LetGo::Break)?;
    scripts.iter().for_each(ScriptTree::ask);
    for script in &mut scripts {
        script.wait(kill_after);
        script.kill()?;
        script.wait(KILLED);
    }
    // The script has ended; what it left behind has not.
    let heirs = holding(lock)?;
    let is_heir = |heir: &&Rival| inherited.iter().any(|(grant, pid)| *pid == heir.pid && heir.grants.contains(grant));
    if let Some(heir) = heirs.iter().find(is_heir) {
        return Err(inherited_by(heir.pid, "the script that locked it was ended"));
    }
    if rivals.is_empty() {
        return Ok(!scripts.is_empty());
    }
    let left = wait_until_free(lock, &rivals, kill_after)?;
    // A lockrun that is asked twice kills what it runs, and then says so; if
    // even it does not answer, it is killed as anybody else.
    for rival in &left {
        match rival.kind {
            Kind::Lockrun => rival.ask(LetGo::Break)?,
            Kind::Other if is_run_by_one_of(rival, &left) => {}
            Kind::Other | Kind::Unseen => rival.signal(libc::SIGKILL)?,
        }
    }
    let left = wait_until_free(lock, &left, KILLED)?;
    for rival in &left {
        rival.signal(libc::SIGKILL)?;
    }
    match wait_until_free(lock, &left, KILLED)?.first() {
        None => Ok(!rivals.is_empty()),
        Some(rival) => Err(anyhow!("pid {} holds it even after KILL", rival.pid)),
    }
}

/// Asks everybody once; what a lockrun of them runs is left to that. Returns
/// whether all of it is.
///
/// # Errors
/// See [`Rival::signal`].
fn ask(rivals: &[Rival], what: LetGo) -> Result<bool> {
    let mut is_lockruns_own = true;
    for rival in rivals {
        if rival.kind != Kind::Lockrun {
            if is_run_by_one_of(rival, rivals) {
                continue;
            }
            is_lockruns_own = false;
        }
        rival.ask(what)?;
        // What is stopped cannot end.
        if process::is_stopped(rival.pid) {
            rival.signal(libc::SIGCONT)?;
        }
    }
    Ok(is_lockruns_own)
}

/// A lockrun ends all that it runs by itself.
fn is_run_by_one_of(rival: &Rival, rivals: &[Rival]) -> bool {
    let is_lockrun = |pid| rivals.iter().any(|rival| rival.kind == Kind::Lockrun && rival.pid == pid);
    process::ancestors(rival.pid).any(is_lockrun)
}

/// Waits until these have ended or let go, at most `limit`. Returns who still
/// has the lock by one of their grants.
fn wait_until_free(lock: FileId, rivals: &[Rival], limit: Duration) -> Result<Vec<Rival>> {
    // One that is too far off for the clock is none.
    let deadline = Instant::now().checked_add(limit);
    let left = || deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
    wait_for_all(rivals, left().min(LOOK));
    loop {
        let holding = still_holding(lock, rivals)?;
        if holding.is_empty() || left().is_zero() {
            return Ok(holding);
        }
        wait_for_all(&holding, left().min(LOOK));
    }
}

/// KILL for what still has the lock after a while. By a process of its own,
/// so that nobody's wait depends on it.
fn kill_later(lock: FileId, holding: Holding) -> Result<()> {
    let Holding { rivals, mut scripts, .. } = holding;
    let parent = getpid();
    if let Forked::Child = sys::fork().context("cannot start a process")? {
        // Only our parent ends us; nothing else interrupts.
        sys::end_with(parent);
        sys::block_all();
        // Our ticket and what we hold are not its own, and may be given back
        // while it waits.
        let mut keep: Vec<_> = rivals.iter().map(|rival| rival.process.as_fd()).collect();
        keep.extend(scripts.iter().flat_map(ScriptTree::descriptors));
        sys::close_all_but(&keep);
        let start = Instant::now();
        let left = wait_until_free(lock, &rivals, KILL_AFTER).unwrap_or_default();
        for rival in left.iter().filter(|rival| rival.kind == Kind::Other && !is_run_by_one_of(rival, &left)) {
            let _ = rival.signal(libc::SIGKILL);
        }
        for script in &mut scripts {
            script.wait(KILL_AFTER.saturating_sub(start.elapsed()));
            let _ = script.kill();
        }
        sys::exit_now(0);
    }
    Ok(())
}
