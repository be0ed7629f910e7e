//! `lockrun status`: would `--timeout 0` get the lock now?

use anyhow::{Result, bail};

use crate::cli;
use crate::exit::Exit;

use super::selection::SelectedLocks;

/// The exit code is the answer.
pub fn status(options: cli::Status) -> Result<Exit> {
    let locks = SelectedLocks::new(options.which)?;
    if locks.targets.len() != 1 {
        bail!(cli::UsageError::form("which lock? give exactly one", "lockrun status LOCK (or --file PATH)", "status"));
    }
    locks.require_usable()?;
    let is_free = locks.look_closely()?.iter().all(|seen| seen.is_free());
    Ok(if is_free { Exit::Ok } else { Exit::No })
}
