//! A row: one contender's entry in the queue of one lock, as a store keeps it.
//!
//! How a store keeps what decides about the queue ([`Contender`]) is its own business.
//! The rest is the *note*, a line of JSON that every store keeps unchanged and every
//! lockrun can read.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::queue::{Contender, Id, Mode, State};

/// The format of notes that this lockrun writes, and the newest one it reads.
pub const FORMAT: u32 = 1;

/// Longest encoded name, in bytes.
const LONGEST_NAME: usize = 512;
/// 160 bits, as for lock files.
const HASH_DIGITS: usize = 40;
/// Not part of any encoded name, where two hexadecimal digits follow each `%`.
const MARK: &str = "%-";

/// The name of a lock, as given and as stores write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockName {
    given: Vec<u8>,
    encoded: String,
}

impl LockName {
    /// Bytes other than `A-Z a-z 0-9 . _ -` become `%` and two hexadecimal digits. A
    /// name that gets longer than 512 bytes keeps its beginning and ends in a hash. The
    /// mapping is one-to-one and must never change.
    pub fn new(name: &[u8]) -> Self {
        let mut encoded = String::with_capacity(name.len());
        for &byte in name {
            match byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
                true => encoded.push(byte.into()),
                false => encoded.push_str(&format!("%{byte:02X}")),
            }
        }
        if encoded.len() > LONGEST_NAME {
            let mut cut = LONGEST_NAME - MARK.len() - HASH_DIGITS;
            // Not through the middle of an encoded byte.
            if let Some(percent) = encoded[..cut].rfind('%').filter(|percent| cut - percent < 3) {
                cut = percent;
            }
            encoded.truncate(cut);
            encoded.push_str(MARK);
            for byte in &Sha256::digest(name)[..HASH_DIGITS / 2] {
                encoded.push_str(&format!("{byte:02x}"));
            }
        }
        Self { given: name.to_vec(), encoded }
    }

    /// Decodes a name; `None` if lockrun would not have written it so. A name that ends
    /// in a hash stays encoded: only a [`Note::name`] has the original.
    pub fn from_encoded(encoded: &str) -> Option<Self> {
        if let Some((kept, hash)) = encoded.rsplit_once(MARK) {
            let is_ours = !kept.is_empty() && hash.len() == HASH_DIGITS && encoded.len() <= LONGEST_NAME;
            return is_ours.then(|| Self { given: encoded.into(), encoded: encoded.into() });
        }
        let mut given = Vec::with_capacity(encoded.len());
        let mut bytes = encoded.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                given.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
            } else {
                given.push(byte);
            }
        }
        let name = Self::new(&given);
        (!given.is_empty() && name.encoded == encoded).then_some(name)
    }

    /// As the user gave it.
    pub fn given(&self) -> &[u8] {
        &self.given
    }

    /// At most 512 bytes of `A-Z a-z 0-9 . _ - %`.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }
}

impl Id {
    /// From 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }

    /// For a row of another program: always the same for the same key.
    pub fn of_foreign(key: &[u8]) -> Self {
        let hash = Sha256::digest(key);
        Self(u128::from_be_bytes(hash[..16].try_into().expect("16 of 32 bytes")))
    }
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One row of a lock, as a look shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Id, mode, state. A row with an unknown mode, and one that another program wrote
    /// (`etcdctl lock`), is shown as exclusive.
    ///
    /// Where the store grants the whole lock by order alone (etcd), such a row is
    /// [`State::Granted`] as soon as nothing before it excludes it.
    pub contender: Contender,
    /// Its position in the queue.
    pub order: u64,
    /// Changes with every change of the row (mode, state, note, lease), so that a call
    /// reaches the row that was seen. etcd: the mod revision.
    pub version: u64,
    /// The fencing token of its grant; `None` while it waits.
    pub fence: Option<u64>,
    /// The lease that ends it, as the store names it; 0: it stays until it is removed.
    pub lease: u64,
    /// Where the store keeps it (etcd: the key).
    pub key: String,
    /// By whom it was written; the default for a row of another program.
    pub note: Note,
}

/// What a lockrun says about itself in its row. Times are RFC 3339 in UTC.
///
/// Unknown fields are kept. A field of the wrong type makes the whole note unreadable:
/// the row then counts as an exclusive holder that nothing is known about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// [`FORMAT`]; 0: the row is of another program.
    #[serde(default)]
    pub format: u32,
    /// What the row asks for.
    #[serde(default)]
    pub mode: NotedMode,
    /// The lock's name as given, made UTF-8, because the encoded one may end in a hash.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Host name.
    #[serde(default)]
    pub host: String,
    /// The lockrun that people see, or a token's owner.
    #[serde(default)]
    pub pid: i32,
    /// Login name, or number.
    #[serde(default)]
    pub user: String,
    /// The command line.
    #[serde(default)]
    pub command: String,
    /// When it got the lock, written a second later; missing if it did not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it entered the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entered: Option<String>,
    /// When the lock expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Until when --at-least keeps the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<String>,
    /// The process whose end releases the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<i32>,
    /// Tells the owner from every other process on any host, see
    /// [`process::mark`](crate::process::mark).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_mark: Option<String>,
    /// Whether a token holds it. Without an owner, no process keeps it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token: bool,
    /// How many seconds after a renewal the token of an owner expires; whenever
    /// `expires` changes, its keeper counts anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_by: Option<f64>,
    /// Seconds between TERM and KILL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_after: Option<f64>,
    /// Whether its command has ended and only --at-least keeps the lock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_ended: bool,
    /// Whether it waits with --replace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// What another contender asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
    /// What a newer lockrun wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A mode in a note.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotedMode {
    /// The whole lock.
    #[default]
    Exclusive,
    /// A share of it.
    Shared,
    /// Any slot of a pool of this size.
    AnySlot(u32),
    /// Exactly one slot.
    OneSlot {
        /// Size of the pool.
        of: u32,
        /// Which slot.
        which: u32,
    },
    /// One that this lockrun does not know.
    #[serde(untagged)]
    Unknown(Value),
}

