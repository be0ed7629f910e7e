//! The queue before a lock: the door and the tickets, all of them byte-range
//! locks far beyond any text of the file.
//!
//! A ticket with number `n` of process `p` is a lock on the `p + 2` bytes
//! from the start of its area plus `n * STRIDE`. So whoever finds it knows its
//! number and its process. Numbers are given under the door, one more than
//! the highest that waits; nothing is stored.
//!
//! Who goes before whom is the kernel's own rule for conflicts, over lanes:
//!
//! | who | his tickets | whom he lets go first |
//! |---|---|---|
//! | exclusive | main, write | all before him |
//! | shared | main, read | before him: all but shared ones |
//! | any of N slots | any slot, write; pool N | before him: main and any slot |
//! | slot K of a pool | certain slots, write; lane K | before him: main, lane K, pools of more than K slots |
//!
//! So those who wait for different slots of a pool do not hold each other
//! up, and nobody is overtaken by somebody whose way he is in.
//!
//! Beside the queue, those who hold the lock for a token have signs here, by
//! which those who run under the token find them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};

use crate::lock::Mode;
use crate::sys::{ByteLock, Found, Kind};

/// The offsets of a file, 2^63 of them, in sixteen areas. The first one may
/// have text: ext4's files end at 2^44.
const AREA: i64 = 1 << 59;
/// Slots of a pool that are held, a byte each; on the lock's description.
pub(super) const HELD_SLOTS: i64 = AREA;
/// Lanes for certain slots: `LANE` bytes for each, one for each number.
const SLOT_LANES: i64 = 2 * AREA;
/// And one for each size of a pool of which any slot is waited for.
const POOL_LANES: i64 = 3 * AREA;
/// Those who wait and will end the holder, numbered as their tickets.
const REPLACERS: i64 = 4 * AREA;
/// Tickets: exclusive, shared. Those of any and of certain slots follow, so
/// that all tickets are one range.
const MAIN: i64 = 5 * AREA;
/// Tickets for any slot.
const ANY: i64 = 6 * AREA;
/// Tickets for certain slots.
const CERTAIN: i64 = 7 * AREA;
/// The door is one byte.
const DOOR: i64 = 8 * AREA;
/// Signs of grants that have a token, by their numbers.
const TOKEN_GRANTS: i64 = 9 * AREA;
/// Signs of tokens that have an owner: `STRIDE` bytes for each owner, one for
/// each process that holds the lock for it.
const TOKEN_OWNERS: i64 = 10 * AREA;

/// Distance of two tickets: more than the largest process id, which is 2^22.
const STRIDE: i64 = 1 << 24;
/// Numbers that fit into an area: at one a microsecond, for nine hours
/// without the queue ever being empty.
const NUMBERS: i64 = AREA / STRIDE;
/// A slot's lane.
const LANE: i64 = NUMBERS;
/// More slots have never been asked for; their lanes fit into an area.
pub const MAX_SLOTS: u32 = 1 << 20;

/// A place in the queue: a number, lower ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(i64);

/// Tickets, one behind the other: some area of the file.
#[derive(Clone, Copy)]
struct Lane {
    start: i64,
    stride: i64,
    /// What conflicts in it. Where all tickets are write locks, `Read`: then
    /// nobody's sleep on one is taken for a ticket.
    kind: Kind,
}

impl Lane {
    fn tickets(start: i64, kind: Kind) -> Self {
        Self { start, stride: STRIDE, kind }
    }

    fn of_slot(slot: u32) -> Self {
        Self { start: SLOT_LANES + i64::from(slot) * LANE, stride: 1, kind: Kind::Read }
    }

    /// Those who wait for any of so many slots.
    fn of_pool(slots: u32) -> Self {
        Self { start: POOL_LANES + i64::from(slots) * LANE, stride: 1, kind: Kind::Read }
    }

    fn at(self, number: i64) -> i64 {
        self.start + number * self.stride
    }

