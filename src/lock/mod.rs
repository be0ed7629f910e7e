//! Locks: the values that are asked for, answered and shown. What an engine has
//! to offer is in [`engine`].

pub mod engine;
pub mod file;
pub mod markers;

pub use engine::{Engine, Held, Loss, Note, Queued, Released, Store, Wakes};

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::duration::Limit;
use crate::sys::{self, LetGo, Mask};

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

/// Size of the largest pool. Its slots and queues fit into the offsets of a file.
pub const MAX_SLOTS: u32 = 1 << 20;

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
    Path(UserPath),
}

/// The path of `--file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPath {
    given: PathBuf,
    absolute: PathBuf,
}

impl UserPath {
    /// In a working directory that has no path any more, `given` is shown.
    pub fn new(given: PathBuf) -> Self {
        let absolute = std::path::absolute(&given).unwrap_or_else(|_| given.clone());
        Self { given, absolute }
    }

    /// To open the file: the absolute path need not lead there, if a parent may
    /// not be searched or was mounted over.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// For people, and for records that are read in other directories.
    pub fn absolute(&self) -> &Path {
        &self.absolute
    }
}

impl Target {
    /// The name, or the path from any working directory.
    pub fn name(&self) -> &[u8] {
        match self {
            Target::Name(name) => name,
            Target::Path(path) => path.absolute().as_os_str().as_bytes(),
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
    /// How long, from [`since`](Self::since) on; zero: not in the queue at all.
    pub limit: Limit,
    /// When we began.
    pub since: Instant,
    /// The signals that the caller had blocked: all others may end us in the
    /// short moments in which even a request has to wait.
    pub mask: Mask,
}

impl Patience {
    /// Whether to wait in the queue (`--timeout 0` does not).
    pub fn waits(&self) -> bool {
        self.limit != Limit::After(Duration::ZERO)
    }

    /// The same for a process that somebody else ends when the time is over.
    pub fn of_watched(self) -> Self {
        Self { limit: if self.waits() { Limit::Never } else { self.limit }, ..self }
    }

    /// When to give up; `None`: never, or not while any machine stays up.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.checked_add(self.limit.finite()?)
    }

    /// What is left until the deadline; `None`: no limit.
    pub fn left(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the deadline has passed, or a signal has come that ends or
    /// interrupts the wait ([`sys::Interrupter`](crate::sys::Interrupter)).
    pub fn is_over(&self) -> bool {
        sys::has_caught() || self.left().is_some_and(|left| left.is_zero())
    }
}

/// What is wrong where a lock is held by nobody whom we see: nobody can be made to
/// let go.
pub const NOBODY_SEEN: &str = "held, but nobody who holds it can be seen from here; nobody was signalled";
/// And what to do.
pub const WHO_SEES: &str = "root, or the holder's user, outside of containers, can end it";

/// What an engine answers to a request.
pub enum Admission<Q, H> {
    /// Ours, from now on.
    Granted(H),
    /// Not now; but this is our place in the queue.
    Queued(Q),
    /// Not ours, and there is nothing to wait in.
    Not(NotGranted),
}

/// How a request or a wait ended without the lock. Nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGranted {
    /// It is not waited for.
    Refused(Refusal),
    /// The whole timeout has passed.
    TimedOut,
    /// What was waited for is gone (the lock file was removed or replaced): ask
    /// anew.
    Again,
    /// This signal of the terminal is to stop us. Nobody waits for a job that is
    /// stopped, so it is obeyed without the place in the queue; then ask anew.
    Stopped(i32),
    /// This signal ended the wait.
    Ended(i32),
    /// Another lockrun ended the wait.
    AskedToLetGo {
        /// For what.
        ask: LetGo,
        /// Its process, 0 if that cannot be seen from here.
        sender: i32,
    },
}

/// What became of a wait.
pub type Waited<H> = Result<H, NotGranted>;

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
