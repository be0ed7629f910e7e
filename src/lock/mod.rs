//! Locks: the values of requests, answers and listings. [`engine`] has the traits.

pub mod engine;
pub(crate) mod file;
mod last_run;
pub(crate) mod markers;
#[cfg(feature = "net")]
pub mod server;

pub use engine::{Engine, Held, Loss, LossKind, Lost, Note, Queued, Released, Store, Wakes};
pub use last_run::{HowEnded, LastRun};

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::duration::Limit;
use crate::sys::{self, LetGo, Mask};

/// How a lock is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Excludes all others (a write lock).
    Exclusive,
    /// Excludes exclusive holders and slots (a read lock).
    Shared,
    /// One slot of a pool (a semaphore).
    Slot {
        /// Size of the pool.
        of: u32,
        /// This slot; `None`: any.
        which: Option<u32>,
    },
}

/// Largest pool: its slots and queues fit into the offsets of a file.
pub const MAX_SLOTS: u32 = 1 << 20;

/// The argument of --slot: an integer of any length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeNumber {
    digits: String,
    is_negative: bool,
}

impl WholeNumber {
    /// Parses decimal digits after an optional sign.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_negative = text.starts_with('-');
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("not an integer".into());
        }
        Ok(Self { digits: digits.into(), is_negative })
    }

    /// The slot in a pool of `slots`: -1 is the last one.
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
    /// The file behind a descriptor of the caller, locked on the caller's own open file
    /// description.
    Descriptor(Descriptor),
}

/// The path of `--file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPath {
    given: PathBuf,
    absolute: PathBuf,
}

impl UserPath {
    /// Without a path to the working directory, `given` is shown.
    pub fn new(given: PathBuf) -> Self {
        let absolute = std::path::absolute(&given).unwrap_or_else(|_| given.clone());
        Self { given, absolute }
    }

    /// To open the file. The absolute path may not lead there: a parent may not be
    /// searched, or was mounted over.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// For messages, and for records that are read in other directories.
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
            Target::Descriptor(descriptor) => &descriptor.name,
        }
    }
}

/// A descriptor that the caller has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: RawFd,
    /// The path of its file at the first look; `None`: unknown.
    pub path: Option<PathBuf>,
    /// The lock's name if the file is its lock file, else the path.
    pub name: Vec<u8>,
    /// How it is locked.
    pub rules: Rules,
}

/// How strict a lock on a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// It excludes everybody else, or is refused: if the file is gone, if others share
    /// the description, below a holder.
    Ours,
    /// Whatever the kernel grants, as for flock(1).
    Flocks,
}

/// The conditions of a request, for all its locks.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Exclusive, shared, or a slot.
    pub mode: Mode,
    /// Fail instead of waiting if this many are waiting already.
    pub max_waiters: Option<u32>,
    /// End the holders.
    pub replace: bool,
    /// Treat a lock held by an outer lockrun as ours.
    pub reentrant: bool,
    /// Wait without limit, so that waiting for an ancestor would never end.
    pub waits_forever: bool,
}

/// How long to wait, and what may interrupt the wait.
#[derive(Clone, Copy)]
pub struct Patience {
    /// The timeout, counted from [`since`](Self::since); zero: do not queue.
    pub limit: Limit,
    /// Start of the wait.
    pub since: Instant,
    /// The signals that the caller had blocked. All others may end the wait.
    pub mask: Mask,
}

impl Patience {
    /// Whether to wait in the queue (`--timeout 0` does not).
    pub fn waits(&self) -> bool {
        self.limit != Limit::After(Duration::ZERO)
    }

    /// For a process whose parent ends it at the deadline.
    pub fn of_watched(self) -> Self {
        Self { limit: if self.waits() { Limit::Never } else { self.limit }, ..self }
    }

    /// The deadline; `None`: none, or beyond the range of the clock.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.checked_add(self.limit.finite()?)
    }

    /// Time until the deadline; `None`: no limit.
    pub fn left(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the deadline has passed, or a signal has interrupted the wait.
    pub fn is_over(&self) -> bool {
        sys::has_caught() || self.left().is_some_and(|left| left.is_zero())
    }
}

