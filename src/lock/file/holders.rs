//! The holders of a lock, from the kernel, the record and /proc.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::time::SystemTime;

use super::kernel::{Descriptor, FileId, Kernel, KernelLock, Locker};
use super::{ledger, lockruns, slots, standing};
use crate::lock::Holder;
use crate::process;
use crate::record::Record;

/// Describes holders at one moment. Each process is looked up once.
pub struct Holders {
    now: SystemTime,
    strangers: RefCell<BTreeMap<i32, Holder>>,
    ancestors: OnceCell<Vec<i32>>,
}

impl Holders {
    pub fn now() -> Self {
        Self { now: SystemTime::now(), strangers: RefCell::default(), ancestors: OnceCell::new() }
    }

    /// All visible holders of the lock.
    pub fn of(
        &self,
        kernel: &Kernel,
        lock: FileId,
        lockers: &[Locker],
        records: &[(Option<u32>, Record)],
    ) -> Vec<Holder> {
        let only_waits = |locker: &&Locker| locker.shared && only_waits(locker.pid, lock);
        let (waiting, lockers): (Vec<&Locker>, Vec<&Locker>) = lockers.iter().partition(only_waits);
        if lockers.is_empty() && !waiting.is_empty() {
            return Vec::new();
        }
        let mut holders = Vec::new();
        let mut gone = Vec::new();
        for &&locker in &lockers {
            // The kernel's number may belong to another process by now.
            let has_it = kernel.locks_of(locker.pid).is_none_or(|locks| locks.contains_key(&lock));
            match locker.pid {
                1.. if has_it => holders.push(self.holder(locker, &[locker.pid], records)),
                _ => gone.push(locker),
            }
        }
        // The process that called flock(2) is dead or in another pid namespace: show
        // those that inherited the lock.
        if holders.is_empty() || !gone.is_empty() {
            let inheritors = kernel.inheritors(lock);
            if lockers.is_empty() {
                for &(_, locker) in &inheritors {
                    if !gone.contains(&locker) {
                        gone.push(locker);
                    }
                }
            }
            for locker in gone {
                let has_it = |pid: &&i32| inheritors.contains(&(**pid, locker));
                // Our own script rather than its other children.
                let script = self.ancestors().iter().rev().find(has_it).copied();
                let heirs = inheritors.iter().filter(|(_, of)| *of == locker).map(|(pid, _)| *pid);
                holders.push(self.holder(locker, &script.into_iter().chain(heirs).collect::<Vec<_>>(), records));
            }
        }
        holders
    }

    /// One holder: from its record if the kernel agrees, and from the processes that
    /// have the lock open.
    fn holder(&self, locker: Locker, having: &[i32], records: &[(Option<u32>, Record)]) -> Holder {
        let first = || having.first().map(|pid| self.stranger(*pid)).unwrap_or_default();
        let own = records.iter().filter(|(_, record)| ledger::is_about(record, locker));
        // Of the same grant, the slot's own record says more.
        let holder = match own.max_by_key(|(slot, record)| (record.fence, *slot)) {
            None => first(),
            Some((slot, record)) => {
                let holder = Holder {
                    host: None,
                    kept_until: None,
                    pid: having.first().copied(),
                    command: Some(record.command.clone()),
                    user: Some(record.user.clone()),
                    age: record.age(self.now),
                    since: Some(record.since.clone()),
                    expires: record.expires.clone(),
                    is_token: false,
                    owner: record.owner,
                    fence: Some(record.fence),
                    slot: *slot,
                    slots: record.slots,
                    is_ancestor: false,
                };
                let has_it = |pid| having.is_empty() || having.contains(&pid);
                match record.script {
                    None => holder,
                    Some(script) if standing::is_alive(&script) && has_it(script.pid) => {
                        Holder { pid: Some(script.pid), ..holder }
                    }
                    // It has ended or closed its descriptor: its heirs hold the lock.
                    Some(_) => Holder { pid: first().pid, command: first().command, user: first().user, ..holder },
                }
            }
        };
        Holder { is_ancestor: holder.pid.is_some_and(|pid| self.ancestors().contains(&pid)), ..holder }
    }

    /// Our ancestors, nearest first, without process 1.
    fn ancestors(&self) -> &[i32] {
        let us = rustix::process::getpid().as_raw_nonzero().get();
        self.ancestors.get_or_init(|| process::ancestors(us).filter(|pid| *pid != 1).collect())
    }

    /// A process as /proc shows it; looked up once.
    fn stranger(&self, pid: i32) -> Holder {
        let mut strangers = self.strangers.borrow_mut();
        let stranger = || Holder {
            pid: Some(pid),
            command: process::command_line(pid).map(|line| String::from_utf8_lossy(&line).into_owned()),
            user: process::user(pid),
            ..Holder::default()
        };
        strangers.entry(pid).or_insert_with(stranger).clone()
    }
}

/// Whether this lockrun has the lock shared only to wait for a slot.
fn only_waits(pid: i32, lock: FileId) -> bool {
    let has_it = |descriptor: &Descriptor| {
        descriptor.locks.iter().any(|held| matches!(held, KernelLock::Flock(file, _) if *file == lock))
    };
    let own = lockruns::own_descriptors(pid).unwrap_or_default();
    own.iter().any(|descriptor| has_it(descriptor) && slots::only_waits(descriptor))
}
