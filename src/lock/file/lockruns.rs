//! Which processes are lockruns, and what locks they have of their own.
//!
//! Anybody can take a process's name, and become somebody's child. So a
//! lockrun is known by its executable, and by what the kernel shows on its own
//! descriptors: those with the close-on-exec flag. It opens all its files with
//! it, and nothing with that flag is inherited from whoever executed it.

use super::kernel::{self, Descriptor, KernelLock};
use super::lanes;
use crate::process;

/// What a lockrun has opened itself; `None` if the process is none, or if we
/// may not look.
pub fn own_descriptors(pid: i32) -> Option<Vec<Descriptor>> {
    let descriptors = process::is_lockrun(pid).then(|| kernel::descriptors_of(pid))??;
    Some(descriptors.into_iter().filter(|descriptor| descriptor.closes_on_exec).collect())
}

/// Whether this is the process behind a token, and holds its lock.
pub fn is_token_keeper(pid: i32) -> bool {
    let is_announced = |lock: &KernelLock| match lock {
        KernelLock::Bytes { first, .. } => lanes::fence_of_token_byte(*first).is_some(),
        KernelLock::Flock(..) => false,
    };
    own_descriptors(pid).is_some_and(|own| own.iter().any(|descriptor| descriptor.locks.iter().any(is_announced)))
}

/// The lockrun that watches this one while it waits, and reads its signals:
/// its parent, if that is of the same user and the two share an event, as no
/// others do. A waiter that lost its parent has another one.
pub fn watcher_of(waiter: i32) -> Option<i32> {
    let parent = process::parent(waiter)?;
    let events = |pid| -> Option<Vec<u64>> {
        Some(own_descriptors(pid)?.iter().filter_map(|descriptor| descriptor.event).collect())
    };
    let theirs = events(parent)?;
    let shared = events(waiter)?.iter().any(|event| theirs.contains(event));
    (shared && process::user_id(parent) == process::user_id(waiter)).then_some(parent)
}
