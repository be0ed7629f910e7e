//! What is wrong with a command line, and what to type instead.

use std::fmt;

use super::words::Words;
use crate::token;

/// Printed on two lines: what is wrong, and what to do.
#[derive(Debug)]
pub struct UsageError {
    /// What is wrong.
    pub what: String,
    /// What to type, or where to read.
    pub next: String,
}

impl UsageError {
    /// `line` is what was probably meant.
    pub(super) fn meant(what: String, line: &Words) -> Self {
        Self::new(&what, &format!("try: {line}"))
    }

    /// Shows the command's form, and where its help is. `command` is empty for the main
    /// job.
    pub fn form(what: impl Into<String>, form: &str, command: &str) -> Self {
        let help = ["lockrun", command, "--help"].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>();
        Self::new(&what.into(), &format!("try: {form}; see '{}'", help.join(" ")))
    }

    /// Hides tokens, because anybody who reads the message could use them.
    fn new(what: &str, next: &str) -> Self {
        Self { what: token::hide(what), next: token::hide(next) }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.next)
    }
}

impl std::error::Error for UsageError {}
