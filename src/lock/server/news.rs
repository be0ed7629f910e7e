//! What a keeper and its wrapper say to each other: one datagram of JSON each.

use serde::{Deserialize, Serialize};

use super::queue::State;
use super::row::{Call, Note, Row};

/// A holder's command line is shown up to here, and so not sent any longer.
const COMMAND_SENT: usize = 400;

/// From the keeper to the wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum News {
    /// The store has answered for the first time. --timeout counts from now.
    Connected {
        /// Its identity.
        store: String,
        /// For -v.
        description: String,
    },
    /// Who holds the locks that are waited for, for people.
    Holders {
        /// As far as rows tell.
        holders: Vec<HolderSeen>,
    },
    /// The place in the queue was lost, and another one is asked for.
    PlaceLost {
        /// Which attempt begins.
        attempt: u32,
    },
    /// The locks are ours.
    Granted {
        /// One for each lock, in the order of the request.
        grants: Vec<Given>,
        /// The rows to keep, for a keeper that has to go on.
        rows: Vec<Kept>,
    },
    /// They are not, for this reason; nothing was entered.
    Refused(Refused),
    /// Somebody called us while we waited, and the place was given up.
    GaveUp(Call),
    /// The store cannot be reached (`true`), or does not let us in.
    Failed {
        /// Which of the two.
        is_unreachable: bool,
        /// Why, for people.
        text: String,
    },
    /// A request of an established keeper has failed; it is tried again.
    Trouble {
        /// Why, for people.
        text: String,
    },
    /// The next one did not fail.
    WorksAgain,
    /// Somebody who was called in vain was removed. It may still run.
    Removed {
        /// Who.
        holder: Box<HolderSeen>,
    },
    /// Somebody calls us, the holder.
    Called(Call),
    /// The store says that a lock is not ours any more.
    Lost {
        /// Encoded name of the lock.
        lock: String,
    },
    /// The locks have been given back; or why their leases have to end them.
    Released {
        /// For people.
        later: Option<String>,
    },
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// `--timeout 0`.
    Busy,
    /// `--max-waiters`.
    QueueFull,
    /// Held around us.
    Deadlock {
        /// With --reentrant it would be granted.
        reentrant_helps: bool,
    },
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Encoded name of the lock.
    pub lock: String,
    /// The fencing number.
    pub fence: u64,
    /// The slot.
    pub slot: Option<u32>,
    /// The row: 32 hexadecimal digits.
    pub id: String,
}

/// One row that has to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Encoded name of the lock.
    pub lock: String,
    /// The row: 32 hexadecimal digits.
    pub id: String,
    /// Its order, so that no other one is taken for it.
    pub order: u64,
    /// As it was at the grant.
    pub version: u64,
    /// Where the store keeps it.
    pub key: String,
}

/// A holder, as its row tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderSeen {
    /// What it says.
    pub note: Note,
    /// The number of its grant.
    pub fence: Option<u64>,
    /// Its slot.
    pub slot: Option<u32>,
}

impl HolderSeen {
    /// Of a row.
    pub fn of(row: &Row) -> Self {
        let mut note = row.note.clone();
        if note.command.len() > COMMAND_SENT {
            let end = (0..=COMMAND_SENT).rev().find(|end| note.command.is_char_boundary(*end)).unwrap_or(0);
            note.command.truncate(end);
        }
        note.unknown.clear();
        let slot = if let State::Granted(slot) = row.contender.state { slot } else { None };
        Self { note, fence: row.fence, slot }
    }
}

/// From the wrapper to the keeper. That the wrapper has gone is the end of the
/// line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// COMMAND runs as this process.
    Started(i32),
    /// COMMAND has ended: give the locks back.
    Release,
    /// The loss was heard, and COMMAND is being killed.
    Heard,
}