/// The lock is held, but nobody can be made to let go.
pub const NOBODY_SEEN: &str = "held, but its holder is not visible from here; no process was signalled";
/// What to do then.
pub const WHO_SEES: &str = "root or the holder's user can end it, outside of containers";

/// An engine's answer to a request.
pub enum Admission<Q, H> {
    /// The lock is ours.
    Granted(H),
    /// Our place in the queue.
    Queued(Q),
    /// Neither.
    Not(NotGranted),
}

/// How a request or a wait ended without the lock. Nothing is left in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGranted {
    /// The terms do not allow waiting.
    Refused(Refusal),
    /// The timeout has passed.
    TimedOut,
    /// The lock file was removed or replaced: ask again.
    Again,
    /// The terminal stops us by this signal. We have left the queue, because a stopped
    /// job must not block it: stop, then ask again.
    Stopped(i32),
    /// This signal ended the wait.
    Ended(i32),
    /// The owner of the token ended.
    OwnerEnded,
    /// Another lockrun ended the wait.
    AskedToLetGo {
        /// For what.
        ask: LetGo,
        /// Its process, 0 if that cannot be seen from here.
        sender: i32,
    },
}

/// The result of a wait.
pub type Waited<H> = Result<H, NotGranted>;

/// Why a request does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--timeout 0`, and the lock is held in conflict or others are waiting.
    Busy,
    /// `--max-waiters` are waiting already.
    QueueFull,
    /// An outer lockrun, a token or an ancestor holds it.
    Deadlock {
        /// With [`Terms::reentrant`] it would be granted.
        reentrant_helps: bool,
    },
    /// The file of the caller's descriptor is no longer at its path.
    Removed,
    /// This other process has locked the caller's descriptor, from the same open: the
    /// two would not exclude each other.
    SharedWith(i32),
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lock's name as it was given.
    pub name: Vec<u8>,
    /// The file in the locks directory with the record of this grant.
    pub file: String,
    /// The fencing token, which rises with every grant of the name.
    pub fence: u64,
    /// The slot in a pool.
    pub slot: Option<u32>,
    /// The word in LOCKRUN_HELD by which a nested lockrun recognises the grant.
    pub marker: String,
}

/// A holder of a lock, for messages only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The process, if the kernel shows one.
    pub pid: Option<i32>,
    /// Its host; `None`: this one.
    pub host: Option<String>,
    /// Its command line, not yet made safe to print.
    pub command: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// Time since the grant.
    pub age: Option<Duration>,
    /// When it expires, RFC 3339.
    pub expires: Option<String>,
    /// Only --at-least keeps the lock, until then, RFC 3339.
    pub kept_until: Option<String>,
    /// The process whose end releases the token.
    pub owner: Option<i32>,
    /// A token on a server, without a process.
    pub is_token: bool,
    /// When the lock was granted, RFC 3339.
    pub since: Option<String>,
    /// The fencing token.
    pub fence: Option<u64>,
    /// Its slot of a pool.
    pub slot: Option<u32>,
    /// Size of the pool, as this holder sees it.
    pub slots: Option<u32>,
    /// It is an ancestor of ours.
    pub is_ancestor: bool,
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// Not held.
    Free,
    /// Held exclusively.
    Exclusive,
    /// Held shared, or by slots.
    Shared,
    /// Not visible from here.
    Unknown,
}

/// A server could not be reached, and nothing was done there.
#[derive(Debug)]
pub struct Unreachable(pub String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// A lock as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name, or the path given with --file.
    pub name: Vec<u8>,
    /// The locked file.
    pub path: PathBuf,
    /// How it is held.
    pub state: LockState,
    /// The visible holders; may be empty although the lock is held.
    pub holders: Vec<Holder>,
    /// Length of the queue.
    pub waiting: usize,
    /// Of a free lock: the run that ended last, if a file tells.
    pub last: Option<LastRun>,
}

impl Seen {
    /// Whether `--timeout 0` would get it now.
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
