//! COMMAND: running it, passing signals on, and how it ended.

mod cause;
mod lookout;
#[cfg(test)]
mod model;
mod outcome;
mod renewals;
mod sleep;
mod supervise;
mod tree;
mod waiter;
mod waiting_child;

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, anyhow};

pub use cause::Cause;
pub use lookout::Lookout;
pub use renewals::{Renewals, Term};
pub use supervise::{EarlySignals, Outcome, Supervision, reap, supervise};
pub use tree::Tree;
pub use waiter::{GrantedChild, Waiter, Watch, is_deadly};
pub use waiting_child::WaitingChild;

use crate::sys::{Exec, Mask};

/// How COMMAND ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(u8),
    Signal(i32),
}

/// Prepares COMMAND with our environment, without the variables `unset`. Fails if a
/// word contains a NUL byte.
pub fn prepare(words: &[OsString], unset: &[&str], mask: Mask, ignore_child_death: bool) -> Result<Exec> {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| anyhow!("a NUL byte in the command's words"));
    let argv = words.iter().map(|word| text(word.as_bytes().to_vec())).collect::<Result<_>>()?;
    Ok(Exec::new(argv, unset, mask, ignore_child_death))
}

/// Where execvp(3) searches without a PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Whether execvp(3) would find a file for this word: at the path, or in PATH.
pub fn is_there(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}
