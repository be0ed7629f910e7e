//! Trying a lock for a moment, where the kernel does not show who holds it.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::queue::Queue;
use crate::lock::LockState;
use crate::sys;
use crate::sys::Kind;

/// Whoever is longer in the door was stopped there.
const DOOR_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries to find the door empty: it is left within microseconds.
const DOOR_PAUSE: Duration = Duration::from_micros(50);
/// So many more times a lock is tried that another look may have kept from us.
const LOOKS: usize = 3;

/// Tries the lock for a moment, while nobody can come through the door.
pub fn probe(lock: &File, queue: Option<&(Queue, bool)>) -> LockState {
    let start = Instant::now();
    if let Some((queue, writable)) = queue {
        let kind = if *writable { Kind::Write } else { Kind::Read };
        while !matches!(queue.try_block_door(kind), Ok(true)) {
            if start.elapsed() > DOOR_LIMIT {
                return LockState::Unknown;
            }
            sys::nap(DOOR_PAUSE);
        }
    }
    // Where we could not have the door for us alone, others may look too.
    let alone = queue.is_some_and(|(_, writable)| *writable);
    let mut state = attempt(lock);
    for _ in 0..LOOKS {
        if alone || state == LockState::Free {
            break;
        }
        sys::nap(DOOR_PAUSE);
        state = attempt(lock);
    }
    if let Some((queue, _)) = queue {
        let _ = queue.leave_door();
    }
    state
}

fn attempt(lock: &File) -> LockState {
    let state = match flock(lock, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => LockState::Exclusive,
        Err(_) => LockState::Unknown,
        Ok(()) => match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => LockState::Free,
            Err(Errno::WOULDBLOCK) => LockState::Shared,
            Err(_) => LockState::Unknown,
        },
    };
    let _ = flock(lock, FlockOperation::Unlock);
    state
}
