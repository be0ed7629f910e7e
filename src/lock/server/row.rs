//! A row: one contender's entry in the queue of one lock, as a store keeps it.
//!
//! What the queue is decided by ([`Contender`]) is the store's business: keys,
//! columns, a sorted set. The rest is the *note*, a line of JSON that every
//! store keeps as it is and every lockrun can read.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::queue::{Contender, Id, Mode, State};

/// The format of notes that this lockrun writes, and the newest that it
/// understands.
pub const FORMAT: u32 = 1;

/// Longest encoded name, in bytes.
const LONGEST_NAME: usize = 512;
/// 160 bits, as for lock files.
const HASH_DIGITS: usize = 40;
/// `%` is followed by two hexadecimal digits everywhere else, so this cannot be
/// part of an encoded name.
const MARK: &str = "%-";

/// The name of a lock, as it is given and as stores write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockName {
    given: Vec<u8>,
    encoded: String,
}

impl LockName {
    /// Encodes a name: bytes other than `A-Z a-z 0-9 . _ -` become `%` and two
    /// hexadecimal digits. What gets longer than 512 bytes keeps its beginning and
    /// ends in a hash. The mapping is one-to-one and must never change.
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
            // Never through the middle of an encoded byte.
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

    /// The name behind an encoded one; `None` if lockrun writes no name so. Of a
    /// name that ends in a hash only the encoded form is known, until a
    /// [`Note::name`] tells the rest: [`given`](Self::given) is the encoded form
    /// then.
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

    /// As it is written in a store: at most 512 bytes of `A-Z a-z 0-9 . _ - %`.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }
}

impl Id {
    /// 32 hexadecimal digits, back to an id.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }

    /// An id for a row that another program wrote, from the key that it has in the
    /// store: always the same for the same key.
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
    /// Id, mode, state. Of a row whose note has a mode that this lockrun does not
    /// know: [`Mode::Exclusive`], [`State::Granted`]. A row that another program wrote
    /// (`etcdctl lock`) is an exclusive one, with [`Id::of_foreign`].
    ///
    /// Where the store grants the whole lock by order alone and writes no grant
    /// (etcd), such a row is [`State::Granted`] here as soon as nothing before it
    /// excludes it. A slot is granted once that is written.
    pub contender: Contender,
    /// Its number in the order of the queue.
    pub order: u64,
    /// Changes whenever the row does (mode, state, note, lease): a call names it,
    /// so that it reaches the row that was seen. etcd: the mod revision.
    pub version: u64,
    /// The fencing number of its grant; `None` while it waits.
    pub fence: Option<u64>,
    /// The lease that ends it, as the store names it; 0: none, it stays until it
    /// is removed.
    pub lease: u64,
    /// Where the store keeps it, for the store alone (etcd: the key).
    pub key: String,
    /// Who wrote it; of a row of another program the default.
    pub note: Note,
}

/// What a lockrun says about itself in its row.
///
/// Unknown fields are kept. A field that cannot be read as its type makes the
/// whole note unreadable: the row counts as an exclusive holder that nobody
/// knows anything about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Version of the note, [`FORMAT`]; 0: the row is of another program.
    #[serde(default)]
    pub format: u32,
    /// What the row asks for.
    #[serde(default)]
    pub mode: NotedMode,
    /// The lock's name as it was given, made UTF-8: the encoded one may end in a
    /// hash.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Host name.
    #[serde(default)]
    pub host: String,
    /// Process id of the lockrun that people see, or of a token's owner.
    #[serde(default)]
    pub pid: i32,
    /// Login name, or the number of the user.
    #[serde(default)]
    pub user: String,
    /// The command line.
    #[serde(default)]
    pub command: String,
    /// When it began to hold the lock, RFC 3339 in UTC; missing while it waits,
    /// and shortly after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it entered the queue, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entered: Option<String>,
    /// When the lock expires, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Until when --at-least keeps the lock, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<String>,
    /// The process on whose end a token is let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<i32>,
    /// Whether a token stands for it, and no process keeps it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token: bool,
    /// Seconds between TERM and KILL that its command gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_after: Option<f64>,
    /// Whether its command has ended, and only --at-least keeps the lock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_ended: bool,
    /// Whether it waits with --replace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// What somebody else asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
    /// What a newer lockrun wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A mode as a note writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotedMode {
    /// The whole lock.
    #[default]
    Exclusive,
    /// A share of it.
    Shared,
    /// Any slot of a pool of so many.
    AnySlot(u32),
    /// Exactly one slot of a pool.
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

/// What somebody asks of a holder or waiter, written into its row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What for.
    pub what: CallKind,
    /// Who calls, for people: `pid 4242 on db1 (deploy)`.
    #[serde(default)]
    pub by: String,
    /// Seconds between TERM and KILL that `break --kill-after` grants; `None`: as
    /// the holder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_after: Option<f64>,
}

/// Why a holder or waiter shall let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallKind {
    /// `lockrun break`.
    Break,
    /// A newcomer with --replace.
    Replace,
}

impl Note {
    /// From what a store keeps. `None`: this is not a note of lockrun.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// For the store: one line of JSON.
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
}
