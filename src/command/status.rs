//! `lockrun status`: would `--timeout 0` get the lock now?

use anyhow::{Result, bail};

use crate::cli;
use crate::exit::Exit;
use crate::message;

use super::selection::SelectedLocks;

/// Silent, unless it cannot be known.
pub fn status(options: cli::Status) -> Exit {
    is_free(options).map_or_else(
        |error| {
            message::tell_error(&error);
            Exit::Failed
        },
        |free| if free { Exit::Ok } else { Exit::No },
    )
}

fn is_free(options: cli::Status) -> Result<bool> {
    let locks = SelectedLocks::new(options.which)?;
    if locks.targets.len() != 1 {
        bail!("which lock? lockrun status LOCK (or --file PATH), one of them; see 'lockrun status --help'");
    }
    locks.require_usable()?;
    Ok(locks.look_closely()?.iter().all(|seen| seen.is_free()))
}