    /// The byte that the next in the queue sleeps on. Where there is room, not
    /// the first one, so that a lock on it is never taken for a ticket.
    fn wait_byte(self, ticket: Ticket) -> i64 {
        self.at(ticket.0) + i64::from(self.stride > 1)
    }
}

/// The lanes in which somebody can be whom a request of this mode may not
/// pass; beside them, for a certain slot, those of pools that have it.
fn lanes_before(mode: Mode) -> Vec<Lane> {
    let main = |kind| Lane::tickets(MAIN, kind);
    let [any, certain] = [ANY, CERTAIN].map(|area| Lane::tickets(area, Kind::Read));
    match mode {
        Mode::Exclusive => vec![main(Kind::Write), any, certain],
        Mode::Shared => vec![main(Kind::Read), any, certain],
        Mode::Slot { which: None, .. } => vec![main(Kind::Write), any],
        Mode::Slot { which: Some(slot), .. } => vec![main(Kind::Write), Lane::of_slot(slot)],
    }
}

/// A process that calls itself one that holds the lock on behalf of another.
pub struct OwnedToken {
    /// On whose end it lets go.
    pub owner: i32,
    /// The process.
    pub holder: i32,
}

fn bytes_of_owner(owner: i32) -> i64 {
    TOKEN_OWNERS + i64::from(owner) * STRIDE
}

/// Only numbers that no clock made are larger than the area.
fn number_of(fence: u64) -> Option<i64> {
    i64::try_from(fence).ok().filter(|number| *number < AREA)
}

/// Whether bytes that begin here are a ticket.
pub fn is_ticket(first: i64) -> bool {
    (MAIN..DOOR).contains(&first)
}

/// The grant that these bytes of somebody else's are the sign of.
pub fn fence_of_token_byte(first: i64) -> Option<u64> {
    (TOKEN_GRANTS..TOKEN_OWNERS).contains(&first).then(|| (first - TOKEN_GRANTS) as u64)
}

/// The file that holds door and tickets, on an open file description of its
/// own: closing it gives all of them back.
pub struct Queue {
    file: File,
}

impl Queue {
    /// The queue on this file, which must be open for writing.
    pub fn on(file: File) -> Self {
        Self { file }
    }

