//! Making others release a lock: its holders, and earlier waiters with --replace.
//!
//! A process is signalled only if the kernel shows, once we have its pidfd, that it has
//! the lock or the ticket on a descriptor of its own. A text, a name or a relationship
//! is not enough.
//!
//! The request is a SIGTERM, see [`LetGo`], because a waiter may have become COMMAND by
//! the time that it arrives.

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

/// Time between TERM and KILL for a holder that is not a lockrun's COMMAND.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// A killed process ends within this time, unless it hangs in the kernel.
const KILLED: Duration = Duration::from_secs(5);
/// Interval of checks whether a process that does not end has released the lock.
const LOOK: Duration = Duration::from_secs(1);

/// Ends the holders of `lock`, and the waiters with --replace before `ticket`.
/// Errors: a holder belongs to another user or is not visible, and nothing was signalled.
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

/// Takes the lock for a moment. This is harmless: new requests find our ticket, and
/// earlier waiters sleep on the lock.
fn is_free(lock: &File) -> bool {
    let is_free = rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK);
    let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
    is_free
}

/// Makes the holders release the lock on this file, and waits until they have: a
/// lockrun ends its command and everything it started, any other process gets TERM;
/// what is left after `kill_after` gets KILL. Returns whether a holder was visible, or
/// released the lock in the meantime. `records` are those of the lock.
/// Errors: a holder belongs to another user or has only inherited the lock, and nothing was
/// signalled; or one did not end.
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
    // The script has ended; processes that it left may hold the lock.
    let heirs = holding(lock)?;
    let is_heir = |heir: &&Rival| inherited.iter().any(|(grant, pid)| *pid == heir.pid && heir.grants.contains(grant));
    if let Some(heir) = heirs.iter().find(is_heir) {
        return Err(inherited_by(heir.pid, "the script that locked it was ended"));
    }
    if rivals.is_empty() {
        return Ok(!scripts.is_empty());
    }
    let left = wait_until_free(lock, &rivals, kill_after)?;
    // A second request makes a lockrun kill its COMMAND and report it. One that does
    // not answer is killed like any other process.
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

/// Signals each rival once, except those that a lockrun among them runs. Returns
/// whether all were left to a lockrun.
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
        // A stopped process cannot end.
        if process::is_stopped(rival.pid) {
            rival.signal(libc::SIGCONT)?;
        }
    }
    Ok(is_lockruns_own)
}

/// A lockrun ends everything it runs.
fn is_run_by_one_of(rival: &Rival, rivals: &[Rival]) -> bool {
    let is_lockrun = |pid| rivals.iter().any(|rival| rival.kind == Kind::Lockrun && rival.pid == pid);
    process::ancestors(rival.pid).any(is_lockrun)
}

/// Waits until these have ended or released the lock, at most `limit`. Returns those
/// that still hold one of their grants.
fn wait_until_free(lock: FileId, rivals: &[Rival], limit: Duration) -> Result<Vec<Rival>> {
    // Beyond the range of the clock: no deadline.
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

/// KILL for what still has the lock after a while, from a child so that our own wait
/// goes on.
fn kill_later(lock: FileId, holding: Holding) -> Result<()> {
    let Holding { rivals, mut scripts, .. } = holding;
    let parent = getpid();
    if let Forked::Child = sys::fork().context("cannot start a process")? {
        // Only the parent ends this child.
        sys::end_with(parent);
        sys::block_all();
        // Closes our tickets and locks in the child, so that we can release them.
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
