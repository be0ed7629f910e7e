//! `lockrun list`: who holds what, since when, how many wait, and how the last run of
//! a free lock ended.

mod json;
pub mod tables;

use std::io::IsTerminal;
use std::time::SystemTime;

use anyhow::Result;

use crate::cli;
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::{LockState, Seen, Store};
use crate::message;
use crate::table::Look;

use super::selection::SelectedLocks;
use super::stdout;

/// Prints tables, or JSON.
///
/// # Errors
/// A lock cannot be looked at, or stdout not written to.
pub fn list(options: cli::List) -> Result<Exit> {
    let locks = SelectedLocks::new(options.which)?;
    if options.names {
        stdout::print(names(&locks)?)?;
        return Ok(Exit::Ok);
    }
    let mut seen = locks.look()?;
    if options.held {
        seen.retain(|seen| seen.state != LockState::Free);
    }
    if options.json {
        stdout::print(json::text(&seen)?)?;
    } else if seen.is_empty() {
        let place = locks.store.location();
        message::tell(&if options.held {
            format!("nobody holds a lock in {place}")
        } else {
            format!("no locks in {place}")
        });
    } else {
        stdout::print(tables::text(&seen, look()))?;
    }
    Ok(Exit::Ok)
}

fn names(locks: &SelectedLocks) -> Result<String> {
    let names = locks.store.names()?;
    let simple = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
    Ok(simple.filter(|name| *name == printable(name.as_bytes())).map(|name| name + "\n").collect())
}

fn slots_held(seen: &Seen) -> usize {
    seen.holders.iter().filter(|holder| holder.slot.is_some()).count()
}

/// Size of the pool; the largest, if its holders disagree.
fn pool(seen: &Seen) -> Option<u32> {
    seen.holders.iter().filter_map(|holder| holder.slots).max()
}

/// Negative if past.
fn seconds_until(time: &str, now: SystemTime) -> Option<f64> {
    let time = humantime::parse_rfc3339(time).ok()?;
    Some(match time.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(past) => -past.duration().as_secs_f64(),
    })
}

/// As wide as the terminal, with colours only on a terminal and without `NO_COLOR`
/// (<https://no-color.org>).
fn look() -> Look {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return Look { width: None, coloured: false };
    }
    let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col);
    let said = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    let width = if columns == 0 { 80 } else { columns.into() };
    Look { width: Some(width), coloured: !said("NO_COLOR") && !dumb }
}
