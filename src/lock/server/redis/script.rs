//! The requests. Each is one call of one script, `store.lua` with `requests.lua`, and so
//! one step and one round trip.
//!
//! The keys, with the default prefix:
//!
//! - `lockrun:store`: which store this is, of which format; the lease's length that all
//!   hosts use, and until when one may; the highest number of a name that was removed
//! - `lockrun:locks`: the names, sorted
//! - `lockrun:lock:NAME`: the rows of its queue by their ids, and its last number
//!
//! None has a time to live, so that Redis evicts none where only those may go. Changes
//! are published on `lockrun:row:ID` (the row's text, or nothing) and
//! `lockrun:any:NAME`.

use std::time::Duration;

use sha1::{Digest, Sha1};

use crate::lock::server::queue::{Id, Mode};
use crate::lock::server::row::{LockName, Row};
use crate::lock::server::store::{Condition, Entry, Lease};

const SCRIPT: &str = concat!(include_str!("store.lua"), include_str!("requests.lua"));
/// Longer leases end then: the script counts microseconds in 53 bits.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The text of a row that we hold, for the server to have again if it lost it; empty
/// for one that waits.
pub type Held = Vec<u8>;

/// What one request says, without what the session adds.
#[derive(Clone, Debug)]
pub struct Call {
    operation: &'static str,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

/// What the session adds.
pub struct Circumstances<'a> {
    /// Which store we talk to; empty before its first answer.
    pub store: &'a str,
    /// A name for a store that has none.
    pub spare: &'a str,
    /// Whether a store of another name is the same one, which was emptied.
    pub adopts: Adopts,
    /// Our clock.
    pub wall: Duration,
    /// For how long nothing is granted yet.
    pub grace: Duration,
    /// The lease's length that all hosts use.
    pub ttl: Duration,
}

/// Of which stores another name is taken for the same one.
#[derive(Clone, Copy)]
pub enum Adopts {
    /// No other.
    None,
    /// Made within this time, in which the server was started.
    Younger(Duration),
    /// The server process is the one that we know.
    Any,
}

impl ToArg for Adopts {
    fn to_arg(self) -> Vec<u8> {
        match self {
            Self::None => b"no".into(),
            Self::Younger(time) => time.to_arg(),
            Self::Any => b"yes".into(),
        }
    }
}

impl Call {
    /// With arguments.
    fn new(operation: &'static str) -> Self {
        Self { operation, keys: Vec::new(), args: Vec::new() }
    }

    fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.keys.push(key.into());
        self
    }

    fn arg(mut self, arg: impl ToArg) -> Self {
        self.args.push(arg.to_arg());
        self
    }

    /// The store's name is written if it has none, and nothing else.
    pub fn make() -> Self {
        Self::new("make")
    }

    /// Whether it writes nothing.
    pub fn reads(&self) -> bool {
        ["look", "watch", "list", "left"].contains(&self.operation)
    }

    /// A command by the script's hash, or with its text for a server that does not
    /// have it.
    pub fn command(&self, prefix: &str, about: &Circumstances<'_>, has_script: bool) -> Vec<Vec<u8>> {
        let mut words: Vec<Vec<u8>> = match has_script {
            true => vec![b"EVALSHA".into(), hash()],
            false => vec![b"EVAL".into(), SCRIPT.into()],
        };
        words.push((self.keys.len() + 2).to_string().into());
        words.push(format!("{prefix}:store").into());
        words.push(format!("{prefix}:locks").into());
        words.extend(self.keys.iter().cloned());
        words.extend([self.operation.into(), about.store.into(), about.spare.into(), about.adopts.to_arg()]);
        words.extend([about.wall.to_arg(), about.grace.to_arg(), about.ttl.to_arg()]);
        words.extend(self.args.iter().cloned());
        words
    }
}

fn hash() -> Vec<u8> {
    data_encoding::HEXLOWER.encode(&Sha1::digest(SCRIPT)).into_bytes()
}

/// What can be an argument.
trait ToArg {
    fn to_arg(self) -> Vec<u8>;
}

impl ToArg for &str {
    fn to_arg(self) -> Vec<u8> {
        self.into()
    }
}

impl ToArg for Vec<u8> {
    fn to_arg(self) -> Vec<u8> {
        self
    }
}

