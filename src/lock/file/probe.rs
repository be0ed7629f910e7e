//! Trying a lock for a moment, where the kernel does not show its holders.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::queue::Queue;
use crate::lock::LockState;
use crate::sys;
use crate::sys::Kind;

/// Only a stopped process stays in the door longer.
const DOOR_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries at the door, which is left within microseconds.
const DOOR_PAUSE: Duration = Duration::from_micros(50);
/// Further tries if another look may have been in the way.
const LOOKS: usize = 3;

/// Tries the lock for a moment, with the door blocked.
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
    // Without the door, other looks may be in the way.
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
