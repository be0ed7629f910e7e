//! What an engine has to offer: the traits that commands, the supervisor and the keeper
//! use. Values are in [`lock`](super).
//!
//! An engine never prints and knows no exit codes. Busy, timed out and lost are values.
//! An error means that the engine cannot know that the lock is ours, and then it is
//! not.
//!
//! # How an engine plugs in
//!
//! Only `command/engine/` names engines; it chooses one by an enum, and dispatch is
//! static. What only one engine needs is its own method and not in these traits: for
//! files the waiting child that becomes COMMAND, its prepared record, and the files.
//!
//! A server's engine has two processes: the wrapper, which runs COMMAND and has no
//! network code, and a keeper, which the wrapper forks before anything of the network
//! exists. Between them are a shared page and a line.
//!
//! - The keeper asks, waits and holds.
//! - The wrapper watches the keeper as it watches a child that waits for a lock file
//!   (`child::Waiter::watch`). Its own [`Held`] works on the page: `wakes` is the line
//!   and the end of the lease, and `descriptors` is the write end of the life line,
//!   which COMMAND inherits as it inherits a lock file. What `release` cannot release
//!   in time ends with the lease ([`Released::Later`]).
//! - The supervisor (`child::supervise`) calls `tend` when `wakes` says so. A [`Loss`]
//!   ends COMMAND and all it started as an expiry does, and lockrun exits with 123.

use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use rustix::process::Pid;

use anyhow::{Error, Result};

use super::{Admission, Grant, Holder, Patience, Seen, Target, Waited};
use crate::record::{Claim, RunEnd};

/// Grants locks; a value of it is one request.
pub trait Engine {
    /// A place in its queue.
    type Queued: Queued<Held = Self::Held>;
    /// A granted lock.
    type Held: Held;

    /// Takes the lock if it is free and nobody is waiting for it, and joins the queue
    /// otherwise. A process that dies here blocks nobody, or not for longer than its
    /// lease.
    fn ask(&self, patience: &Patience) -> Result<Admission<Self::Queued, Self::Held>>;

    /// The visible holders of the lock.
    fn holders(&self) -> Vec<Holder>;

    /// The location of the lock for `-v`: paths, or a server and a name.
    fn locations(&self) -> Vec<Vec<u8>>;

    /// Warnings about these locks, such as a network file system.
    fn warnings(&self) -> Vec<String>;
}

/// The locks of one directory or server, for commands that take none. An error means
/// that something could not be read or inspected.
pub trait Store {
    /// Where the locks are, for people.
    fn location(&self) -> String;

    /// Looks at these locks, in this order, or at all, by name, if none is given. Never
    /// makes another process fail or wait.
    fn look(&self, targets: &[Target]) -> Result<Vec<Seen>>;

    /// Checks that these locks could be taken at all: an error names missing
    /// permissions or a foreign file in place of a lock.
    fn require_usable(&self, targets: &[Target]) -> Result<()>;

    /// The names of all locks, for completion in a shell.
    fn names(&self) -> Result<Vec<Vec<u8>>>;

    /// Whether an outer command holds the lock, so that waiting for it would deadlock.
    /// With `waits_forever`, any ancestor that holds it counts.
    fn would_wait_for_itself(&self, target: &Target, waits_forever: bool) -> Result<bool>;

    /// Sleeps until something happens to one of these locks, at most `limit`; not at
    /// all if all of them are free. `false`: nothing reports changes here.
    fn wait_for_change(&self, _targets: &[Target], _limit: Option<Duration>) -> Result<bool> {
        Ok(false)
    }

    /// Makes the holders release this lock, and waits until they have: TERM, and
    /// KILL after `kill_after`. Returns whether any holder was visible.
    ///
    /// # Errors
    /// A holder belongs to another user, and nothing was signalled; or one did not
    /// end.
    fn make_let_go(&self, target: &Target, kill_after: Duration) -> Result<bool>;