    /// The file, for its text.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn bytes(&self) -> ByteLock<'_> {
        ByteLock::on(self.file.as_fd())
    }

    /// Enters the door if nobody is in it.
    ///
    /// # Errors
    /// The file system has no byte-range locks, or `ENOLCK`.
    pub fn try_enter_door(&self) -> io::Result<bool> {
        self.bytes().try_lock(Kind::Write, DOOR, 1)
    }

    /// Enters the door, asleep until whoever is in it has left.
    ///
    /// # Errors
    /// `EINTR`, when a timer or a signal came.
    pub fn enter_door(&self) -> io::Result<()> {
        if self.try_enter_door()? { Ok(()) } else { self.bytes().lock(Kind::Write, DOOR, 1) }
    }

    /// Leaves the door.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn leave_door(&self) -> io::Result<()> {
        self.bytes().unlock(DOOR, 1)
    }

    /// Whether somebody waits who goes before a newcomer of this mode.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn somebody_waits(&self, mode: Mode) -> io::Result<bool> {
        let pools_with = |slot: u32| (Lane::of_pool(slot + 1).start, Lane::of_pool(MAX_SLOTS + 1).start);
        let lane = |lane: Lane| (lane.start, lane.start + NUMBERS * lane.stride);
        let anybody = |kind, (from, to): (i64, i64)| self.bytes().conflict(kind, from, to - from).map(|c| c.is_some());
        // Of the lanes, which adjoin where they can, as few as possible.
        Ok(match mode {
            Mode::Exclusive => anybody(Kind::Write, (MAIN, DOOR))?,
            Mode::Shared => anybody(Kind::Read, (MAIN, DOOR))?,
            Mode::Slot { which: None, .. } => {
                anybody(Kind::Write, (MAIN, ANY))? || anybody(Kind::Read, (ANY, CERTAIN))?
            }
            Mode::Slot { which: Some(slot), .. } => {
                anybody(Kind::Write, (MAIN, ANY))?
                    || anybody(Kind::Read, lane(Lane::of_slot(slot)))?
                    || anybody(Kind::Read, pools_with(slot))?
            }
        })
    }

    /// Whether somebody waits for this certain slot.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn is_slot_wanted(&self, slot: u32) -> io::Result<bool> {
        Ok(self.bytes().conflict(Kind::Read, Lane::of_slot(slot).start, LANE)?.is_some())
    }

    /// Whether somebody who came before `ticket` waits for this certain slot.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn is_slot_wanted_before(&self, ticket: Ticket, slot: u32) -> io::Result<bool> {
        Ok(self.before(Lane::of_slot(slot), ticket)?.is_some())
    }

    /// How many wait, of whatever mode; counted up to `most`.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn waiting(&self, most: usize) -> io::Result<usize> {
        self.count(MAIN, DOOR, most)
    }

    /// As [`waiting`](Self::waiting), without those who end the holder.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn waiting_patiently(&self, most: usize) -> io::Result<usize> {
        let replacers = self.all(REPLACERS, MAIN)?.len();
        Ok(self.waiting(most.saturating_add(replacers))?.saturating_sub(replacers))
    }

    /// The tickets that begin in `from..to`: whichever is found first, those
    /// below it and those above it.
    fn count(&self, from: i64, to: i64, most: usize) -> io::Result<usize> {
        if from >= to || most == 0 {
            return Ok(0);
        }
        let Some(found) = self.bytes().conflict(Kind::Write, from, to - from)? else { return Ok(0) };
        // Not a ticket, but somebody's sleep on one, which is about to end.
        let is_ticket = found.start >= from && (found.start - MAIN) % STRIDE == 0;
        let mut count = usize::from(is_ticket);
        count += self.count(from, found.start, most - count)?;
        count += self.count(found.end(), to, most - count)?;
        Ok(count)
    }

    /// Keeps everybody out of the door while somebody looks: with `Read` on a
    /// file that is open only for reading. Not asleep; `false` if somebody is
    /// in it.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn try_block_door(&self, kind: Kind) -> io::Result<bool> {
        self.bytes().try_lock(kind, DOOR, 1)
    }

    /// Joins the queue at its end. Only under the door.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn draw_ticket(&self, mode: Mode, pid: i32) -> Result<Ticket> {
        let last = self.last().context("cannot read the queue")?;
        let ticket = Ticket(last.map_or(0, |last| last.0 + 1));
        if ticket.0 >= NUMBERS {
            bail!("the queue's numbers are used up: it never was empty since they began");
        }
        let length = i64::from(pid) + 2;
        let lane = match mode {
            Mode::Exclusive => {
                self.draw(Kind::Write, MAIN, ticket, length)?;
                None
            }
            Mode::Shared => {
                self.draw(Kind::Read, MAIN, ticket, length)?;
                None
            }
            Mode::Slot { which: None, of } => {
                self.draw(Kind::Write, ANY, ticket, length)?;
                Some(Lane::of_pool(of))
            }
            Mode::Slot { which: Some(slot), .. } => {
                self.draw(Kind::Write, CERTAIN, ticket, length)?;
                Some(Lane::of_slot(slot))
            }
        };
        if let Some(lane) = lane {
            self.bytes().try_lock(Kind::Write, lane.at(ticket.0), 1).context("cannot join the queue")?;
        }
        Ok(ticket)
    }

    fn draw(&self, kind: Kind, area: i64, ticket: Ticket, length: i64) -> Result<()> {
        let start = area + ticket.0 * STRIDE;
        if !self.bytes().try_lock(kind, start, length).context("cannot join the queue")? {
            bail!("cannot join the queue: place {} is taken by somebody who did not come through the door", ticket.0);
        }
        Ok(())
    }

    /// Gives back what tickets this description has.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn give_tickets_back(&self) -> io::Result<()> {
        self.bytes().unlock(SLOT_LANES, DOOR - SLOT_LANES)
    }

    /// Marks the ticket as one of somebody who ends the holder.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn mark_as_replacer(&self, ticket: Ticket, pid: i32) -> io::Result<()> {
        self.bytes().try_lock(Kind::Write, REPLACERS + ticket.0 * STRIDE, i64::from(pid) + 2).map(drop)
    }

    /// The processes that wait and will end the holder, of those before
    /// `ticket`.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn replacers_before(&self, ticket: Ticket) -> io::Result<Vec<i32>> {
        let replacers = self.all(REPLACERS, REPLACERS + ticket.0 * STRIDE)?;
        Ok(replacers.into_iter().filter_map(|found| i32::try_from(found.len - 2).ok()).collect())
    }

    /// Whatever others have locked in `from..to`.
    fn all(&self, from: i64, to: i64) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        let mut ranges = vec![(from, to)];
        while let Some((from, to)) = ranges.pop() {
            if let Some(found) = self.bytes().conflict(Kind::Write, from, to - from)? {
                ranges.push((from, found.start));
                ranges.push((found.end(), to));
                all.push(found);
            }
        }
        Ok(all)
    }

    /// Lets those who run under a token find its grant, until
    /// [`withdraw_token`](Self::withdraw_token) or the end of this process,
    /// which holds the lock. It is held on behalf of `owner`, if of anybody.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn announce_token(&self, fence: u64, owner: Option<i32>, pid: i32) -> io::Result<()> {
        if let Some(number) = number_of(fence) {
            self.bytes().try_lock(Kind::Read, TOKEN_GRANTS + number, 1)?;
        }
        if let Some(owner) = owner {
            self.bytes().try_lock(Kind::Read, bytes_of_owner(owner) + i64::from(pid), 1)?;
        }
        Ok(())
    }

    /// The token's lock is given back.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn withdraw_token(&self) -> io::Result<()> {
        self.bytes().unlock(TOKEN_GRANTS, TOKEN_OWNERS + AREA - TOKEN_GRANTS)
    }

    /// Whether this grant's token is held now.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn is_token_held(&self, fence: u64) -> io::Result<bool> {
        let Some(number) = number_of(fence) else { return Ok(false) };
        Ok(self.bytes().conflict(Kind::Write, TOKEN_GRANTS + number, 1)?.is_some())
    }

    /// The processes that call themselves holders for one of these owners.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn keepers_for(&self, owners: impl Iterator<Item = i32>) -> io::Result<Vec<OwnedToken>> {
        let mut signs = Vec::new();
        if self.bytes().conflict(Kind::Write, TOKEN_OWNERS, AREA)?.is_some() {
            for owner in owners {
                let start = bytes_of_owner(owner);
                let found = self.all(start, start + STRIDE)?;
                let holders = found.into_iter().filter_map(|found| i32::try_from(found.start - start).ok());
                signs.extend(holders.map(|holder| OwnedToken { owner, holder }));
            }
        }
        Ok(signs)
    }

    /// Sleeps until nobody before `ticket` is in the way any more.
    ///
    /// # Errors
    /// `EINTR`, when a timer or a signal came.
    pub fn wait_for_turn(&self, ticket: Ticket, mode: Mode) -> io::Result<()> {
        // Numbers only grow, so a lane that is empty before us stays so: asked
        // now, there is less to ask when the lock is handed over.
        let mut lanes = Vec::new();
        for lane in lanes_before(mode) {
            if let Some(before) = self.before(lane, ticket)? {
                lanes.push((lane, before));
            }
        }
        for (lane, before) in lanes {
            self.sleep_on(lane, before)?;
            self.wait_in(lane, ticket)?;
        }
        if let Mode::Slot { which: Some(slot), .. } = mode {
            while let Some(before) = self.in_a_pool_before(slot, ticket)? {
                self.sleep_on(Lane::tickets(ANY, Kind::Read), before)?;
            }
        }
        Ok(())
    }

    /// One of those who came before `ticket` and would take this place as
    /// well as any other of their pool.
    fn in_a_pool_before(&self, slot: u32, ticket: Ticket) -> io::Result<Option<Ticket>> {
        // Sizes of pools, of which there are few in a queue.
        let mut sizes = vec![(slot + 1, MAX_SLOTS + 1)];
        while let Some((from, to)) = sizes.pop() {
            let [start, end] = [from, to].map(|size| Lane::of_pool(size).start);
            if let Some(found) = self.bytes().conflict(Kind::Read, start, end - start)? {
                let size = u32::try_from((found.start - POOL_LANES) / LANE).unwrap_or(from);
                if let Some(before) = self.before(Lane::of_pool(size), ticket)? {
                    return Ok(Some(before));
                }
                sizes.push((from, size));
                sizes.push((size + 1, to));
            }
        }
        Ok(None)
    }

    /// Sleeps until nobody who came before `ticket` wants this certain slot.
    ///
    /// # Errors
    /// `EINTR`, when a timer or a signal came.
    pub fn wait_for_slot_turn(&self, ticket: Ticket, slot: u32) -> io::Result<()> {
        self.wait_in(Lane::of_slot(slot), ticket)
    }

    fn wait_in(&self, lane: Lane, ticket: Ticket) -> io::Result<()> {
        while let Some(before) = self.before(lane, ticket)? {
            self.sleep_on(lane, before)?;
        }
        Ok(())
    }

    fn sleep_on(&self, lane: Lane, before: Ticket) -> io::Result<()> {
        let byte = lane.wait_byte(before);
        self.bytes().lock(lane.kind, byte, 1)?;
        self.bytes().unlock(byte, 1)
    }

    /// The last of those in a lane who go before `ticket`.
    fn before(&self, lane: Lane, ticket: Ticket) -> io::Result<Option<Ticket>> {
        // Whoever has slept, and is to go on, finds nobody.
        if self.bytes().conflict(lane.kind, lane.start, ticket.0 * lane.stride)?.is_none() {
            return Ok(None);
        }
        // Nearly always it is the neighbour.
        if ticket.0 > 0 {
            let neighbour = Ticket(ticket.0 - 1);
            if self.bytes().conflict(lane.kind, lane.at(neighbour.0), lane.stride)?.is_some() {
                return Ok(Some(neighbour));
            }
        }
        self.highest(lane, ticket)
    }

    /// The highest number that waits.
    fn last(&self) -> io::Result<Option<Ticket>> {
        let end = Ticket(NUMBERS);
        let lanes = [(MAIN, Kind::Write), (ANY, Kind::Read), (CERTAIN, Kind::Read)];
        lanes.into_iter().try_fold(None, |last: Option<Ticket>, (area, kind)| {
            Ok(last.max(self.highest(Lane::tickets(area, kind), end)?))
        })
    }

    /// The highest ticket of a lane below `to`.
    ///
    /// A query returns any conflict of its range, most often the oldest, so
    /// the lower end moves up in growing steps.
    fn highest(&self, lane: Lane, to: Ticket) -> io::Result<Option<Ticket>> {
        let found = |from: i64, to: i64| -> io::Result<Option<i64>> {
            let conflict = self.bytes().conflict(lane.kind, lane.at(from), (to - from) * lane.stride)?;
            Ok(conflict.map(|found| ((found.start - lane.start) / lane.stride).max(from)))
        };
        let Some(mut highest) = found(0, to.0)? else { return Ok(None) };
        // Something is at `highest`, nothing at or above `end`.
        let mut end = to.0;
        let mut step = 1;
        while highest + 1 < end {
            let next = (highest + step).min(end - 1);
            match found(next, end)? {
                Some(higher) => {
                    highest = higher;
                    step *= 2;
                }
                None => {
                    end = next;
                    step = (step / 2).max(1);
                }
            }
        }
        Ok(Some(Ticket(highest)))
    }
}
