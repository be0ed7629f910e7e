//! The command line of Stephen Friedl's lockrun, an older program of the same name,
//! translated into ours.
//!
//! It requires `--lockfile`, so none of its lines is also one of ours. Without `--wait`
//! it gives up at once, with `--quiet` as a success; `--wait` tries every `--sleep`
//! seconds, `--retries` times or until `--maxtime`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::words::Words;

/// One call of that program.
#[derive(Default)]
struct Call {
    lock_file: Option<OsString>,
    waits: bool,
    is_quiet: bool,
    is_verbose: bool,
    sleep: Option<u64>,
    retries: Option<u64>,
    longest: Option<u64>,
    /// The first option that only that program has.
    theirs: Option<String>,
}

/// The default of `--sleep`.
const SLEEP: u64 = 10;

/// Our line for a call with that program's options, and the option that gave it away.
/// `words` are without the program's name.
pub fn translate(words: &[OsString]) -> Option<(Words, String)> {
    let mut call = Call::default();
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        if word == "--" {
            rest = after;
            break;
        }
        if !word.as_bytes().starts_with(b"-") {
            break;
        }
        rest = call.read(word, after)?;
    }
    let theirs = call.theirs.take()?;
    Some((call.in_our_words(rest), theirs))
}

impl Call {
    /// Reads an option. Returns the words after it and its value.
    fn read<'a>(&mut self, word: &OsString, after: &'a [OsString]) -> Option<&'a [OsString]> {
        let bytes = word.as_bytes();
        let (option, inline) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
            None => (bytes, None),
        };
        let option = str::from_utf8(option).ok()?;
        let takes_value =
            matches!(option, "-L" | "--lockfile" | "-S" | "--sleep" | "-R" | "--retries" | "-T" | "--maxtime");
        let (value, after) = match (takes_value, inline) {
            (false, None) => (None, after),
            (false, Some(_)) => return None,
            (true, None) => match after.split_first() {
                Some((value, after)) if value != "--" => (Some(value.clone()), after),
                _ => (None, after),
            },
            (true, inline) => (inline, after),
        };
        let number = || value.as_ref().and_then(|value| value.to_str()?.parse().ok());
        match option {
            "-L" | "--lockfile" => self.lock_file.clone_from(&value),
            "-S" | "--sleep" => self.sleep = number(),
            "-R" | "--retries" => self.retries = number(),
            "-T" | "--maxtime" => self.longest = number(),
            "-W" | "--wait" => self.waits = true,
            "-I" | "--idempotent" | "-Q" | "-q" | "--quiet" => self.is_quiet = true,
            "-V" | "--verbose" => self.is_verbose = true,
            _ => return None,
        }
        if self.theirs.is_none() && !matches!(option, "--wait" | "-q" | "--quiet" | "-V" | "--verbose") {
            self.theirs = Some(option.to_owned());
        }
        Some(after)
    }

    fn in_our_words(&self, command: &[OsString]) -> Words {
        let mut line = Words::of_lockrun();
        let limit = self.longest.or(self.retries.map(|retries| retries.saturating_mul(self.sleep.unwrap_or(SLEEP))));
        match limit.filter(|limit| *limit > 0) {
            Some(limit) if self.waits => {
                line.add_plain("--timeout");
                line.add_plain(&limit.to_string());
            }
            _ if self.waits => {}
            _ => line.add_plain("--nonblock"),
        }
        if self.is_quiet && !self.waits {
            ["-E", "0"].iter().for_each(|word| line.add_plain(word));
        }
        if self.is_quiet {
            line.add_plain("--quiet");
        } else if self.is_verbose {
            line.add_plain("--verbose");
        }
        line.add_plain("--file");
        match &self.lock_file {
            Some(file) => line.add(file),
            None => line.add_plain("FILE"),
        }
        line.add_plain("--");
        if command.is_empty() {
            line.add_plain("COMMAND");
        }
        line.extend(command);
        line
    }
}
