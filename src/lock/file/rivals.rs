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

use super::kernel::{self, FileId, Kernel, KernelLock, Locker};
use super::lanes::{self, Ticket};
use super::ledger;
use super::lockruns;
use super::queue::Queue;
use super::rival::{Kind, Rival, require_ours, wait_for_all};
use super::script::ScriptTree;
use super::slots;
use crate::advice::Advice;
use crate::lock::{NOBODY_SEEN, WHO_SEES};
use crate::process;
use crate::record::{self, Record};
use crate::sys::{self, Forked, LetGo};

/// A holder without a lockrun around it gets so long from TERM to KILL.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// The end of a killed process takes no longer, unless it hangs in the
/// kernel.
const KILLED: Duration = Duration::from_secs(5);
/// So often we look whether one that does not end has let go.
const LOOK: Duration = Duration::from_secs(1);

/// So often a lock that is held by nobody whom we see is looked at, because it
/// may just have changed hands.
const LOOKS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

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
        let holding = Holding::look(id, &record::all(queue.file()))?;
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
        std::thread::sleep(BETWEEN_LOOKS);
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
/// was seen to hold it. `records` are those of the lock.
///
/// # Errors
/// They are another user's, or have only inherited it: then nobody was
/// signalled. Or they did not end even so.
pub fn break_lock(lock: &File, records: &[(Option<u32>, Record)], kill_after: Duration) -> Result<bool> {
    let Some(lock) = FileId::of(lock) else { return Ok(false) };
    let Holding { rivals, mut scripts, inherited } = Holding::look(lock, records)?;
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

/// Everybody who holds a lock, and can be made to let go.
struct Holding {
    rivals: Vec<Rival>,
    /// Those who hold it by a descriptor that a lockrun locked for them.
    scripts: Vec<ScriptTree>,
    /// Who else has such a descriptor, and by which grant.
    inherited: Vec<(Locker, i32)>,
}

impl Holding {
    /// # Errors
    /// All who hold one of the grants have only inherited it: the process that
    /// called flock(2), and the script for which it did, have ended.
    fn look(lock: FileId, records: &[(Option<u32>, Record)]) -> Result<Self> {
        let mut rivals = holding(lock)?;
        let (mut scripts, mut inherited) = (Vec::new(), Vec::new());
        let mut grants: Vec<Locker> = rivals.iter().flat_map(|rival| rival.grants.clone()).collect();
        grants.dedup();
        for grant in grants {
            let having: Vec<i32> = having(&rivals, grant).map(|rival| rival.pid).collect();
            if having.is_empty() || having_itself(&rivals, grant) {
                continue;
            }
            let record = records.iter().map(|(_, record)| record).find(|record| ledger::is_about(record, grant));
            let script = match record {
                // COMMAND of a lockrun that was killed, or of --exec.
                Some(Record { script: None, .. }) => continue,
                Some(Record { script, .. }) => script.filter(|script| having.contains(&script.pid)),
                None => None,
            };
            let Some(tree) = script.map(ScriptTree::of).transpose()?.flatten() else {
                let why = record.map_or(
                    "locked on a descriptor by a process that has ended",
                    |_| "the script that locked it has ended",
                );
                return Err(inherited_by(having[0], why));
            };
            inherited.extend(having.iter().filter(|pid| **pid != tree.pid()).map(|pid| (grant, *pid)));
            scripts.push(tree);
            for rival in &mut rivals {
                rival.grants.retain(|other| *other != grant);
            }
        }
        rivals.retain(|rival| rival.kind == Kind::Lockrun || !rival.grants.is_empty());
        Ok(Self { rivals, scripts, inherited })
    }

    fn is_empty(&self) -> bool {
        self.rivals.is_empty() && self.scripts.is_empty()
    }

    fn require_ours(&self) -> Result<()> {
        require_ours(&self.rivals)?;
        self.scripts.iter().try_for_each(ScriptTree::require_ours)
    }
}

fn having(rivals: &[Rival], grant: Locker) -> impl Iterator<Item = &Rival> {
    rivals.iter().filter(move |rival| rival.grants.contains(&grant))
}

/// Whether the process that called flock(2) has the lock, or a lockrun that
/// watches it.
fn having_itself(rivals: &[Rival], grant: Locker) -> bool {
    having(rivals, grant).any(|rival| rival.kind != Kind::Other || rival.pid == grant.pid)
}

fn inherited_by(pid: i32, why: &str) -> anyhow::Error {
    let command = process::command_line(pid).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).into_owned();
    anyhow!("{why}, and pid {pid} ({command}) has inherited it")
        .context(Advice::new("it was not signalled: end it, or unlock the descriptor in it"))
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

/// Everybody who has the lock on this file. We do not count, nor do those who
/// have the file open without holding it, or wait for a slot of its pool.
fn holding(lock: FileId) -> Result<Vec<Rival>> {
    let kernel = Kernel::look();
    let mut pids: Vec<i32> = kernel.inheritors(lock).into_iter().map(|(pid, _)| pid).collect();
    // While we read, the lock may have been granted to a child of one that we
    // had passed by then.
    let parents: Vec<i32> = pids.iter().filter_map(|pid| process::parent(*pid)).collect();
    pids.extend(parents);
    pids.sort_unstable();
    pids.dedup();
    let mut rivals = Vec::new();
    for pid in pids.into_iter().filter(|pid| *pid != us()) {
        rivals.extend(Rival::find(pid, || has_lock(pid, lock))?);
    }
    add_watchers(&mut rivals)?;
    for locker in kernel.lockers(lock).iter().filter(|locker| locker.pid > 0 && locker.pid != us()) {
        // Of other users we see only who called flock(2): where /proc hides them
        // (hidepid), not even that they exist.
        let is_hidden = kernel.locks_of(locker.pid).is_none() || process::user_id(locker.pid).is_none();
        if is_hidden {
            rivals.extend(Rival::find(locker.pid, || Some((Kind::Unseen, vec![*locker])))?);
        }
    }
    Ok(rivals)
}

/// Whether a process has the lock now, and what it is then.
fn has_lock(pid: i32, lock: FileId) -> Option<(Kind, Vec<Locker>)> {
    let is_lockrun = process::is_lockrun(pid);
    let (mut kind, mut grants) = (Kind::Other, Vec::new());
    for descriptor in kernel::descriptors_of(pid)? {
        let is_own = is_lockrun && descriptor.closes_on_exec;
        if is_own && slots::only_waits(&descriptor) {
            continue;
        }
        for held in &descriptor.locks {
            if let KernelLock::Flock(file, locker) = held
                && *file == lock
            {
                grants.push(*locker);
                if is_own {
                    kind = Kind::Lockrun;
                }
            }
        }
    }
    (!grants.is_empty()).then_some((kind, grants))
}

/// Those who wait to end the holder, in front of `ticket`.
fn replacers_before(queue: &Queue, ticket: Ticket) -> Result<Vec<Rival>> {
    if !queue.has_replacer_before(ticket)? {
        return Ok(Vec::new());
    }
    let Some(id) = FileId::of(queue.file()) else { return Ok(Vec::new()) };
    let is_replacer = |pid| {
        let own = lockruns::own_descriptors(pid)?;
        let bytes = |lock: &KernelLock| match lock {
            KernelLock::Bytes { file, first, .. } if *file == id => Some(*first),
            _ => None,
        };
        let mut tickets = own.iter().map(|descriptor| descriptor.locks.iter().filter_map(bytes).collect::<Vec<_>>());
        tickets.any(|bytes| lanes::is_replacer_before(&bytes, ticket)).then(|| (Kind::Lockrun, Vec::new()))
    };
    let mut rivals = Vec::new();
    for pid in kernel::processes() {
        if is_replacer(pid).is_some() {
            rivals.extend(Rival::find(pid, || is_replacer(pid))?);
        }
    }
    add_watchers(&mut rivals)?;
    Ok(rivals)
}

/// A waiter's signals are read by the lockrun that watches it, or, when that
/// has gone, by what the waiter has become.
fn add_watchers(rivals: &mut Vec<Rival>) -> Result<()> {
    for waiter in 0..rivals.len() {
        let waiter = rivals[waiter].pid;
        if rivals.iter().any(|rival| rival.pid == waiter && rival.kind != Kind::Lockrun) {
            continue;
        }
        let Some(watcher) = lockruns::watcher_of(waiter) else { continue };
        if watcher != us() && !rivals.iter().any(|rival| rival.pid == watcher) {
            let is_watcher = || (lockruns::watcher_of(waiter) == Some(watcher)).then(|| (Kind::Lockrun, Vec::new()));
            rivals.extend(Rival::find(watcher, is_watcher)?);
        }
    }
    // The watcher first: it is to say why its command ended.
    rivals.sort_by_cached_key(|rival| process::ancestors(rival.pid).count());
    Ok(())
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

/// Those who held the lock and hold it still, and those who have it from them:
/// a grant is known by the process that called flock(2) for it.
fn still_holding(lock: FileId, before: &[Rival]) -> Result<Vec<Rival>> {
    let is_same = |now: &Rival, then: &Rival| {
        let has_its_grant = now.grants.iter().any(|grant| grant.pid > 0 && then.grants.contains(grant));
        has_its_grant || now.pid == then.pid && !process::wait_for_end(&then.process, Duration::ZERO)
    };
    let mut holding = holding(lock)?;
    holding.retain(|now| before.iter().any(|then| is_same(now, then)));
    Ok(holding)
}

fn us() -> i32 {
    getpid().as_raw_nonzero().get()
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
