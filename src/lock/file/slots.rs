//! The slots of a pool: one byte each, locked on the lock's own description, so
//! that COMMAND inherits its slot with the lock.
//!
//! A slot's holder also holds the lock shared, so that a request for the whole
//! lock waits for all slots. A shared holder of the whole lock read-locks all
//! slots and one more byte.
//!
//! Every call fails where the file system has no byte-range locks or the file is
//! read-only; calls that sleep also with `EINTR`, when a timer or a signal came.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::kernel::{Descriptor, KernelLock};
use super::lanes::{HELD_SLOTS, Ticket};
use super::queue::Queue;
use crate::lock::MAX_SLOTS;
use crate::sys::{self, ByteLock, Forked, Kind, Shared};

/// Locked by shared holders alone, so that a waiter can wait for them.
const READERS: i64 = HELD_SLOTS + MAX_SLOTS as i64;
/// All slots, and the readers' byte.
const ALL: i64 = MAX_SLOTS as i64 + 1;
/// Locked on descriptions that wait for one or all slots. It has a gap to its
/// neighbours, because the kernel merges adjacent ranges.
const WAITS: i64 = HELD_SLOTS + ALL + 1;

#[derive(Clone, Copy)]
pub struct Slots<'fd> {
    bytes: ByteLock<'fd>,
}

impl<'fd> Slots<'fd> {
    /// The slots of the lock on this file, which must be open for writing.
    pub fn of(lock: &'fd File) -> Self {
        Self { bytes: ByteLock::on(lock.as_fd()) }
    }

    pub fn any_is_held(self) -> io::Result<bool> {
        Ok(self.bytes.conflict(Kind::Read, HELD_SLOTS, MAX_SLOTS.into())?.is_some())
    }

    pub fn first_free(self, among: Range<u32>) -> io::Result<Option<u32>> {
        let mut slot = at(among.start);
        while slot < at(among.end) {
            match self.bytes.conflict(Kind::Write, slot, 1)? {
                // A shared holder has locked them all.
                Some(held) => slot = held.end(),
                None => return Ok(u32::try_from(slot - HELD_SLOTS).ok()),
            }
        }
        Ok(None)
    }

    pub fn try_take(self, slot: u32) -> io::Result<bool> {
        self.bytes.try_lock(Kind::Write, at(slot), 1)
    }

    pub fn take(self, slot: u32) -> io::Result<()> {
        self.bytes.lock(Kind::Write, at(slot), 1)
    }

    /// Read-locks all slots, if all are free.
    pub fn try_share_all(self) -> io::Result<bool> {
        self.bytes.try_lock(Kind::Read, HELD_SLOTS, ALL)
    }

    /// Read-locks all slots, asleep until all are free.
    pub fn share_all(self) -> io::Result<()> {
        self.bytes.lock(Kind::Read, HELD_SLOTS, ALL)
    }

    /// Marks that we have flock(2) only because we wait for a slot.
    pub fn mark_as_waiting(self) -> io::Result<()> {
        self.bytes.try_lock(Kind::Read, WAITS, 1).map(drop)
    }

    pub fn mark_as_held(self) -> io::Result<()> {
        self.bytes.unlock(WAITS, 1)
    }

    pub fn give_back(self) -> io::Result<()> {
        self.bytes.unlock(HELD_SLOTS, ALL)
    }

