//! The queue before a lock: the door and the tickets, all of them byte-range
//! locks far beyond any text of the file.
//!
//! A ticket with number `n` of process `p` is a lock on the `p + 2` bytes
//! from `TICKETS + n * STRIDE`. So whoever finds it knows its number and its
//! process, and the kernel's own rule for conflicts is the queue's: shared
//! waiters hold read locks, exclusive ones write locks. Numbers are given
//! under the door, one more than the highest that waits; nothing is stored.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};

use crate::lock::Mode;
use crate::sys::{ByteLock, Kind};

/// The door is one byte at this offset. Files have at most 2^63 - 1 bytes,
/// and ext4 only 2^44: no text reaches it.
const DOOR: i64 = 1 << 62;
/// The tickets' offsets begin here.
const TICKETS: i64 = 1 << 61;
/// Distance of two tickets: more than the largest process id, which is 2^22.
const STRIDE: i64 = 1 << 24;
/// As many as fit below the door: at one a microsecond, for a day and a half
/// without the queue ever being empty.
const NUMBERS: i64 = (DOOR - TICKETS) / STRIDE;

/// A place in the queue: a number, lower ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(i64);

impl Ticket {
    fn start(self) -> i64 {
        TICKETS + self.0 * STRIDE
    }

    /// The byte that the next in the queue sleeps on. Not the first one, so
    /// that a lock on it is never taken for a ticket.
    fn wait_byte(self) -> i64 {
        self.start() + 1
    }

    fn of(offset: i64) -> Self {
        Self((offset - TICKETS) / STRIDE)
    }
}

impl Mode {
    fn kind(self) -> Kind {
        match self {
            Mode::Exclusive => Kind::Write,
            Mode::Shared => Kind::Read,
        }
    }
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
        self.bytes().lock(Kind::Write, DOOR, 1)
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
        Ok(self.bytes().conflict(mode.kind(), TICKETS, DOOR - TICKETS)?.is_some())
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

    /// How many wait, of whatever mode; counted up to `most`.
    ///
    /// # Errors
    /// As [`try_enter_door`](Self::try_enter_door).
    pub fn waiting(&self, most: usize) -> io::Result<usize> {
        self.count(TICKETS, DOOR, most)
    }

    /// The tickets that begin in `from..to`: whichever is found first, those
    /// below it and those above it.
    fn count(&self, from: i64, to: i64, most: usize) -> io::Result<usize> {
        if from >= to || most == 0 {
            return Ok(0);
        }
        let Some(found) = self.bytes().conflict(Kind::Write, from, to - from)? else { return Ok(0) };
        // Not a ticket, but somebody's sleep on one, which is about to end.
        let is_ticket = found.start >= from && (found.start - TICKETS) % STRIDE == 0;
        let mut count = usize::from(is_ticket);
        count += self.count(from, found.start, most - count)?;
        count += self.count(found.start.max(from) + found.len.max(1), to, most - count)?;
        Ok(count)
    }

    /// Joins the queue at its end. Only under the door.
    ///
    /// # Errors
    /// `ENOLCK`.
    pub fn draw_ticket(&self, mode: Mode, pid: i32) -> Result<Ticket> {
        let last = self.highest(Kind::Write, Ticket(0), Ticket(NUMBERS)).context("cannot read the queue")?;
        let ticket = Ticket(last.map_or(0, |last| last.0 + 1));
        if ticket.0 >= NUMBERS {
            bail!("the queue's numbers are used up: it never was empty since they began");
        }
        if !self.bytes().try_lock(mode.kind(), ticket.start(), i64::from(pid) + 2).context("cannot join the queue")? {
            bail!("cannot join the queue: place {} is taken by somebody who did not come through the door", ticket.0);
        }
        Ok(ticket)
    }

    /// Sleeps until nobody before `ticket` is in the way any more.
    ///
    /// # Errors
    /// `EINTR`, when a timer or a signal came.
    pub fn wait_for_turn(&self, ticket: Ticket, mode: Mode) -> io::Result<()> {
        while let Some(before) = self.before(ticket, mode)? {
            let byte = before.wait_byte();
            self.bytes().lock(mode.kind(), byte, 1)?;
            self.bytes().unlock(byte, 1)?;
        }
        Ok(())
    }

    /// The last of those who go before `ticket`.
    fn before(&self, ticket: Ticket, mode: Mode) -> io::Result<Option<Ticket>> {
        // Nearly always it is the neighbour.
        if ticket.0 > 0 {
            let neighbour = Ticket(ticket.0 - 1);
            if self.bytes().conflict(mode.kind(), neighbour.start(), STRIDE)?.is_some() {
                return Ok(Some(neighbour));
            }
        }
        self.highest(mode.kind(), Ticket(0), ticket)
    }

    /// The highest ticket in `from..to` that conflicts with `kind`.
    ///
    /// A query returns any conflict of its range, most often the oldest, so
    /// the lower end moves up in growing steps.
    fn highest(&self, kind: Kind, from: Ticket, to: Ticket) -> io::Result<Option<Ticket>> {
        let found = |from: i64, to: i64| -> io::Result<Option<i64>> {
            let range = (Ticket(from).start(), (to - from) * STRIDE);
            Ok(self.bytes().conflict(kind, range.0, range.1)?.map(|found| Ticket::of(found.start).0.max(from)))
        };
        // For fcntl(2), zero bytes mean all there are.
        if from >= to {
            return Ok(None);
        }
        // For fcntl(2), a length of zero means all there is.
        if from >= to {
            return Ok(None);
        }
        let Some(mut highest) = found(from.0, to.0)? else { return Ok(None) };
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
