//! The queue before a lock: the door and the tickets, all of them byte-range
//! locks far beyond any text of the file.
//!
//! A ticket with number `n` of process `p` is a lock on the `p + 2` bytes
//! from the start of its area plus `n * STRIDE`. So whoever finds it knows its
//! number and its process. Numbers are given under the door, one more than
//! the highest that waits; nothing is stored.
//!
//! Who goes before whom is the kernel's own rule for conflicts, over lines:
//!
//! | who | his tickets | whom he lets go first |
//! |---|---|---|
//! | exclusive | main, write | all before him |
//! | shared | main, read | before him: all but shared ones |
//! | any of N places | any place, write; pool N | before him: main and any place |
//! | place K of a pool | certain places, write; line K | before him: main, line K, pools of more than K places |
//!
//! So those who wait for different places of a pool do not hold each other
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
/// Places of a pool that are held, a byte each; on the lock's description.
pub(super) const HELD_PLACES: i64 = AREA;
/// Lines for certain places: `LINE` bytes for each, one for each number.
const PLACE_LINES: i64 = 2 * AREA;
/// And one for each size of a pool of which any place is waited for.
const POOL_LINES: i64 = 3 * AREA;
/// Those who wait and will end the holder, numbered as their tickets.
const REPLACERS: i64 = 4 * AREA;
/// Tickets: exclusive, shared. Those of any and of certain places follow, so
/// that all tickets are one range.
const MAIN: i64 = 5 * AREA;
/// Tickets for any place.
const ANY: i64 = 6 * AREA;
/// Tickets for certain places.
const CERTAIN: i64 = 7 * AREA;
/// The door is one byte.
const DOOR: i64 = 8 * AREA;
/// Signs of grants that have a token, by their numbers.
const GRANTS: i64 = 9 * AREA;
/// Signs of tokens that have an owner: `STRIDE` bytes for each owner, one for
/// each process that holds the lock for it.
const OWNERS: i64 = 10 * AREA;

/// Distance of two tickets: more than the largest process id, which is 2^22.
const STRIDE: i64 = 1 << 24;
/// Numbers that fit into an area: at one a microsecond, for nine hours
/// without the queue ever being empty.
const NUMBERS: i64 = AREA / STRIDE;
/// A place's line.
const LINE: i64 = NUMBERS;
/// More places have never been asked for; their lines fit into an area.
pub const MOST_PLACES: u32 = 1 << 20;

/// A place in the queue: a number, lower ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(i64);

/// Tickets, one behind the other: some area of the file.
#[derive(Clone, Copy)]
struct Line {
    start: i64,
    stride: i64,
    /// What conflicts in it. Where all tickets are write locks, `Read`: then
    /// nobody's sleep on one is taken for a ticket.
    kind: Kind,
}

impl Line {
    fn tickets(start: i64, kind: Kind) -> Self {
        Self { start, stride: STRIDE, kind }
    }

    fn of_place(place: u32) -> Self {
        Self { start: PLACE_LINES + i64::from(place) * LINE, stride: 1, kind: Kind::Read }
    }

