//! What an engine has to offer: the traits that commands, the supervisor and
//! the keeper use. Values are in [`lock`](super).
//!
//! An engine never prints and knows no exit codes. Busy, timed out and lost are
//! values; an error is something that keeps the engine from knowing that the
//! lock is ours, and then it is not.
//!
//! # How an engine plugs in
//!
//! `command/engine.rs` chooses the engine once, by an enum, and is the only
//! place that names one; dispatch is static. What only one engine needs is a
//! method of its own and not in these traits: for files the waiting child that
//! becomes COMMAND, its prepared record, and the files themselves.
//!
//! An engine of a server has two processes: the wrapper, which runs COMMAND and
//! has no network code, and a keeper, which the wrapper forks before anything of
//! the network exists. Between them are a shared page and a line.
//!
//! - The keeper asks ([`Engine::ask`]), waits ([`Queued::wait`]) and holds, in
//!   the loop of `keeper/`: [`Held::wakes`] is its connection and the time of the
//!   next renewal, and [`Held::tend`] renews. `command/acquire.rs` starts such a
//!   process for a token. It must not die with its parent while it has a row to
//!   delete: see `child::Ending`.
//! - The wrapper watches that process as it watches a child that waits for a
//!   lock file (`child::Waiter::watch`: signals, the clock, the waiting line). After
//!   the grant it has a [`Held`] of its own, over the page: `wakes` is the line
//!   and the time at which the lease ends unless it has been renewed, `tend` looks
//!   into the page, `descriptors` is the write end of the life line, which COMMAND
//!   inherits as it inherits a lock file, and `release` waits for the keeper, but
//!   no longer than it is told to. What cannot be given back in time is left to the
//!   lease ([`Released::Later`]).
//! - The supervisor (`child::supervise`) sleeps until a signal, a descriptor or a
//!   time of `wakes`, and calls `tend`. A [`Loss`] ends COMMAND and all it started
//!   as an expiry does, and lockrun exits with 123.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use anyhow::{Error, Result};

use super::{Admission, Grant, Holder, Lost, Patience, Seen, Target, Waited};
use crate::record::Claim;

/// Something that grants locks; a value of it is one request.
pub trait Engine {
    /// A place in its queue.
    type Queued: Queued<Held = Self::Held>;
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
    /// A process that dies in here leaves nothing that blocks anyone, or not
    /// for longer than its lease.
    fn ask(&self, patience: &Patience) -> Result<Admission<Self::Queued, Self::Held>>;

    /// Who holds the lock now, as far as it can be seen from here.
    fn holders(&self) -> Vec<Holder>;

    /// Where the lock is, for `-v`: paths, or a server and a name.
    fn places(&self) -> Vec<Vec<u8>>;

    /// What people should know about these locks before they rely on them:
    /// "… is on NFS: …".
    fn warnings(&self) -> Vec<String>;
}

/// The locks of one place, for commands that take none.
pub trait Store {
    /// Looks at these, in this order; without any, at all, by name. Disturbs
    /// nobody.
    ///
    /// # Errors
    /// One of them is no lock, or cannot be looked at.
    fn look(&self, targets: &[Target]) -> Result<Vec<Seen>>;

    /// Whether these could be taken at all.
    ///
    /// # Errors
    /// Why not: permissions, something else at its place.
    fn require_usable(&self, targets: &[Target]) -> Result<()>;

    /// The names of all locks, for a shell to complete.
    ///
    /// # Errors
    /// They cannot be read.
    fn names(&self) -> Result<Vec<Vec<u8>>>;

    /// Whether the lock is held for a command that we are a part of, so that it
    /// is not free before we end.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn would_wait_for_itself(&self, target: &Target) -> Result<bool>;

    /// Makes whoever holds this lock let go, and waits until they have: TERM,
    /// and KILL after `kill_after`. Returns whether anybody was seen to hold it.
    ///
    /// # Errors
    /// They are another user's: then nobody was signalled. Or they did not end.
    fn make_let_go(&self, seen: &Seen, kill_after: Duration) -> Result<bool>;

    /// Removes what locks leave behind that nobody uses, or only says what
    /// (`only_look`). `tell` gets each lock's name, or what went wrong with it.
    /// Returns what people should know although all went well.
    ///
    /// # Errors
    /// Nothing can be looked at.
    fn prune(&self, only_look: bool, tell: &mut dyn FnMut(Result<Vec<u8>>)) -> Result<Option<Error>>;
}

/// A place in a queue. Dropping it gives it up.
pub trait Queued: Sized {
    /// What it turns into.
    type Held: Held;

    /// Sleeps until our turn has come or the wait is over.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    fn wait(self, patience: &Patience) -> Result<Waited<Self::Held>>;
}

/// A granted lock. Dropping it without [`release`](Held::release) lets go as a
/// crash would: once every process that inherited it has ended, or its lease.
pub trait Held {
    /// Makes the grant known: numbers it and records who holds the lock, and
    /// lets the next in the queue come forward. Called once, by the process that
    /// holds. A server has done so in the grant.
    ///
    /// # Errors
    /// None for a text that cannot be written (disk full, read-only): the
    /// lock is held all the same.
    fn settle(&mut self, claim: &Claim) -> Result<()>;

    /// What was granted, once that is settled.
    fn grants(&self) -> Vec<Grant>;

    /// Descriptors that COMMAND inherits, so that the lock stays while
    /// COMMAND lives even if we are killed.
    fn descriptors(&self) -> Vec<RawFd>;

    /// What the holder has to wake up for. Asked again before every sleep.
    fn wakes(&self) -> Wakes<'_> {
        Wakes::default()
    }

    /// To be called when [`wakes`](Self::wakes) says so, and last when COMMAND
    /// has ended: does what is due, and says whether the lock was lost.
    fn tend(&mut self) -> Option<Loss>;

    /// Notes something about the grant where people look, as long as nobody
    /// else has been granted the lock. What cannot be noted is not.
    fn note(&mut self, note: &Note<'_>);

    /// Gives the lock back, also from processes that still have it open. Does
    /// not take longer than `limit`.
    ///
    /// # Errors
    /// It could not be given back, and nothing else will do it.
    fn release(&mut self, limit: Duration) -> Result<Released>;
}

/// What a held lock wants its holder to wake up for. Nothing: files.
#[derive(Clone, Copy, Default)]
pub struct Wakes<'a> {
    /// When this is readable.
    pub descriptor: Option<BorrowedFd<'a>>,
    /// At this time since boot, on the clock of
    /// [`suspend_aware_now`](crate::sys::suspend_aware_now).
    pub at: Option<Duration>,
}

/// The lock is lost, or will be before it can be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What to tell people.
    pub lost: Lost,
    /// COMMAND and all it started get TERM now and KILL at this time since boot
    /// at the latest, before others are granted the lock; at once if that is
    /// past. `None`: as `--kill-after` says.
    pub kill_at: Option<Duration>,
}

/// Something to note about a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// It expires then (RFC 3339), or never.
    Expires(Option<&'a str>),
    /// It ended like this, and when: `released at …`.
    Ended(&'a str),
}

/// How a lock was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is free.
    Done,
    /// It will be free when its lease has ended; why, for one line.
    Later(String),
}
