//! What is asked of a server, and what comes of it.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

use super::news::Refused;
use super::queue::{Contender, Id, Mode};
use super::row::{Call, LockName, Note, NotedMode, Row};
use super::store::Lease;

/// All that is random about a request. A keeper that replaces another one comes to
/// the same numbers, and so finds what the first one has entered.
#[derive(Clone, Copy)]
pub struct Seed([u8; 16]);

impl Seed {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        let mut seed = [0; 16];
        match getrandom(&mut seed, GetRandomFlags::empty())? {
            16 => Ok(Self(seed)),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn draw(self, purpose: &str, attempt: u32, number: usize) -> u128 {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(format!("{purpose} {attempt} {number}"));
        u128::from_be_bytes(hash.finalize()[..16].try_into().expect("16 of 32 bytes"))
    }

    /// The row of an attempt for one of the locks.
    pub fn row(self, attempt: u32, lock: usize) -> Id {
        Id(self.draw("row", attempt, lock))
    }

    /// The lease of an attempt, or another one that its rows move to.
    pub fn lease(self, attempt: u32, number: usize) -> u64 {
        // 63 bits, never 0.
        (self.draw("lease", attempt, number) as u64 >> 1).max(1)
    }
}

/// What is asked for.
#[derive(Clone)]
pub struct Request {
    /// Which locks, in the order in which they are taken.
    pub locks: Vec<LockName>,
    /// How.
    pub mode: NotedMode,
    /// What the rows say; the name and times are filled in.
    pub note: Note,
    /// Whether to wait at all: not with `--timeout 0`.
    pub waits: bool,
    /// `--max-waiters`.
    pub max_waiters: Option<u32>,
    /// Whether `--reentrant` was given.
    pub reentrant: bool,
    /// Rows that are held for a command that we are a part of.
    pub around: Vec<Id>,
    /// Where its random numbers come from.
    pub seed: Seed,
    /// The lease's length.
    pub ttl: Duration,
    /// How long to try until the first answer.
    pub connect: Duration,
    /// `--at-least`.
    pub at_least: Option<Duration>,
    /// `--expires`, for people: the wrapper ends the command.
    pub expires: Option<Duration>,
}

impl Request {
    /// What every row asks for.
    pub fn mode(&self) -> Mode {
        Contender::from(&self.mode).mode
    }
}

/// Our rows, all granted.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// The lease of all of them.
    pub lease: Lease,
    /// Until when it lives at least.
    pub until: Duration,
    /// The rows, in the order of the locks; not those that are held around us.
    pub rows: Vec<(LockName, Row)>,
    /// Until when --at-least keeps the locks.
    pub kept_until: Option<Duration>,
    /// Which attempt this is, for more random numbers.
    pub attempt: u32,
    /// Whether it was waited for, so that the rows do not tell since when the locks
    /// are held.
    pub has_waited: bool,
}

/// One grant: a row of ours, or one around us that covers it.
#[derive(Clone, Debug)]
pub struct GrantedRow {
    /// Which lock.
    pub lock: LockName,
    /// The row.
    pub row: Row,
}

/// How a contest ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All locks are ours.
    Granted {
        /// Each lock with its grant.
        grants: Vec<GrantedRow>,
        /// What has to be kept; without rows if all is held around us.
        tenure: Tenure,
    },
    /// We were not to wait, or would wait for ourselves. Nothing was entered.
    Refused(Refused),
    /// Somebody wants us to give up our place. It has been given up.
    Called(Call),
}
