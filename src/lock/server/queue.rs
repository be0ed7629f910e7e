//! Who is next, decided from the rows of one lock. Pure: no I/O, no clock.
//!
//! A row asks for one of several things: the whole lock, a share of it, or one
//! slot of a pool. While it waits it reserves all of them against the rows behind
//! it. Once granted it has one of them and no more:
//!
//! > A row is granted something that nobody has and that no row before it, still
//! > waiting, could be granted.
//!
//! A store has to keep three promises for this:
//!
//! 1. A row appears behind all others: its order number is given in the same step
//!    in which it becomes visible.
//! 2. A row that has gone never comes back: a row whose lease has ended is removed
//!    before anybody decides without it.
//! 3. A grant is written only while its own row is there, in the same step.
//!
//! Then the following holds, however old the rows are that a contender decides by.
//! The tests go through all histories of a few contenders to show it.
//!
//! - Two grants never exclude each other.
//! - Once the answer is [`Decision::Take`] it stays so, and the slot stays free:
//!   nothing has to be locked or compared between the look and the grant.
//! - Nobody takes what an earlier row could have had.
//! - If nobody holds the lock, the first row may take it.
//! - Rows behind a row never matter to it.

use std::ops::Range;

/// What names a row: 128 random bits of its contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u128);

/// What a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The whole lock, alone.
    Exclusive,
    /// The whole lock, beside others who share it.
    Shared,
    /// Any of the slots `0..of`.
    AnySlot {
        /// Size of the pool.
        of: u32,
    },
    /// Exactly this slot, whatever the size of its pool.
    Slot(u32),
}

/// How far a row has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It reserves everything that it could take.
    Waiting,
    /// It has this slot; `None`: the whole lock, or a share of it.
    Granted(Option<u32>),
}

/// All that matters about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contender {
    /// Which row.
    pub id: Id,
    /// What it asks for.
    pub mode: Mode,
    /// How far it has come.
    pub state: State,
}

/// What wakes a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Until {
    /// The row has gone.
    Gone,
    /// The row has gone or was granted something: it leaves the rest of its pool.
    Settled,
}

/// What a contender has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write the grant, with this slot.
    Take(Option<u32>),
    /// Nothing: the grant is written.
    Has(Option<u32>),
    /// Sleep until one of these happens. Nothing else makes it our turn.
    Wait(Vec<(Id, Until)>),
    /// Our row is not there any more.
    Gone,
}

/// What the row `me` has to do. `rows`: in their order, all that are there, or at
/// least those before `me`.
pub fn decide(rows: &[Contender], me: Id) -> Decision {
    let Some(position) = rows.iter().position(|row| row.id == me) else { return Decision::Gone };
    if let State::Granted(slot) = rows[position].state {
        return Decision::Has(slot);
    }
    turn_of(&rows[..position], rows[position].mode)
}

/// What a row of this mode would have to do if it came now, behind all these.
pub fn foresee(rows: &[Contender], mode: Mode) -> Decision {
    turn_of(rows, mode)
}

/// How many wait. A row that could be granted and has not written so yet is not
/// one of them. For --max-waiters and `list`.
pub fn count_waiting(rows: &[Contender]) -> usize {
    rows.iter().filter(|row| is_waiting(rows, row.id)).count()
}

/// Whether this row has to wait.
pub fn is_waiting(rows: &[Contender], id: Id) -> bool {
    matches!(decide(rows, id), Decision::Wait(_))
}

fn turn_of(before: &[Contender], mode: Mode) -> Decision {
    match mode {
        Mode::Exclusive => whole(before, |_| true),
        Mode::Shared => whole(before, |mode| mode != Mode::Shared),
        Mode::Slot(slot) => one_of(before, slot..slot.saturating_add(1)),
        Mode::AnySlot { of } => one_of(before, 0..of),
    }
}

/// Every row that excludes us has to go. The nearest one usually goes last.
fn whole(before: &[Contender], excludes_us: impl Fn(Mode) -> bool) -> Decision {
    match before.iter().rev().find(|row| excludes_us(row.mode)) {
        Some(row) => Decision::Wait(vec![(row.id, Until::Gone)]),
        None => Decision::Take(None),
    }
}

fn one_of(before: &[Contender], wanted: Range<u32>) -> Decision {
    let obstacles = before.iter().map(|row| (row.id, kept_by(row)));
    let mut obstacles: Vec<_> = obstacles.filter(|(_, kept)| overlaps(&kept.slots, &wanted)).collect();
    let covers = |kept: &Kept| kept.slots.start <= wanted.start && wanted.end <= kept.slots.end;
    if let Some((id, kept)) = obstacles.iter().rev().find(|(_, kept)| covers(kept)) {
        return Decision::Wait(vec![(*id, kept.until)]);
    }
    obstacles.sort_by_key(|(_, kept)| kept.slots.start);
    let mut free = wanted.start;
    for (_, kept) in &obstacles {
        if kept.slots.start > free {
            break;
        }
        free = free.max(kept.slots.end);
    }
    match free < wanted.end {
        true => Decision::Take(Some(free)),
        false => Decision::Wait(obstacles.into_iter().map(|(id, kept)| (id, kept.until)).collect()),
    }
}

/// Slots that a row keeps from those behind it, and until when.
struct Kept {
    slots: Range<u32>,
    until: Until,
}

fn kept_by(row: &Contender) -> Kept {
    match (row.state, row.mode) {
        (State::Granted(Some(slot)), _) | (State::Waiting, Mode::Slot(slot)) => {
            Kept { slots: slot..slot.saturating_add(1), until: Until::Gone }
        }
        (State::Waiting, Mode::AnySlot { of }) => Kept { slots: 0..of, until: Until::Settled },
        _ => Kept { slots: 0..u32::MAX, until: Until::Gone },
    }
}

fn overlaps(a: &Range<u32>, b: &Range<u32>) -> bool {
    a.start < b.end && b.start < a.end
}