    /// Takes any of the first `count` slots, asleep until one is free that no
    /// earlier waiter wants as a certain one.
    ///
    /// The kernel has no call that sleeps on several locks, so one process sleeps
    /// on each. They share our description, and so the slots that they take; an
    /// atomic word decides which slot is kept, and the others are released. Only
    /// the first waiter in the queue needs these processes.
    /// Errors: `EINTR`; or the limit on processes is reached.
    pub fn take_any(self, count: u32, queue: &Queue, ticket: Ticket) -> io::Result<u32> {
        // Shared holders have all slots; later ones queue behind us.
        self.bytes.lock(Kind::Write, READERS, 1)?;
        self.bytes.unlock(READERS, 1)?;
        let mut from = 0;
        while let Some(slot) = self.first_free(from..count)? {
            if !queue.is_slot_wanted_before(ticket, slot)? && self.try_take(slot)? {
                return Ok(slot);
            }
            from = slot + 1;
        }
        let winner = Shared::<AtomicU32>::zeroed()?;
        let mut sleepers = Vec::new();
        let start = |slot| {
            self.start_sleeper(slot, queue, ticket, &winner).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other(format!(
                    "waiting for any of {count} slots needs a process for each, and that many are not allowed here"
                )),
                _ => error,
            })
        };
        let started = (0..count).take_while(|_| winner.load(Ordering::SeqCst) == 0).try_for_each(|slot| {
            sleepers.push((start(slot)?, slot));
            Ok(())
        });
        let result = started.and_then(|()| wait_for_winner(&winner, &mut sleepers, start));
        for (sleeper, _) in &sleepers {
            let _ = sys::send(*sleeper, libc::SIGKILL);
        }
        for (sleeper, _) in &sleepers {
            let _ = waitpid(Some(*sleeper), WaitOptions::empty());
        }
        let won = winner.load(Ordering::SeqCst);
        if won == 0 {
            self.give_back()?;
            return Err(result
                .err()
                .unwrap_or_else(|| io::Error::other("the processes that waited for a slot were killed")));
        }
        // Other sleepers may have taken a slot before they were killed.
        let slot = won - 1;
        self.bytes.unlock(HELD_SLOTS, slot.into()).and_then(|()| {
            let above = slot + 1;
            self.bytes.unlock(at(above), (MAX_SLOTS - above).into())
        })?;
        Ok(slot)
    }

    fn start_sleeper(self, slot: u32, queue: &Queue, ticket: Ticket, winner: &Shared<AtomicU32>) -> io::Result<Pid> {
        let parent = getpid();
        if let Forked::Parent(sleeper) = sys::fork()? {
            return Ok(sleeper);
        }
        // Only the parent ends a sleeper.
        sys::end_with(parent);
        sys::block_all();
        let taken = queue.wait_for_slot_turn(ticket, slot).and_then(|()| self.take(slot));
        let won = taken.is_ok() && winner.compare_exchange(0, slot + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        sys::exit_now(i32::from(!won))
    }
}

/// Sleeps until one of the sleepers has a slot. A sleeper that is killed is
/// replaced.
fn wait_for_winner(
    winner: &Shared<AtomicU32>,
    sleepers: &mut Vec<(Pid, u32)>,
    restart: impl Fn(u32) -> io::Result<Pid>,
) -> io::Result<()> {
    while winner.load(Ordering::SeqCst) == 0 && !sleepers.is_empty() {
        // Any child: the only others are, with --exec, children of the program
        // that executed us.
        let Some((pid, status)) = waitpid(None, WaitOptions::empty())? else { break };
        let Some(position) = sleepers.iter().position(|(sleeper, _)| *sleeper == pid) else { continue };
        let (_, slot) = sleepers.swap_remove(position);
        if status.signaled() && winner.load(Ordering::SeqCst) == 0 {
            sleepers.push((restart(slot)?, slot));
        }
    }
    Ok(())
}

/// The slot that a lock on these bytes stands for.
pub fn held_by(first: i64, last: i64) -> Option<u32> {
    u32::try_from(first.checked_sub(HELD_SLOTS).filter(|_| first == last)?).ok().filter(|slot| *slot < MAX_SLOTS)
}

/// Whether this descriptor of a lockrun has the lock only to wait for slots: shared,
/// next to the holders of slots.
pub fn only_waits(descriptor: &Descriptor) -> bool {
    descriptor.locks.iter().any(|lock| matches!(lock, KernelLock::Bytes { first: WAITS, .. }))
}

fn at(slot: u32) -> i64 {
    HELD_SLOTS + i64::from(slot)
}