/// What was asked of a holder or waiter, written into its row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What for.
    pub what: CallKind,
    /// The caller: `pid 4242 on db1 (deploy)`.
    #[serde(default)]
    pub by: String,
    /// Seconds between TERM and KILL of `break --kill-after`; `None`: the holder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_after: Option<f64>,
}

/// Why to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallKind {
    /// `lockrun break`.
    Break,
    /// A newcomer with --replace.
    Replace,
}

impl Note {
    /// `None`: not a note of lockrun.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// One line of JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers only")
    }
}

impl From<&NotedMode> for Contender {
    /// A waiting contender without an id; an unknown mode holds everything.
    fn from(mode: &NotedMode) -> Self {
        let (mode, state) = match mode {
            NotedMode::Exclusive => (Mode::Exclusive, State::Waiting),
            NotedMode::Shared => (Mode::Shared, State::Waiting),
            NotedMode::AnySlot(of) => (Mode::AnySlot { of: *of }, State::Waiting),
            NotedMode::OneSlot { which, .. } => (Mode::Slot(*which), State::Waiting),
            NotedMode::Unknown(_) => (Mode::Exclusive, State::Granted(None)),
        };
        Self { id: Id(0), mode, state }
    }
}

/// The contenders of rows, for [`decide`](super::queue::decide).
pub fn contenders(rows: &[Row]) -> Vec<Contender> {
    rows.iter().map(|row| row.contender).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_encoded_one_to_one_and_never_too_long() {
        let encoded = |name: &[u8]| LockName::new(name).encoded().to_owned();
        assert_eq!(encoded(b"a.b_c-D9"), "a.b_c-D9");
        assert_eq!(encoded(b"a/b c%"), "a%2Fb%20c%25");
        let long = vec![b'/'; 200];
        assert_eq!(encoded(&long).len(), 510);
        assert!(encoded(&long).contains("%-"));
        assert_ne!(encoded(&long), encoded(&vec![b'/'; 201]));
    }

    proptest! {
        #[test]
        fn an_encoded_name_is_decoded_again(name in prop::collection::vec(any::<u8>(), 1..700)) {
            let name = LockName::new(&name);
            prop_assert!(name.encoded().len() <= LONGEST_NAME);
            let back = LockName::from_encoded(name.encoded()).unwrap();
            prop_assert_eq!(back.encoded(), name.encoded());
            prop_assert!(back == name || name.encoded().contains(MARK));
        }
    }

    #[test]
    fn what_is_not_an_encoded_name() {
        for wrong in ["", "a b", "%2", "%2f", "%41", "a%-", "%-0123456789012345678901234567890123456789"] {
            assert_eq!(LockName::from_encoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_newer_note_is_read_and_nothing_of_it_is_lost() {
        let text = br#"{"format":2,"mode":{"lease-of":7},"host":"h","pid":4,"user":"u","command":"c","colour":"red"}"#;
        let note = Note::parse(text).unwrap();
        let contender = Contender::from(&note.mode);
        assert_eq!((contender.mode, contender.state), (Mode::Exclusive, State::Granted(None)));
        let again: Value = serde_json::from_slice(&note.to_bytes()).unwrap();
        let before: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(again, before);
    }

    #[test]
    fn a_note_comes_back_as_it_was_written() {
        for mode in
            [NotedMode::Exclusive, NotedMode::Shared, NotedMode::AnySlot(3), NotedMode::OneSlot { of: 3, which: 1 }]
        {
            let call = Some(Call { what: CallKind::Break, by: "pid 1".into(), kill_after: Some(2.5) });
            let note = Note { format: FORMAT, mode, call, owner: Some(7), replace: true, ..Note::default() };
            assert_eq!(Note::parse(&note.to_bytes()), Some(note));
        }
        assert_eq!(Note::parse(b""), None);
    }

    proptest! {
        #[test]
        fn hostile_notes_are_unreadable_or_come_back(
            text in crate::hostile::text(include_str!("../../../tests/corpus/rows")),
        ) {
            if let Some(note) = Note::parse(&text) {
                let again = Note::parse(&note.to_bytes());
                // Fractions do not keep all their digits.
                let essence = |note: &Note| {
                    let contender = Contender::from(&note.mode);
                    (contender, note.format, note.pid, note.owner, note.token, note.user.clone(), note.command.clone())
                };
                match note.mode {
                    // A key that stands twice in it is written once, and then it may be known.
                    NotedMode::Unknown(_) => prop_assert!(again.is_some()),
                    _ => prop_assert_eq!(again.as_ref().map(essence), Some(essence(&note))),
                }
            }
        }
    }
}
