//! COMMAND: running it, passing signals on, and saying how it ended.

mod supervise;
mod tree;
mod waiter;

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, anyhow};

pub use supervise::{Cause, EarlySignals, Outcome, Supervision, reap, supervise};
pub use tree::Tree;
pub use waiter::{Verdict, Waited, Waiter, WaitingChild, Watch, is_deadly};

use crate::sys::{Exec, Mask};

/// How COMMAND ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

/// Makes COMMAND ready to run with our environment, less some variables.
///
/// # Errors
/// A word with a NUL byte in it.
pub fn prepare(words: &[OsString], unset: &[&str], mask: Mask, ignore_child_death: bool) -> Result<Exec> {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| anyhow!("a NUL byte in the command's words"));
    let argv = words.iter().map(|word| text(word.as_bytes().to_vec())).collect::<Result<_>>()?;
    Ok(Exec::new(argv, unset, mask, ignore_child_death))
}
