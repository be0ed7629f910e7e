//! The queue of a lock: the door and the tickets, byte-range locks far beyond
//! any text of the file.
//!
//! The door is a mutex for decisions. A ticket is a place in the queue. Ticket
//! `n` of process `p` locks `p + 2` bytes at the start of its area plus
//! `n * STRIDE`, so the kernel shows its number and its process. Numbers are
//! drawn under the door, one more than the highest that waits; nothing is stored.
//!
//! A lane is a range of tickets that may conflict with a request. Precedence is
//! the kernel's own rule for conflicts, applied to lanes:
//!
//! | request | its tickets | earlier tickets that it waits for |
//! |---|---|---|
//! | exclusive | main, write | all |
//! | shared | main, read | all but shared ones |
//! | any of N slots | any slot, write; pool N | main and any slot |
//! | slot K of a pool | certain slots, write; lane K | main, lane K, pools of more than K slots |
//!
//! So waiters for different slots do not delay each other, and no request
//! overtakes a waiter that it could delay.
//!
//! The keeper of a token announces its grant and its owner in areas of their
//! own, for nested calls below the token.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};

use super::lanes::{
    ANY, AREA, CERTAIN, DOOR, LANE, Lane, MAIN, NUMBERS, OwnedToken, POOL_LANES, REPLACERS, SLOT_LANES, STRIDE,
    TOKEN_GRANTS, TOKEN_OWNERS, Ticket, bytes_of_owner, lanes_before, number_of,
};
use crate::lock::{MAX_SLOTS, Mode};
use crate::sys::{ByteLock, Found, Kind};

/// The file with door and tickets, on an open file description of its own:
/// closing it releases all of them.
///
/// Every call fails with `ENOLCK` when the kernel is out of memory, and where the
/// file system has no byte-range locks. Calls that sleep also fail with `EINTR`
/// when a timer or a signal came.
pub struct Queue {
    file: File,
}

impl Queue {
    /// The queue on this file, which must be open for writing.
    pub fn on(file: File) -> Self {
        Self { file }
    }

