//! The token: one opaque word that says where the lock is, and proves the right to
//! release it.
//!
//! It works from any directory and environment, because it carries all that its
//! commands need. Lock files: the keeper's address, the secret, and what messages say
//! about the lock when the keeper is gone. A server: its addresses and the rows, but no
//! password, user or file.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Names the token where none is given.
pub const VARIABLE: &str = "LOCKRUN_TOKEN";

/// CI systems find what a cancelled job left running by these variables (GitHub
/// Actions' runner, Jenkins), so the process behind a token keeps them.
pub const KEPT_ENVIRONMENT: [&str; 3] = ["RUNNER_TRACKING_ID", "BUILD_ID", "JENKINS_NODE_COOKIE"];

/// Marks a token and its format version.
const PREFIX: &str = "lr1.";
/// Bytes of a hash over the rest: a mistyped token is an error (125) and not a lost
/// lock (123).
const CHECK: usize = 6;

/// No token is shorter, without its prefix.
const SHORTEST: usize = 40;

/// Replaces all that may be a token, even with a typing error, by `TOKEN`.
pub fn hide(text: &str) -> String {
    let Some(start) = text.find(PREFIX) else { return text.to_owned() };
    let (before, rest) = (&text[..start], &text[start + PREFIX.len()..]);
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let length = rest.find(|c| !is_of_token(c)).unwrap_or(rest.len());
    let shown = if length >= SHORTEST { "TOKEN" } else { &text[start..start + PREFIX.len() + length] };
    before.to_owned() + shown + &hide(&rest[length..])
}

/// A token of any engine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnyToken {
    /// Of lock files.
    Files(Token),
    /// Of a server.
    Server(ServerToken),
}

impl AnyToken {
    pub fn to_word(&self) -> String {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        let check = Sha256::digest(&bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        PREFIX.to_owned() + &BASE64URL_NOPAD.encode(&bytes)
    }

    /// Decodes a token; `None` if `word` is not one.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(word.strip_prefix(PREFIX.as_bytes())?).ok()?;
        let (bytes, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK)?)?;
        (Sha256::digest(bytes)[..CHECK] == *check).then(|| serde_json::from_slice(bytes).ok())?
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Files(token) => &token.name,
            Self::Server(token) => &token.name,
        }
    }

    /// The fencing token; for several locks, that of the first.
    pub fn fence(&self) -> u64 {
        match self {
            Self::Files(token) => token.fence(),
            Self::Server(token) => token.fence,
        }
    }

    pub fn slot(&self) -> Option<u32> {
        match self {
            Self::Files(token) => token.slot,
            Self::Server(token) => token.slot,
        }
    }
}

/// The content of a token of lock files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The keeper's address; not secret.
    #[serde(rename = "i")]
    pub id: String,
    /// Known only to the keeper and the token.
    #[serde(rename = "s")]
    pub secret: String,
    /// The keeper's user; answers of other users are ignored.
    #[serde(rename = "u")]
    pub uid: u32,
    #[serde(rename = "n")]
    pub name: String,
    /// One per lock.
    #[serde(rename = "g")]
    pub grants: Vec<TokenGrant>,
    #[serde(rename = "k", skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<u32>,
    /// Absolute.
    #[serde(rename = "d", with = "base64")]
    pub dir: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenGrant {
    #[serde(rename = "f")]
    pub fence: u64,
    /// Its record, in the locks directory.
    #[serde(rename = "r")]
    pub file: String,
    /// Recognised by a lockrun that runs under the token.
    #[serde(rename = "m")]
    pub marker: String,
}

impl Token {
    /// The fencing token; for several locks, that of the first.
    pub fn fence(&self) -> u64 {
        self.grants.first().map_or(0, |grant| grant.fence)
    }

    pub fn dir(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.dir))
    }

    /// 128 random bits as a word, for an id or a secret. Fails if the kernel has no
    /// random numbers yet.
    pub fn random() -> rustix::io::Result<String> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(BASE64URL_NOPAD.encode(&bytes))
    }
}