    /// Those who wait for any of so many places.
    fn of_pool(places: u32) -> Self {
        Self { start: POOL_LINES + i64::from(places) * LINE, stride: 1, kind: Kind::Read }
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

/// The lines in which somebody can be whom a request of this mode may not
/// pass; beside them, for a certain place, those of pools that have it.
fn lines_before(mode: Mode) -> Vec<Line> {
    let main = |kind| Line::tickets(MAIN, kind);
    let [any, certain] = [ANY, CERTAIN].map(|area| Line::tickets(area, Kind::Read));
    match mode {
        Mode::Exclusive => vec![main(Kind::Write), any, certain],
        Mode::Shared => vec![main(Kind::Read), any, certain],
        Mode::Place { which: None, .. } => vec![main(Kind::Write), any],
        Mode::Place { which: Some(place), .. } => vec![main(Kind::Write), Line::of_place(place)],
    }
}

/// A process that calls itself one that holds the lock on behalf of another.
pub struct OwnedSign {
    /// On whose end it lets go.
    pub owner: i32,
    /// The process.
    pub holder: i32,
}

fn signs_of_owner(owner: i32) -> i64 {
    OWNERS + i64::from(owner) * STRIDE
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
pub fn grant_of_sign(first: i64) -> Option<u64> {
    (GRANTS..OWNERS).contains(&first).then(|| (first - GRANTS) as u64)
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
        let pools_with = |place: u32| (Line::of_pool(place + 1).start, Line::of_pool(MOST_PLACES + 1).start);
        let line = |line: Line| (line.start, line.start + NUMBERS * line.stride);
        let anybody = |kind, (from, to): (i64, i64)| self.bytes().conflict(kind, from, to - from).map(|c| c.is_some());
        // Of the lines, which adjoin where they can, as few as possible.
        Ok(match mode {
            Mode::Exclusive => anybody(Kind::Write, (MAIN, DOOR))?,
            Mode::Shared => anybody(Kind::Read, (MAIN, DOOR))?,
            Mode::Place { which: None, .. } => {
                anybody(Kind::Write, (MAIN, ANY))? || anybody(Kind::Read, (ANY, CERTAIN))?
            }
            Mode::Place { which: Some(place), .. } => {
                anybody(Kind::Write, (MAIN, ANY))?
                    || anybody(Kind::Read, line(Line::of_place(place)))?
                    || anybody(Kind::Read, pools_with(place))?
            }
        })
    }

    /// Whether somebody waits for this certain place.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn is_place_wanted(&self, place: u32) -> io::Result<bool> {
        Ok(self.bytes().conflict(Kind::Read, Line::of_place(place).start, LINE)?.is_some())
    }

    /// Whether somebody who came before `ticket` waits for this certain place.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn is_place_wanted_before(&self, ticket: Ticket, place: u32) -> io::Result<bool> {
        Ok(self.before(Line::of_place(place), ticket)?.is_some())
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
        let line = match mode {
            Mode::Exclusive => {
                self.draw(Kind::Write, MAIN, ticket, length)?;
                None
            }
            Mode::Shared => {
                self.draw(Kind::Read, MAIN, ticket, length)?;
                None
            }
            Mode::Place { which: None, of } => {
                self.draw(Kind::Write, ANY, ticket, length)?;
                Some(Line::of_pool(of))
            }
            Mode::Place { which: Some(place), .. } => {
                self.draw(Kind::Write, CERTAIN, ticket, length)?;
                Some(Line::of_place(place))
            }
        };
        if let Some(line) = line {
            self.bytes().try_lock(Kind::Write, line.at(ticket.0), 1).context("cannot join the queue")?;
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
        self.bytes().unlock(PLACE_LINES, DOOR - PLACE_LINES)
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
    /// [`take_signs_away`](Self::take_signs_away) or the end of this process,
    /// which holds the lock. It is held on behalf of `owner`, if of anybody.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn put_signs_up(&self, fence: u64, owner: Option<i32>, pid: i32) -> io::Result<()> {
        if let Some(number) = number_of(fence) {
            self.bytes().try_lock(Kind::Read, GRANTS + number, 1)?;
        }
        if let Some(owner) = owner {
            self.bytes().try_lock(Kind::Read, signs_of_owner(owner) + i64::from(pid), 1)?;
        }
        Ok(())
    }

    /// The token's lock is given back.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn take_signs_away(&self) -> io::Result<()> {
        self.bytes().unlock(GRANTS, OWNERS + AREA - GRANTS)
    }

