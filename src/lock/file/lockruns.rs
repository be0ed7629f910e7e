//! Recognising lockrun processes and their own locks.
//!
//! Any process can take any name or become a child of another. So a lockrun is
//! recognised by its executable, and by its own descriptors, which all have the
//! close-on-exec flag; a program never inherits descriptors with that flag.

use super::kernel::{self, Descriptor, KernelLock};
use super::lanes;
use crate::process;

/// The descriptors that a lockrun opened itself; `None` if the process is not a lockrun
/// or permission is missing.
pub fn own_descriptors(pid: i32) -> Option<Vec<Descriptor>> {
    let descriptors = process::is_lockrun(pid).then(|| kernel::descriptors_of(pid))??;
    Some(descriptors.into_iter().filter(|descriptor| descriptor.closes_on_exec).collect())
}

/// Whether this process is the keeper of a token and holds its lock.
pub fn is_token_keeper(pid: i32) -> bool {
    let is_announced = |lock: &KernelLock| match lock {
        KernelLock::Bytes { first, .. } => lanes::fence_of_token_byte(*first).is_some(),
        KernelLock::Flock(..) => false,
    };
    own_descriptors(pid).is_some_and(|own| own.iter().any(|descriptor| descriptor.locks.iter().any(is_announced)))
}

/// The lockrun that watches this waiter and handles its signals: its parent, if it has
/// the same user and shares an eventfd with it. An orphaned waiter has another parent.
pub fn watcher_of(waiter: i32) -> Option<i32> {
    let parent = process::parent(waiter)?;
    let events = |pid| -> Option<Vec<u64>> {
        Some(own_descriptors(pid)?.iter().filter_map(|descriptor| descriptor.event).collect())
    };
    let theirs = events(parent)?;
    let shared = events(waiter)?.iter().any(|event| theirs.contains(event));
    (shared && process::user_id(parent) == process::user_id(waiter)).then_some(parent)
}