/// The content of a token of a server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerToken {
    /// Where the locks are: a URL of addresses alone.
    #[serde(rename = "a")]
    pub store: String,
    /// What their names begin with there.
    #[serde(rename = "p")]
    pub prefix: String,
    /// Which store that is.
    #[serde(rename = "c")]
    pub identity: String,
    /// The rows of its locks.
    #[serde(rename = "r")]
    pub rows: Vec<TokenRow>,
    /// For how long it was taken; `None`: until it is released.
    #[serde(rename = "t", skip_serializing_if = "Option::is_none", default)]
    pub term: Option<Duration>,
    #[serde(rename = "n")]
    pub name: String,
    /// The fencing token of the first lock.
    #[serde(rename = "f")]
    pub fence: u64,
    #[serde(rename = "k", skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<u32>,
}

/// A row on a server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The lock's name, encoded.
    #[serde(rename = "l")]
    pub lock: String,
    /// The row's id, in hexadecimal digits.
    #[serde(rename = "i")]
    pub id: String,
    /// Whether the token only refers to it: a command around `acquire --reentrant`
    /// holds it.
    #[serde(rename = "o", skip_serializing_if = "std::ops::Not::not", default)]
    pub is_outer: bool,
}

/// A path, which need not be UTF-8, as text.
mod base64 {
    use data_encoding::BASE64URL_NOPAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL_NOPAD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64URL_NOPAD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

/// Without the secret: debug output may end up in a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, fence {})", self.name, self.fence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> AnyToken {
        AnyToken::Files(Token {
            id: Token::random().unwrap(),
            secret: Token::random().unwrap(),
            uid: 0,
            name: "de ploy".into(),
            slot: Some(3),
            dir: b"/run/lock\xff run".to_vec(),
            grants: vec![TokenGrant { fence: u64::MAX, file: "de%20ploy.lock".into(), marker: "1:2:3:x".into() }],
        })
    }

    fn token_of_server() -> AnyToken {
        AnyToken::Server(ServerToken {
            store: "etcd://a:2379,[::1]:2379".into(),
            prefix: "jobs".into(),
            identity: "cdf818194e3a8c32".into(),
            rows: vec![TokenRow { lock: "de%20ploy".into(), id: "0".repeat(32), is_outer: false }],
            term: Some(Duration::from_millis(1500)),
            name: "de ploy".into(),
            fence: 7,
            slot: None,
        })
    }

    #[test]
    fn a_token_is_one_plain_word_and_is_read_back() {
        for token in [token(), token_of_server()] {
            let word = token.to_word();
            assert!(word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{word}");
            assert!(AnyToken::parse(word.as_bytes()) == Some(token));
        }
    }

    #[test]
    fn a_word_with_any_error_is_no_token() {
        let word = token().to_word();
        for position in 0..word.len() {
            let mut wrong = word.clone().into_bytes();
            wrong[position] = if wrong[position] == b'A' { b'B' } else { b'A' };
            assert!(AnyToken::parse(&wrong).is_none());
            assert!(AnyToken::parse(&word.as_bytes()[..position]).is_none());
        }
        assert!(AnyToken::parse(b"").is_none());
        assert!(AnyToken::parse((word + "A").as_bytes()).is_none());
    }

    #[test]
    fn a_token_in_a_text_is_hidden_and_nothing_else() {
        let word = token().to_word();
        assert_eq!(hide(&format!("'--{word}' and {word}")), "'--TOKEN' and TOKEN");
        for text in ["", "/var/lock/lr1.lock", "lr1.", "lr1.lr1.x"] {
            assert_eq!(hide(text), text);
        }
    }

    #[test]
    fn the_secret_is_not_printed() {
        let AnyToken::Files(token) = token() else { unreachable!() };
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    proptest! {
        #[test]
        fn hostile_tokens_are_refused_or_come_back(
            json in crate::hostile::text(include_str!("../tests/corpus/tokens")),
        ) {
            // With a sum that fits, as only somebody who means it would make it.
            let mut bytes = json;
            let check = Sha256::digest(&bytes);
            bytes.extend_from_slice(&check[..CHECK]);
            let word = PREFIX.to_owned() + &BASE64URL_NOPAD.encode(&bytes);
            if let Some(token) = AnyToken::parse(word.as_bytes()) {
                prop_assert!(AnyToken::parse(token.to_word().as_bytes()) == Some(token));
                prop_assert!(!hide(&word).contains(&word[PREFIX.len()..]));
            }
            prop_assert!(AnyToken::parse(&bytes).is_none());
        }
    }
}
