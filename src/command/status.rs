//! `lockrun status`: would `--timeout 0` get the lock now?

use std::io::IsTerminal;
use std::time::SystemTime;

use anyhow::{Result, bail};

use crate::cli;
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::{LastRun, LockState, Seen};
use crate::message;

use super::list::tables;
use super::selection::SelectedLocks;
use super::stdout;

/// The exit code is the answer.
pub fn status(options: cli::Status) -> Result<Exit> {
    let locks = SelectedLocks::new(options.which)?;
    if locks.targets.len() != 1 {
        bail!(cli::UsageError::form("which lock? give exactly one", "lockrun status LOCK (or --file PATH)", "status"));
    }
    locks.require_usable()?;
    let seen = locks.look_closely()?;
    if std::io::stdout().is_terminal() {
        stdout::print(seen.iter().map(described).collect::<String>())?;
    }
    Ok(if seen.iter().all(Seen::is_free) { Exit::Ok } else { Exit::No })
}

fn described(seen: &Seen) -> String {
    let waiting = if seen.waiting > 0 { format!("; {} waiting", seen.waiting) } else { String::new() };
    let state = match (seen.state, &seen.last) {
        (LockState::Free, _) if seen.waiting > 0 => "free".into(),
        (LockState::Free, Some(run)) => format!("free; last run: {}", last_run(run, SystemTime::now())),
        (LockState::Free, None) => "free".into(),
        _ => message::held_by(&seen.holders),
    };
    format!("{}: {state}{waiting}\n", message::shown_name(&seen.name))
}

fn last_run(run: &LastRun, now: SystemTime) -> String {
    let ago = tables::ago(run, now).map_or_else(String::new, |ago| format!(", {ago}"));
    format!("{} ({}){ago}", tables::how(run), printable(run.command.as_bytes()))
}
