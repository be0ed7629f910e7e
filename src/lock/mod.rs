//! Locks: what can be asked of them, and what an engine that grants them has
//! to offer.
//!
//! An engine never prints and knows no exit codes: busy, queued, lost are
//! values here, and only the unexpected is an error.

pub mod file;

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::record::{Claim, Record};
use crate::sys::{self, Mask};

/// Who may hold a lock beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody.
    Exclusive,
    /// Others who share it.
    Shared,
    /// Those who have another slot of the pool.
    Slot {
        /// Size of the pool.
        of: u32,
        /// Exactly this one; `None`: any.
        which: Option<u32>,
    },
}

/// A whole number of any length, by which one certain slot is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeNumber {
    digits: String,
    is_negative: bool,
}

impl WholeNumber {
    /// From decimal digits behind an optional sign.
    ///
    /// # Errors
    /// It is something else: why, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_negative = text.starts_with('-');
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("not a whole number".into());
        }
        Ok(Self { digits: digits.into(), is_negative })
    }

    /// The slot that it stands for in a pool of so many: -1 is the last one.
    pub fn modulo(&self, slots: u32) -> u32 {
        let slots = u64::from(slots);
        let rest = self.digits.bytes().fold(0, |rest, digit| (rest * 10 + u64::from(digit - b'0')) % slots);
        (if self.is_negative { (slots - rest) % slots } else { rest }) as u32
    }
}

/// Which lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `DIR/NAME.lock`.
    Name(Vec<u8>),
    /// Exactly this file or directory.
    Path(PathBuf),
}

impl Target {
    /// As the user gave it.
    pub fn name(&self) -> &[u8] {
        match self {
            Target::Name(name) => name,
            Target::Path(path) => path.as_os_str().as_bytes(),
        }
    }
}

/// What is asked of all locks of a request.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Who may hold them beside us.
    pub mode: Mode,
    /// Fail if so many wait already, instead of waiting with them.
    pub max_waiters: Option<u32>,
    /// End who holds them.
    pub replace: bool,
    /// Take what a lockrun around us holds for held.
    pub reentrant: bool,
}

/// How long to wait, and what may interrupt it.
#[derive(Clone, Copy)]
pub struct Patience {
    /// When to give up; `None`: never. On the monotonic clock.
    pub deadline: Option<Instant>,
    /// Whether to wait in the queue at all (`--timeout 0` does not).
    pub queue: bool,
    /// The signals that the caller had blocked: all others may end us in the
    /// short moments in which even a request has to wait.
    pub mask: Mask,
}

impl Patience {
    /// What is left until the deadline; `None`: no limit.
    pub fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the deadline has passed, or a signal has come that ends or
    /// interrupts the wait ([`sys::Interrupter`](crate::sys::Interrupter)).
    pub fn is_over(&self) -> bool {
        sys::has_caught() || self.left().is_some_and(|left| left.is_zero())
    }
}

/// What an engine answers to a request.
pub enum Admission<P, H> {
    /// Ours, from now on.
    Granted(H),
    /// Not now; but this is our place in the queue.
    Queued(P),
    /// Not now, and it is not waited for.
    Refused(Refusal),
    /// Could not even be asked until the deadline.
    TimedOut,
}

/// Why a lock is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Held in conflict, or others wait, and we were not to wait.
    Busy,
    /// As many wait as are allowed to.
    QueueFull,
    /// It is held around us, and would never be free.
    Deadlock,
}

/// How waiting in a [`Place`] ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// The lock is ours.
    Granted,
    /// What we waited for is gone (the lock file was removed or replaced):
    /// ask anew.
    Again,
    /// The deadline passed, or a signal was caught.
    TimedOut,
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lock's name as it was given.
    pub name: Vec<u8>,
    /// The file in the locks directory that remembers this grant.
    pub file: String,
    /// Rises with every grant of this name, so that a store can refuse a
    /// holder that was paused past its expiry.
    pub fence: u64,
    /// Our slot of a pool.
    pub slot: Option<u32>,
    /// How a lockrun under this one recognises the grant.
    pub marker: String,
}

/// How a lock was lost while we believed to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The lock's name.
    pub name: Vec<u8>,
    /// What happened, as a clause: "its file … was removed".
    pub how: String,
}

/// An engine that grants locks.
pub trait Store {
    /// A place in its queue.
    type Place: Place<Held = Self::Held>;
    /// A granted lock.
    type Held: Held;

    /// Takes the lock if nobody holds it in conflict and nobody waits for it,
    /// and joins the queue otherwise.
    ///
    /// # Errors
    /// Anything that keeps the engine from knowing that the lock is ours:
    /// then it is not.
    ///
    /// # Crash
    /// Whoever dies in here leaves nothing that blocks anyone.
    fn request(&self, patience: &Patience) -> Result<Admission<Self::Place, Self::Held>>;

    /// Who holds the lock now, as far as it can be seen from here.
    fn holders(&self) -> Vec<Holder>;
}

