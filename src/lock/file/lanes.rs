//! Byte ranges of a lock file, far beyond its text: door, tickets, slots, tokens.
//! [`queue`](super::queue) has the rules.

use crate::lock::{MAX_SLOTS, Mode};
use crate::sys::Kind;

/// The 2^63 offsets of a file are divided into sixteen areas. The first is for
/// text: files on ext4 end at 2^44.
pub const AREA: i64 = 1 << 59;
/// Held slots of a pool, one byte each, on the lock's own description.
pub const HELD_SLOTS: i64 = AREA;
/// One lane of `LANE` bytes for each certain slot, one byte per ticket.
pub const SLOT_LANES: i64 = 2 * AREA;
/// One lane for each size of a pool, for waiters for any slot.
pub const POOL_LANES: i64 = 3 * AREA;
/// Waiters with --replace, numbered as their tickets.
pub const REPLACERS: i64 = 4 * AREA;
/// Exclusive and shared tickets. Those for slots follow, so that all tickets
/// are one range.
pub const MAIN: i64 = 5 * AREA;
pub const ANY: i64 = 6 * AREA;
pub const CERTAIN: i64 = 7 * AREA;
/// The door is one byte.
pub const DOOR: i64 = 8 * AREA;
/// Grants that have a token, by fencing token.
pub const TOKEN_GRANTS: i64 = 9 * AREA;
/// Owners of tokens: `STRIDE` bytes per owner, one for each of its keepers.
pub const TOKEN_OWNERS: i64 = 10 * AREA;

/// Distance between tickets: more than the largest process id, 2^22.
pub const STRIDE: i64 = 1 << 24;
/// Tickets per area: enough for nine hours at one per microsecond without an
/// empty queue, which starts the numbers again.
pub const NUMBERS: i64 = AREA / STRIDE;
/// Bytes in the lane of a slot.
pub const LANE: i64 = NUMBERS;
const _: () = assert!((MAX_SLOTS as i64 + 1) * LANE <= AREA);

/// A place in the queue. Lower numbers go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub i64);

#[derive(Clone, Copy)]
pub struct Lane {
    pub start: i64,
    pub stride: i64,
    /// What conflicts in it. `Read` where all tickets are write locks, so that a
    /// waiter's sleep on one is not mistaken for a ticket.
    pub kind: Kind,
}

impl Lane {
    pub fn tickets(start: i64, kind: Kind) -> Self {
        Self { start, stride: STRIDE, kind }
    }

    pub fn of_slot(slot: u32) -> Self {
        Self { start: SLOT_LANES + i64::from(slot) * LANE, stride: 1, kind: Kind::Read }
    }

    /// Waiters for any slot of a pool of this size.
    pub fn of_pool(slots: u32) -> Self {
        Self { start: POOL_LANES + i64::from(slots) * LANE, stride: 1, kind: Kind::Read }
    }

    pub fn at(self, number: i64) -> i64 {
        self.start + number * self.stride
    }

    /// The byte that the next waiter sleeps on. Not a ticket's first byte where
    /// there is room, so that a lock on it is not mistaken for a ticket.
    pub fn wait_byte(self, ticket: Ticket) -> i64 {
        self.at(ticket.0) + i64::from(self.stride > 1)
    }
}

/// The lanes that a request of this mode must not overtake. A certain slot has
/// the pools that contain it as well.
pub fn lanes_before(mode: Mode) -> Vec<Lane> {
    let main = |kind| Lane::tickets(MAIN, kind);
    let [any, certain] = [ANY, CERTAIN].map(|area| Lane::tickets(area, Kind::Read));
    match mode {
        Mode::Exclusive => vec![main(Kind::Write), any, certain],
        Mode::Shared => vec![main(Kind::Read), any, certain],
        Mode::Slot { which: None, .. } => vec![main(Kind::Write), any],
        Mode::Slot { which: Some(slot), .. } => vec![main(Kind::Write), Lane::of_slot(slot)],
    }
}

/// A process that claims to hold the lock for an owner.
pub struct OwnedToken {
    /// The process whose end releases the lock.
    pub owner: i32,
    pub holder: i32,
}

pub fn bytes_of_owner(owner: i32) -> i64 {
    TOKEN_OWNERS + i64::from(owner) * STRIDE
}

/// Every number that a clock can make fits into the area.
pub fn number_of(fence: u64) -> Option<i64> {
    i64::try_from(fence).ok().filter(|number| *number < AREA)
}

/// Whether a description with locks on bytes that begin here has a ticket, lower
/// than `ticket`, of a waiter with --replace.
pub fn is_replacer_before(firsts: &[i64], ticket: Ticket) -> bool {
    let before = REPLACERS..REPLACERS + ticket.0 * STRIDE;
    firsts.iter().any(|first| before.contains(first) && firsts.contains(&(first - REPLACERS + MAIN)))
}

/// The fencing token that a byte range of another description announces.
pub fn fence_of_token_byte(first: i64) -> Option<u64> {
    (TOKEN_GRANTS..TOKEN_OWNERS).contains(&first).then(|| (first - TOKEN_GRANTS) as u64)
}
