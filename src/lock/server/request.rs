//! What is requested from a server, and the outcome.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

use super::news::Refused;
use super::queue::{Contender, Id, Mode};
use super::row::{Call, LockName, Note, NotedMode, Row};
use super::store::{Lease, Subject, Watched};

/// All that is random about a request. A keeper that replaces another one draws the
/// same numbers, and so finds what the first one has entered.
#[derive(Clone, Copy)]
pub struct Seed([u8; 16]);

impl Seed {
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

    pub fn row(self, attempt: u32, lock: usize) -> Id {
        Id(self.draw("row", attempt, lock))
    }

    /// `number`: which lease of this attempt.
    pub fn lease(self, attempt: u32, number: usize) -> u64 {
        // 63 bits, never 0.
        (self.draw("lease", attempt, number) as u64 >> 1).max(1)
    }
}

#[derive(Clone)]
pub struct Request {
    /// In the order in which they are taken.
    pub locks: Vec<LockName>,
    pub mode: NotedMode,
    /// What the rows say; names and times are filled in.
    pub note: Note,
    /// Not with `--timeout 0`.
    pub waits: bool,
    pub max_waiters: Option<u32>,
    pub reentrant: bool,
    /// Rows that are held for a command around us.
    pub around: Vec<Id>,
    /// Marks of our ancestors, which may own a token.
    pub ancestors: Vec<String>,
    /// For a token, not for a command.
    pub token: Option<TokenTerms>,
    pub seed: Seed,
    pub ttl: Duration,
    /// How long to try for the first answer.
    pub connect: Duration,
    pub at_least: Option<Duration>,
    /// For messages only: the wrapper ends the command.
    pub expires: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub struct TokenTerms {
    /// For how long; `None`: until it is released.
    pub term: Option<Duration>,
    /// Whether it is held for a process. Otherwise no process of ours stays.
    pub has_owner: bool,
}

impl Request {
    /// The locks, for a store.
    pub fn all(&self) -> Vec<&LockName> {
        self.locks.iter().collect()
    }

    pub fn mode(&self) -> Mode {
        Contender::from(&self.mode).mode
    }

    /// Whether a row is held for a command that we are a part of, or by a token that
    /// is ours.
    pub fn is_around(&self, row: &Row) -> bool {
        let is_ours = |mark| row.note.user == self.note.user && self.ancestors.contains(mark);
        self.around.contains(&row.contender.id) || row.note.owner_mark.as_ref().is_some_and(is_ours)
    }
}

/// Our rows, all granted.
#[derive(Clone, Debug)]
pub struct Tenure {
    pub lease: Lease,
    /// The length by which it is renewed and the command ended: the one that the store
    /// granted, or `?ttl=` while --at-least has a longer lease.
    pub ttl: Duration,
    /// Until when the lease lives at least.
    pub until: Duration,
    /// In the order of the locks; without those that are held around us.
    pub rows: Vec<(LockName, Row)>,
    /// Until when --at-least keeps the locks.
    pub kept_until: Option<Duration>,
    /// For more random numbers.
    pub attempt: u32,
    /// If so, the rows do not say yet since when the locks are held.
    pub has_waited: bool,
}

impl Tenure {
    pub fn rows(&self) -> Vec<(&LockName, &Row)> {
        self.rows.iter().map(|(lock, row)| (lock, row)).collect()
    }

    /// What to watch to hear of calls and losses that are later than this moment of the
    /// store.
    pub fn watched(&self, seen_at: u64) -> Vec<Watched> {
        let watched = |(lock, row): &(LockName, Row)| Watched {
            lock: lock.clone(),
            subject: Subject::Own(row.contender.id, row.contender.mode),
            since: row.version.max(seen_at),
        };
        self.rows.iter().map(watched).collect()
    }
}

/// A row of ours, or one around us that covers it.
#[derive(Clone, Debug)]
pub struct GrantedRow {
    pub lock: LockName,
    pub row: Row,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Granted {
        /// One for each lock.
        grants: Vec<GrantedRow>,
        /// Without rows if all locks are held around us.
        tenure: Tenure,
    },
    /// We were not to wait, or would wait for ourselves. Nothing was entered.
    Refused(Refused),
    /// We were called while we waited, and have given up the place.
    Called(Call),
}
