//! What a keeper and its wrapper say to each other: one datagram of JSON each.

use serde::{Deserialize, Serialize};

use super::queue::State;
use super::row::{Call, Note, Row};

/// The rest of a holder's command line is not shown, and so not sent.
const COMMAND_SENT: usize = 400;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum News {
    /// The store has answered for the first time; --timeout counts from now.
    Connected {
        store: String,
        /// For -v.
        description: String,
    },
    /// The holders of the locks that are waited for, for messages.
    Holders { holders: Vec<HolderSeen> },
    /// The place in the queue was lost; this attempt to get another begins.
    PlaceLost { attempt: u32 },
    Granted {
        /// In the order of the request.
        grants: Vec<Given>,
        /// For a keeper that has to go on.
        rows: Vec<Kept>,
    },
    /// A token can stand for the locks now.
    Settled,
    /// Not granted, and nothing was entered.
    Refused(Refused),
    /// We were called while we waited, and gave up the place.
    GaveUp(Call),
    /// The store cannot be reached, or refuses us.
    Failed { is_unreachable: bool, text: String },
    /// A request of an established keeper has failed; it tries again.
    Trouble { text: String },
    /// The next request did not fail.
    WorksAgain,
    /// The row of a holder that was called in vain was removed. It may still run.
    Removed { holder: Box<HolderSeen> },
    /// We, the holder, were called.
    Called(Call),
    /// The store says that this lock (its encoded name) is no longer ours.
    Lost { lock: String },
    /// The locks were released; `later`: their leases have to end them, and why.
    Released { later: Option<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    Busy,
    QueueFull,
    Deadlock { reentrant_helps: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Encoded name.
    pub lock: String,
    pub fence: u64,
    pub slot: Option<u32>,
    /// The row: 32 hexadecimal digits.
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Encoded name.
    pub lock: String,
    /// The row: 32 hexadecimal digits.
    pub id: String,
    /// So that no other row is taken for it.
    pub order: u64,
    /// At the grant.
    pub version: u64,
    pub key: String,
}

/// A holder, as its row describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderSeen {
    pub note: Note,
    pub fence: Option<u64>,
    pub slot: Option<u32>,
}

impl HolderSeen {
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

/// From the wrapper to the keeper. The end of the line means that the wrapper has died.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// COMMAND runs as this process.
    Started(i32),
    /// The token was printed: from now on it stands for the locks.
    Stand,
    /// Before the grant: somebody is about to be shown who holds the locks.
    LookAgain,
    /// COMMAND has ended: release the locks.
    Release,
    /// The wrapper knows of the loss and is killing COMMAND.
    Heard,
    /// COMMAND expires at this time (RFC 3339) now, or never.
    Expires(Option<String>),
}