    /// The file, for reading and writing its text.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn bytes(&self) -> ByteLock<'_> {
        ByteLock::on(self.file.as_fd())
    }

    pub fn try_enter_door(&self) -> io::Result<bool> {
        self.bytes().try_lock(Kind::Write, DOOR, 1)
    }

    /// Enters the door, asleep until it is free.
    pub fn enter_door(&self) -> io::Result<()> {
        if self.try_enter_door()? { Ok(()) } else { self.bytes().lock(Kind::Write, DOOR, 1) }
    }

    pub fn leave_door(&self) -> io::Result<()> {
        self.bytes().unlock(DOOR, 1)
    }

    /// Whether anybody is waiting that a newcomer of this mode must not overtake.
    pub fn somebody_waits(&self, mode: Mode) -> io::Result<bool> {
        let pools_with = |slot: u32| (Lane::of_pool(slot + 1).start, Lane::of_pool(MAX_SLOTS + 1).start);
        let lane = |lane: Lane| (lane.start, lane.start + NUMBERS * lane.stride);
        let anybody = |kind, (from, to): (i64, i64)| self.bytes().conflict(kind, from, to - from).map(|c| c.is_some());
        // Adjoining lanes are asked about in one call.
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

    pub fn is_slot_wanted(&self, slot: u32) -> io::Result<bool> {
        Ok(self.bytes().conflict(Kind::Read, Lane::of_slot(slot).start, LANE)?.is_some())
    }

    pub fn is_slot_wanted_before(&self, ticket: Ticket, slot: u32) -> io::Result<bool> {
        Ok(self.before(Lane::of_slot(slot), ticket)?.is_some())
    }

    /// Number of waiters of all modes, counted up to `most`.
    pub fn waiting(&self, most: usize) -> io::Result<usize> {
        self.count(MAIN, DOOR, most)
    }

    /// Number of waiters without --replace, counted up to `most`.
    pub fn waiting_patiently(&self, most: usize) -> io::Result<usize> {
        let replacers = self.all(REPLACERS, MAIN)?.len();
        Ok(self.waiting(most.saturating_add(replacers))?.saturating_sub(replacers))
    }

    /// Counts the tickets that begin in `from..to`: one, and those on either side.
    fn count(&self, from: i64, to: i64, most: usize) -> io::Result<usize> {
        if from >= to || most == 0 {
            return Ok(0);
        }
        let Some(found) = self.bytes().conflict(Kind::Write, from, to - from)? else { return Ok(0) };
        // Otherwise a waiter's sleep on a ticket, which is about to end.
        let is_ticket = found.start >= from && (found.start - MAIN) % STRIDE == 0;
        let mut count = usize::from(is_ticket);
        count += self.count(from, found.start, most - count)?;
        count += self.count(found.end(), to, most - count)?;
        Ok(count)
    }

    /// Keeps the door closed while we look, if it is free; with `Read` on a file
    /// that is open only for reading.
    pub fn try_block_door(&self, kind: Kind) -> io::Result<bool> {
        self.bytes().try_lock(kind, DOOR, 1)
    }

    /// Joins the end of the queue. Only under the door.
    pub fn draw_ticket(&self, mode: Mode, pid: i32) -> Result<Ticket> {
        let last = self.last().context("cannot read the queue")?;
        let ticket = Ticket(last.map_or(0, |last| last.0 + 1));
        if ticket.0 >= NUMBERS {
            bail!("the queue has run out of numbers, because it has never been empty");
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
            bail!("cannot join the queue: another program has locked number {} of it", ticket.0);
        }
        Ok(())
    }

    /// Leaves the queue.
    pub fn give_tickets_back(&self) -> io::Result<()> {
        self.bytes().unlock(SLOT_LANES, DOOR - SLOT_LANES)
    }

    pub fn mark_as_replacer(&self, ticket: Ticket) -> io::Result<()> {
        self.bytes().try_lock(Kind::Write, REPLACERS + ticket.0 * STRIDE, 1).map(drop)
    }

    pub fn has_replacer_before(&self, ticket: Ticket) -> io::Result<bool> {
        Ok(self.bytes().conflict(Kind::Write, REPLACERS, ticket.0 * STRIDE)?.is_some())
    }

    /// Everything that other descriptions have locked in `from..to`.
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

    /// Announces a token's grant and its owner, if any, to nested calls, until
    /// [`withdraw_token`](Self::withdraw_token) or the end of this process.
    pub fn announce_token(&self, fence: u64, owner: Option<i32>, pid: i32) -> io::Result<()> {
        if let Some(number) = number_of(fence) {
            self.bytes().try_lock(Kind::Read, TOKEN_GRANTS + number, 1)?;
        }
        if let Some(owner) = owner {
            self.bytes().try_lock(Kind::Read, bytes_of_owner(owner) + i64::from(pid), 1)?;
        }
        Ok(())
    }

    pub fn withdraw_token(&self) -> io::Result<()> {
        self.bytes().unlock(TOKEN_GRANTS, TOKEN_OWNERS + AREA - TOKEN_GRANTS)
    }

    pub fn is_token_held(&self, fence: u64) -> io::Result<bool> {
        let Some(number) = number_of(fence) else { return Ok(false) };
        Ok(self.bytes().conflict(Kind::Write, TOKEN_GRANTS + number, 1)?.is_some())
    }

    /// The processes that claim to be keepers for one of these owners.
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

    /// Sleeps until no earlier ticket is in the way.
    pub fn wait_for_turn(&self, ticket: Ticket, mode: Mode) -> io::Result<()> {
        // Numbers only grow, so a lane that is empty before us stays empty. Asking
        // now saves calls at the hand-over.
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

    /// An earlier ticket for any slot of a pool that contains this one.
    fn in_a_pool_before(&self, slot: u32, ticket: Ticket) -> io::Result<Option<Ticket>> {
        // A queue has pools of few different sizes.
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

    /// Sleeps until no earlier ticket wants this certain slot.
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

    /// The nearest ticket of a lane before `ticket`.
    fn before(&self, lane: Lane, ticket: Ticket) -> io::Result<Option<Ticket>> {
        // The usual answer after a sleep.
        if self.bytes().conflict(lane.kind, lane.start, ticket.0 * lane.stride)?.is_none() {
            return Ok(None);
        }
        // Nearly always it is the previous number.
        if ticket.0 > 0 {
            let neighbour = Ticket(ticket.0 - 1);
            if self.bytes().conflict(lane.kind, lane.at(neighbour.0), lane.stride)?.is_some() {
                return Ok(Some(neighbour));
            }
        }
        self.highest(lane, ticket)
    }

    /// The highest ticket in the queue.
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
