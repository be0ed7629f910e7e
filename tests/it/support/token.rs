//! Tokens, and their keepers.

use super::{Outcome, Sandbox};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

const PREFIX: &str = "lr1.";
/// Bytes of the hash that follows the token's text.
const CHECK: usize = 6;

impl Sandbox {
    /// The token that `lockrun acquire OPTIONS` prints.
    #[track_caller]
    pub fn acquire<A: AsRef<OsStr>>(&self, options: &[A]) -> String {
        let args = options.iter().map(AsRef::as_ref);
        let args: Vec<_> = [OsStr::new("acquire")].into_iter().chain(args).collect();
        let outcome = self.lockrun(&args).run();
        outcome.assert_code(0).stdout.trim_end().to_owned()
    }

    /// `lockrun release`, `renew` or `check` with a token.
    #[track_caller]
    pub fn with_token(&self, command: &str, token: &str) -> Outcome {
        self.lockrun(&[command, token]).run()
    }

    #[track_caller]
    pub fn release(&self, token: &str) -> Outcome {
        self.with_token("release", token)
    }

    #[track_caller]
    pub fn check(&self, token: &str) -> Outcome {
        self.with_token("check", token)
    }

    /// Asserts that a plain `--timeout 0` gets the lock.
    #[track_caller]
    pub fn assert_free(&self, name: &str) {
        self.lockrun(&["-n", "-l", name, "--", "true"]).run().assert_code(0);
    }
}

/// The process that a lock file names as its holder.
#[track_caller]
pub fn holder_of(lock_file: &Path) -> i32 {
    let text = fs::read_to_string(lock_file).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    record["pid"].as_i64().unwrap() as i32
}

/// A field of a token: `i` is the socket, `s` the secret.
pub fn part(token: &str, key: &str) -> String {
    content(token)[key].as_str().unwrap().to_owned()
}

/// A well-formed token with changed fields.
pub fn altered(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut value = content(token);
    change(&mut value);
    let mut bytes = serde_json::to_vec(&value).unwrap();
    let check = Sha256::digest(&bytes);
    bytes.extend_from_slice(&check[..CHECK]);
    PREFIX.to_owned() + &BASE64URL_NOPAD.encode(&bytes)
}

fn content(token: &str) -> Value {
    let word = token.strip_prefix(PREFIX).unwrap();
    let bytes = BASE64URL_NOPAD.decode(word.as_bytes()).unwrap();
    serde_json::from_slice(&bytes[..bytes.len() - CHECK]).unwrap()
}
