//! The visible holders of a lock, and its waiters with --replace, each as a [`Rival`].

use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::process::getpid;

use super::kernel::{self, FileId, Kernel, KernelLock, Locker};
use super::lanes::{self, Ticket};
use super::ledger;
use super::lockruns;
use super::queue::Queue;
use super::rival::{Kind, Rival, require_ours};
use super::script::ScriptTree;
use super::slots;
use crate::advice::Advice;
use crate::process;
use crate::record::Record;
use crate::sys;

/// Further looks at a held lock without a visible holder: it may just have changed
/// hands.
pub const LOOKS: usize = 5;
pub const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Reads the records of a lock's file, each with its slot.
pub type Records<'a> = dyn Fn() -> Vec<(Option<u32>, Record)> + 'a;

/// All holders that can be made to release the lock.
pub struct Holding {
    pub rivals: Vec<Rival>,
    /// Scripts whose descriptor a lockrun locked.
    pub scripts: Vec<ScriptTree>,
    /// Other processes that have such a descriptor, by grant.
    pub inherited: Vec<(Locker, i32)>,
}

impl Holding {
    /// Errors: all holders of a grant have only inherited it: the process that called flock(2)
    /// and its script have ended.
    pub fn look(lock: FileId, records: &Records) -> Result<Self> {
        let mut rivals = holding(lock)?;
        // Read after the holders, so that no record is about an older grant.
        let records = records();
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
                // COMMAND of a killed lockrun, or of --exec.
                Some(Record { script: None, .. }) => continue,
                // The same; a later holder that shares the lock has overwritten its record.
                None if having.iter().any(|pid| is_lockruns_own(*pid, lock, grant)) => continue,
                Some(Record { script, .. }) => script.filter(|script| having.contains(&script.pid)),
                None => None,
            };
            let Some(tree) = script.map(ScriptTree::of).transpose()?.flatten() else {
                let has_it = |pid: &i32| has_lock(*pid, lock).is_some_and(|(_, grants)| grants.contains(&grant));
                if !having.iter().any(has_it) {
                    // Released in the meantime.
                    for rival in &mut rivals {
                        rival.grants.retain(|other| *other != grant);
                    }
                    continue;
                }
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

    /// As [`look`](Self::look), for a lock that may change hands as fast as we look.
    /// Also returns whether a holder released the lock before it could be identified.
    pub fn look_while_it_changes(lock: FileId, records: &Records) -> Result<(Self, bool)> {
        let mut before = Vec::new();
        let mut look = 0;
        loop {
            look += 1;
            let lockers = Kernel::look().lockers(lock).to_vec();
            let has_let_go = !before.is_empty() && !before.iter().any(|locker| lockers.contains(locker));
            let holding = Self::look(lock, records)?;
            if !holding.is_empty() || has_let_go || look == LOOKS {
                return Ok((holding, has_let_go));
            }
            if before.is_empty() {
                before = lockers;
            }
            sys::nap(BETWEEN_LOOKS);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rivals.is_empty() && self.scripts.is_empty()
    }

    /// Errors: permission to signal one of them is missing.
    pub fn require_ours(&self) -> Result<()> {
        require_ours(&self.rivals)?;
        self.scripts.iter().try_for_each(ScriptTree::require_ours)
    }
}

fn having(rivals: &[Rival], grant: Locker) -> impl Iterator<Item = &Rival> {
    rivals.iter().filter(move |rival| rival.grants.contains(&grant))
}

/// Whether the process that called flock(2), or the lockrun that watches it, has the
/// lock.
fn having_itself(rivals: &[Rival], grant: Locker) -> bool {
    having(rivals, grant).any(|rival| rival.kind != Kind::Other || rival.pid == grant.pid)
}

/// Whether the locked description that this process has was opened by a lockrun.
fn is_lockruns_own(pid: i32, lock: FileId, grant: Locker) -> bool {
    let is_it =
        |held: &KernelLock| matches!(held, KernelLock::Flock(file, locker) if *file == lock && *locker == grant);
    let descriptors = kernel::descriptors_of(pid).unwrap_or_default();
    descriptors.iter().any(|descriptor| descriptor.nonblocking && descriptor.locks.iter().any(is_it))
}

pub fn inherited_by(pid: i32, why: &str) -> anyhow::Error {
    let command = process::command_line(pid).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).into_owned();
    anyhow!("{why}, and pid {pid} ({command}) has inherited it")
        .context(Advice::new("it was not signalled: end it, or unlock the descriptor in it"))
}

/// All holders of the lock on this file but us. Processes that have the file open
/// without the lock, or wait for a slot, do not count.
pub fn holding(lock: FileId) -> Result<Vec<Rival>> {
    let kernel = Kernel::look();
    let mut pids: Vec<i32> = kernel.inheritors(lock).into_iter().map(|(pid, _)| pid).collect();
    // Meanwhile the lock may have been granted to a child of a process that we had
    // passed.
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
        // Another user's process is visible only as a caller of flock(2); with hidepid,
        // /proc does not even show that it exists.
        let is_hidden = kernel.locks_of(locker.pid).is_none() || process::user_id(locker.pid).is_none();
        if is_hidden {
            rivals.extend(Rival::find(locker.pid, || Some((Kind::Unseen, vec![*locker])))?);
        }
    }
    Ok(rivals)
}

/// The kind and grants of a process that has the lock now.
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

/// The waiters with --replace before `ticket`.
pub fn replacers_before(queue: &Queue, ticket: Ticket) -> Result<Vec<Rival>> {
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

/// Adds the lockrun that watches a waiter and handles its signals. If it is gone, the
/// waiter itself is signalled.
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
    // The watcher first, so that it can report why its command ended.
    rivals.sort_by_cached_key(|rival| process::ancestors(rival.pid).count());
    Ok(())
}

/// The earlier holders that still hold the lock, and their heirs. A grant is identified
/// by the process that called flock(2).
pub fn still_holding(lock: FileId, before: &[Rival]) -> Result<Vec<Rival>> {
    let is_same = |now: &Rival, then: &Rival| {
        let has_its_grant = now.grants.iter().any(|grant| grant.pid > 0 && then.grants.contains(grant));
        has_its_grant || now.pid == then.pid && !process::wait_for_end(&then.process, Duration::ZERO)
    };
    let mut holding = holding(lock)?;
    holding.retain(|now| before.iter().any(|then| is_same(now, then)));
    Ok(holding)
}

pub fn us() -> i32 {
    getpid().as_raw_nonzero().get()
}
