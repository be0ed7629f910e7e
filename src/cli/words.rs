//! A command line to show, ready to be pasted into a shell.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use crate::escape::printable;
use crate::name::shell_quote;

/// The words of a command line, quoted.
#[derive(Clone, Debug, Default)]
pub struct Words(Vec<String>);

impl Words {
    /// A line that begins with `lockrun`.
    pub fn of_lockrun() -> Self {
        Self(vec!["lockrun".into()])
    }

    /// Adds a word of the user's.
    pub fn add(&mut self, word: &OsStr) {
        self.0.push(printable(&shell_quote(word.as_bytes())));
    }

    /// Adds words of the user's.
    pub fn extend<'a>(&mut self, words: impl IntoIterator<Item = &'a OsString>) {
        words.into_iter().for_each(|word| self.add(word));
    }

    /// Adds a word as it is: an option, or a placeholder.
    pub fn add_plain(&mut self, word: &str) {
        self.0.push(word.into());
    }

    /// The first word; empty if there is none.
    pub fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Adds words that are quoted already.
    pub fn append(&mut self, other: &Words) {
        self.0.extend_from_slice(&other.0);
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}
