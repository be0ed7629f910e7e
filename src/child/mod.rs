//! COMMAND: running it, passing signals on, and saying how it ended.

mod lookout;
mod outcome;
mod sleep;
mod supervise;
mod tree;
mod waiter;
mod waiting_child;

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, anyhow};

pub use lookout::Lookout;
pub use supervise::{Cause, EarlySignals, Outcome, Supervision, reap, supervise};
pub use tree::Tree;
pub use waiter::{GrantedChild, Waiter, Watch, is_deadly};
pub use waiting_child::WaitingChild;

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

/// Where execvp(3) looks without a PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Whether there is a file that execvp(3) would try for this word: at the
/// path, or in a directory of PATH.
pub fn is_there(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}