/// A place in a queue, made before there is a child: the child waits in it, the
/// parent watches the child.
pub trait Place: Sized {
    /// What the place turns into.
    type Held: Held;

    /// Waits for our turn, asleep. In a process of its own that is ended to give
    /// up, or in the process itself with an interrupting timer running.
    ///
    /// # Errors
    /// As [`Store::request`].
    fn wait(&mut self, patience: &Patience) -> Result<Turn>;

    /// Does what a grant will do, as far as it can be done in advance: after
    /// it, everybody waits for every microsecond. Returns the grants, if all
    /// but their numbers can be foretold.
    fn prepare(&mut self, claim: &Claim) -> Option<Vec<Grant>>;

    /// The same place for a process that lives in our memory, whose own are
    /// only its descriptors.
    fn of_cohabitant(&self) -> Self;

    /// Leaves the place to the other process alone: it ends with that one.
    fn leave_to_child(&mut self);

    /// After [`Turn::Granted`], in both processes.
    fn into_held(self) -> Self::Held;
}

/// A granted lock. Dropping it without [`Held::release`] lets go as a crash
/// would: once every process that inherited it is gone.
pub trait Held {
    /// Numbers the grant and records who holds the lock. To be called once,
    /// by the holder.
    ///
    /// # Errors
    /// None for a text that cannot be written (disk full, read-only): the
    /// lock is held all the same.
    fn settle(&mut self, claim: &Claim) -> Result<()>;

    /// What was granted, once that is settled.
    fn grants(&self) -> Vec<Grant>;

    /// The numbers of the [`grants`](Self::grants), in their order.
    fn fences(&self) -> Vec<u64>;

    /// Lets the next in the queue come forward. Executing COMMAND does it
    /// too, a little later for us and not at all at our expense.
    fn step_aside(&mut self);

    /// Descriptors that COMMAND inherits, so that the lock stays while
    /// COMMAND lives even if we are killed.
    fn descriptors(&self) -> Vec<RawFd>;

    /// Changes what is recorded about the grant that [`settle`](Self::settle)
    /// made, as long as nobody else has written there since. A text that
    /// cannot be written changes nothing.
    fn amend(&self, change: &dyn Fn(&mut Record));

    /// Whether the lock has been lost meanwhile.
    fn lost(&self) -> Option<Lost>;

    /// Gives the lock back, also from processes that still have it open.
    ///
    /// # Errors
    /// Where the lock could not be given back.
    fn release(&mut self) -> Result<()>;
}

/// Somebody who holds a lock, for messages. Nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its process, if the kernel shows one.
    pub pid: Option<i32>,
    /// Its command line, not yet made safe to print.
    pub command: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// For how long it has held the lock.
    pub age: Option<Duration>,
    /// When it expires, RFC 3339.
    pub expires: Option<String>,
    /// The process on whose end a token is let go.
    pub owner: Option<i32>,
    /// When the lock was granted, RFC 3339.
    pub since: Option<String>,
    /// The grant's number.
    pub fence: Option<u64>,
    /// Its slot of a pool.
    pub slot: Option<u32>,
    /// Size of the pool, as this holder sees it.
    pub slots: Option<u32>,
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// By nobody, for certain.
    Free,
    /// By one who excludes all others.
    Exclusive,
    /// By one or more who share it.
    Shared,
    /// That cannot be seen from here.
    Unknown,
}

/// A lock that somebody looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name, or the path that it was locked by.
    pub name: Vec<u8>,
    /// The file that is locked.
    pub path: PathBuf,
    /// How it is held.
    pub state: LockState,
    /// Who holds it, as far as can be seen: perhaps nobody although it is
    /// held.
    pub holders: Vec<Holder>,
    /// How many wait for it.
    pub waiting: usize,
}

impl Seen {
    /// Whether somebody who does not wait would get it.
    pub fn is_free(&self) -> bool {
        self.state == LockState::Free && self.waiting == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_whole_number_is_a_slot_as_in_arithmetic(number: i128, slots in 1_u32..) {
            let slot = WholeNumber::parse(&number.to_string()).unwrap().modulo(slots);
            prop_assert_eq!(i128::from(slot), number.rem_euclid(slots.into()));
        }
    }

    #[test]
    fn of_any_length_and_with_a_sign() {
        let modulo = |text: &str| WholeNumber::parse(text).map(|number| number.modulo(5)).ok();
        assert_eq!(modulo(&format!("1{}2", "0".repeat(1000))), Some(2));
        assert_eq!(modulo(&format!("-1{}2", "0".repeat(1000))), Some(3));
        assert_eq!([modulo("+7"), modulo("-0"), modulo("-5")], [Some(2), Some(0), Some(0)]);
        for wrong in ["", "-", "+-1", "1.0", "1e3", "0x1", " 1", "one"] {
            assert_eq!(modulo(wrong), None, "{wrong}");
        }
    }
}
