//! `lockrun break`: make the holder let go.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::selection::SelectedLocks;
use crate::cli;
use crate::exit::Exit;
use crate::lock::{LockState, NOBODY_SEEN, Store, WHO_SEES};
use crate::message;

/// From TERM to KILL, as for `--expires`.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// How often to look at a lock that is held but shows no holder: its file may have been
/// replaced meanwhile.
const LOOKS: usize = 3;

/// Returns once the holders have let go.
pub fn break_lock(options: cli::Break) -> Result<Exit> {
    let locks = SelectedLocks::new(options.which)?;
    let [target] = &locks.targets[..] else {
        bail!(cli::UsageError::form("which lock? give exactly one", "lockrun break LOCK (or --file PATH)", "break"));
    };
    for look in 1..=LOOKS {
        let Some(seen) = locks.look()?.pop() else { break };
        let name = message::shown_name(&seen.name);
        if seen.state == LockState::Free {
            // After the first look, it was let go before we saw a holder.
            if look == 1 {
                message::tell_about(&name, "not held, nothing to break");
            }
            break;
        }
        let kill_after = options.kill_after.unwrap_or(KILL_AFTER);
        if locks.store.make_let_go(target, kill_after).with_context(|| name.clone())? {
            break;
        }
        if look == LOOKS {
            bail!("{name}: {NOBODY_SEEN}; {WHO_SEES}");
        }
    }
    Ok(Exit::Ok)
}