    /// Removes what locks leave behind that nobody has used for `older`, or only lists
    /// it (`only_look`). `tell` gets each lock's name, or what went wrong with it.
    /// Returns a warning that is not a failure.
    ///
    /// # Errors
    /// Nothing can be inspected.
    fn prune(&self, only_look: bool, older: Duration, tell: &mut dyn FnMut(Result<Vec<u8>>)) -> Result<Option<Error>>;
}

/// A place in a queue. Dropping it leaves the queue.
pub trait Queued: Sized {
    /// The granted lock.
    type Held: Held;

    /// Sleeps until the lock is granted or the wait is over. Errors as for
    /// [`Engine::ask`].
    fn wait(self, patience: &Patience) -> Result<Waited<Self::Held>>;
}

/// A granted lock. Dropping it releases it as a crash would: when every process that
/// inherited it has ended, or with its lease.
pub trait Held {
    /// Draws the fencing token, writes the record, and lets the next waiter move up.
    /// Called once. A server does this in the grant. A record that cannot be written
    /// (disk full, read-only) is no error.
    fn settle(&mut self, claim: &Claim) -> Result<()>;

    /// The grants, after [`settle`](Self::settle).
    fn grants(&self) -> Vec<Grant>;

    /// What COMMAND inherits, so that the lock stays while it lives, even if we are
    /// killed.
    fn descriptors(&self) -> Vec<RawFd>;

    /// COMMAND runs as this process.
    fn started(&mut self, _command: Pid) {}

    /// What must wake the holder. Asked again before every sleep.
    fn wakes(&self) -> Wakes<'_> {
        Wakes::default()
    }

    /// Does what is due, and returns whether the lock was lost. Called when
    /// [`wakes`](Self::wakes) says so, and once more when COMMAND has ended.
    fn tend(&mut self) -> Option<Loss>;

    /// Who holds the lock after a loss that is certain; `None`: not known within
    /// `limit`. Asked when everything under the lock has ended.
    fn successors(&mut self, _limit: Duration) -> Option<Vec<Holder>> {
        None
    }

    /// Updates the record of the grant, unless the lock was granted again since.
    /// Failures are ignored: the record is a hint.
    fn note(&mut self, note: &Note<'_>);

    /// Notes how COMMAND ended, which ran as this process; `None`: it could not be
    /// executed. Called just before [`release`](Self::release), while others wait for
    /// the lock. Failures are ignored.
    fn ended(&mut self, _command: Option<Pid>, _end: &RunEnd) {}

    /// Releases the lock, also for processes that still have it open, within `limit`.
    /// An error means that it is still held and no lease will end it.
    fn release(&mut self, limit: Duration) -> Result<Released>;
}

/// What must wake the holder of a lock; nothing for files.
#[derive(Clone, Copy, Default)]
pub struct Wakes<'a> {
    /// This descriptor, when it is readable.
    pub descriptor: Option<BorrowedFd<'a>>,
    /// This time since boot (CLOCK_BOOTTIME).
    pub at: Option<Duration>,
}

/// The lock is lost, or will be before it can be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How, for the message.
    pub lost: Lost,
    /// COMMAND and everything it started get TERM now, and KILL at this time since
    /// boot, before the lock can be granted again. `None`: after `--kill-after`.
    pub kill_at: Option<Duration>,
}

/// How a lock was lost while it was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The lock's name.
    pub name: Vec<u8>,
    /// Whether somebody wanted it.
    pub kind: LossKind,
    /// What happened, as a clause: `its file … was removed`, `broken by pid 4242 …`.
    pub how: String,
}

/// Whether somebody wanted a lock to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// `lockrun break`: it is ours until we release it.
    Broken,
    /// `--replace`: the same.
    Replaced,
    /// Nobody did: it is not ours any more, or soon will not be.
    Gone,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            LossKind::Broken | LossKind::Replaced => f.write_str(&self.how),
            LossKind::Gone => write!(f, "lost: {}", self.how),
        }
    }
}

/// A change to the record of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// The new expiry (RFC 3339), or none.
    Expires(Option<&'a str>),
    /// How and when it ended: `released at …`.
    Ended(&'a str),
}

/// How a lock was released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is free.
    Done,
    /// It will be free when its lease ends; the reason, for people.
    Later(String),
}