    /// Whether this grant's token is held now.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn has_sign_of_grant(&self, fence: u64) -> io::Result<bool> {
        let Some(number) = number_of(fence) else { return Ok(false) };
        Ok(self.bytes().conflict(Kind::Write, GRANTS + number, 1)?.is_some())
    }

    /// The processes that call themselves holders for one of these owners.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn signs_of_owners(&self, owners: impl Iterator<Item = i32>) -> io::Result<Vec<OwnedSign>> {
        let mut signs = Vec::new();
        if self.bytes().conflict(Kind::Write, OWNERS, AREA)?.is_some() {
            for owner in owners {
                let start = signs_of_owner(owner);
                let found = self.all(start, start + STRIDE)?;
                let holders = found.into_iter().filter_map(|found| i32::try_from(found.start - start).ok());
                signs.extend(holders.map(|holder| OwnedSign { owner, holder }));
            }
        }
        Ok(signs)
    }

    /// Sleeps until nobody before `ticket` is in the way any more.
    ///
    /// # Errors
    /// `EINTR`, when a timer or a signal came.
    pub fn wait_for_turn(&self, ticket: Ticket, mode: Mode) -> io::Result<()> {
        // Numbers only grow, so a line that is empty before us stays so: asked
        // now, there is less to ask when the lock is handed over.
        let mut lines = Vec::new();
        for line in lines_before(mode) {
            if let Some(before) = self.before(line, ticket)? {
                lines.push((line, before));
            }
        }
        for (line, before) in lines {
            self.sleep_on(line, before)?;
            self.wait_in(line, ticket)?;
        }
        if let Mode::Place { which: Some(place), .. } = mode {
            while let Some(before) = self.in_a_pool_before(place, ticket)? {
                self.sleep_on(Line::tickets(ANY, Kind::Read), before)?;
            }
        }
        Ok(())
    }

    /// One of those who came before `ticket` and would take this place as
    /// well as any other of their pool.
    fn in_a_pool_before(&self, place: u32, ticket: Ticket) -> io::Result<Option<Ticket>> {
        // Sizes of pools, of which there are few in a queue.
        let mut sizes = vec![(place + 1, MOST_PLACES + 1)];
        while let Some((from, to)) = sizes.pop() {
            let [start, end] = [from, to].map(|size| Line::of_pool(size).start);
            if let Some(found) = self.bytes().conflict(Kind::Read, start, end - start)? {
                let size = u32::try_from((found.start - POOL_LINES) / LINE).unwrap_or(from);
                if let Some(before) = self.before(Line::of_pool(size), ticket)? {
                    return Ok(Some(before));
                }
                sizes.push((from, size));
                sizes.push((size + 1, to));
            }
        }
        Ok(None)
    }

    /// Sleeps until nobody who came before `ticket` wants this certain place.
    ///
    /// # Errors
    /// `EINTR`, when a timer or a signal came.
    pub fn wait_for_place_turn(&self, ticket: Ticket, place: u32) -> io::Result<()> {
        self.wait_in(Line::of_place(place), ticket)
    }

    fn wait_in(&self, line: Line, ticket: Ticket) -> io::Result<()> {
        while let Some(before) = self.before(line, ticket)? {
            self.sleep_on(line, before)?;
        }
        Ok(())
    }

    fn sleep_on(&self, line: Line, before: Ticket) -> io::Result<()> {
        let byte = line.wait_byte(before);
        self.bytes().lock(line.kind, byte, 1)?;
        self.bytes().unlock(byte, 1)
    }

    /// The last of those in a line who go before `ticket`.
    fn before(&self, line: Line, ticket: Ticket) -> io::Result<Option<Ticket>> {
        // Whoever has slept, and is to go on, finds nobody.
        if self.bytes().conflict(line.kind, line.start, ticket.0 * line.stride)?.is_none() {
            return Ok(None);
        }
        // Nearly always it is the neighbour.
        if ticket.0 > 0 {
            let neighbour = Ticket(ticket.0 - 1);
            if self.bytes().conflict(line.kind, line.at(neighbour.0), line.stride)?.is_some() {
                return Ok(Some(neighbour));
            }
        }
        self.highest(line, ticket)
    }

    /// The highest number that waits.
    fn last(&self) -> io::Result<Option<Ticket>> {
        let end = Ticket(NUMBERS);
        let lines = [(MAIN, Kind::Write), (ANY, Kind::Read), (CERTAIN, Kind::Read)];
        lines.into_iter().try_fold(None, |last: Option<Ticket>, (area, kind)| {
            Ok(last.max(self.highest(Line::tickets(area, kind), end)?))
        })
    }

    /// The highest ticket of a line below `to`.
    ///
    /// A query returns any conflict of its range, most often the oldest, so
    /// the lower end moves up in growing steps.
    fn highest(&self, line: Line, to: Ticket) -> io::Result<Option<Ticket>> {
        let found = |from: i64, to: i64| -> io::Result<Option<i64>> {
            let conflict = self.bytes().conflict(line.kind, line.at(from), (to - from) * line.stride)?;
            Ok(conflict.map(|found| ((found.start - line.start) / line.stride).max(from)))
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