impl ToArg for u64 {
    fn to_arg(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl ToArg for usize {
    fn to_arg(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl ToArg for Id {
    fn to_arg(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl ToArg for Option<u32> {
    fn to_arg(self) -> Vec<u8> {
        self.map(|number| number.to_string()).unwrap_or_default().into_bytes()
    }
}

/// In microseconds.
impl ToArg for Duration {
    fn to_arg(self) -> Vec<u8> {
        self.min(LONGEST).as_micros().to_string().into_bytes()
    }
}

/// One thing to watch.
pub enum Subject {
    /// The key of a row of this lock, and its text if we hold it.
    Row(LockName, Vec<u8>, Held),
    /// Everything of a lock.
    Anything(LockName),
}

/// Writes requests for a prefix.
#[derive(Clone, Debug)]
pub struct Script {
    prefix: String,
}

impl Script {
    /// Keys begin with this and a colon.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// As given.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn lock(&self, lock: &LockName) -> Vec<u8> {
        format!("{}:lock:{}", self.prefix, lock.encoded()).into()
    }

    fn on(&self, operation: &'static str, lock: &LockName) -> Call {
        Call::new(operation).key(self.lock(lock))
    }

    /// Where changes are published.
    pub fn channel(&self, subject: &Subject) -> Vec<u8> {
        match subject {
            Subject::Row(_, key, _) => [self.prefix.as_bytes(), b":row:", key].concat(),
            Subject::Anything(lock) => format!("{}:any:{}", self.prefix, lock.encoded()).into(),
        }
    }

    /// The rows of a lock.
    pub fn look(&self, lock: &LockName) -> Call {
        self.on("look", lock)
    }

    /// The same after those that have ended were removed.
    pub fn turn(&self, lock: &LockName, me: Id, held: Held) -> Call {
        self.on("turn", lock).arg(me).arg(held)
    }

    /// Enters rows; then the rows of each lock.
    pub fn enter(&self, lease: Lease, entries: &[Entry<'_>], condition: Condition<'_>) -> Call {
        let word = match condition {
            Condition::Always => "always",
            Condition::Empty => "empty",
            Condition::Unchanged(_) => "unchanged",
        };
        let mut call = Call::new("enter").arg(lease.id).arg(lease.ttl).arg(word);
        for (place, entry) in entries.iter().enumerate() {
            let mode = match entry.mode {
                Mode::Exclusive => "x",
                Mode::Shared => "s",
                Mode::AnySlot { .. } | Mode::Slot(_) => "p",
            };
            call = call.key(self.lock(entry.lock)).arg(entry.id).arg(mode);
            call = match entry.granted {
                Some(slot) => call.arg(slot),
                None => call.arg("?"),
            };
            let look = match condition {
                Condition::Unchanged(looks) => looks.get(place),
                Condition::Always | Condition::Empty => None,
            };
            let (at, rows) = look.map_or((0, &[][..]), |look| (look.at, &look.rows));
            call = call.arg(entry.note.to_bytes()).arg(at).arg(rows.len());
            for row in rows {
                call = call.arg(super::rows::key_of(&row.key));
            }
        }
        call
    }

    /// Writes a grant; then the row's text.
    pub fn grant(&self, lock: &LockName, me: Id, slot: Option<u32>) -> Call {
        self.on("grant", lock).arg(me).arg(slot)
    }

    /// Renews rows; then their texts, and those of rows that are waited for.
    pub fn keep(&self, rows: &[(&LockName, Id, Held)], waits: &[(&LockName, Vec<u8>)]) -> Call {
        let mut call = Call::new("keep").arg(rows.len());
        for (lock, id, held) in rows {
            call = call.arg(self.lock(lock)).arg(*id).arg(held.clone());
        }
        call = call.arg(waits.len());
        for (lock, key) in waits {
            call = call.arg(self.lock(lock)).arg(key.clone());
        }
        call
    }

    /// Puts rows on another lease; then their texts, or none if one is gone.
    pub fn move_to(&self, lease: Option<Lease>, rows: &[(&LockName, Id, Held)]) -> Call {
        let mut call = Call::new("move");
        call = match lease {
            Some(lease) => call.arg(lease.id).arg(lease.ttl),
            None => call.arg("0").arg("0"),
        };
        for (lock, id, held) in rows {
            call = call.key(self.lock(lock)).arg(*id).arg(held.clone());
        }
        call
    }

    /// Writes a note if the row is as it was seen; then its text, if the note is there.
    pub fn rewrite(&self, lock: &LockName, row: &Row, note: Vec<u8>) -> Call {
        self.on("rewrite", lock).arg(row.contender.id).arg(row.order).arg(row.version).arg(note)
    }

    /// For how long a lease lives, in microseconds.
    pub fn left(&self, lock: &LockName, lease: u64) -> Call {
        self.on("left", lock).arg(lease)
    }

    /// Removes the rows of a lease; then how many there were.
    pub fn leave(&self, locks: &[&LockName], lease: u64) -> Call {
        locks.iter().fold(Call::new("leave").arg(lease), |call, lock| call.key(self.lock(lock)))
    }

    /// Removes a row; then whether it was there.
    pub fn remove(&self, lock: &LockName, row: &Row) -> Call {
        self.on("remove", lock).arg(super::rows::key_of(&row.key)).arg(row.order)
    }

    /// How everything that is watched is now: a row's text, or a lock's last number and
    /// when the first of its rows ends.
    pub fn watch(&self, subjects: &[Subject]) -> Call {
        let mut call = Call::new("watch").arg(subjects.len());
        for subject in subjects {
            call = match subject {
                Subject::Row(lock, key, held) => call.arg(self.lock(lock)).arg(key.clone()).arg(held.clone()),
                Subject::Anything(lock) => call.arg(self.lock(lock)).arg("").arg(""),
            };
        }
        call
    }

    /// Names from this one on, with the last number and the rows of each.
    pub fn list(&self, from: &str, most: usize) -> Call {
        Call::new("list").arg(from).arg(most)
    }

    /// Removes a name without rows that was not used for so long; then whether.
    pub fn prune(&self, lock: &LockName, unused: Duration) -> Call {
        self.on("prune", lock).arg(unused)
    }
}
