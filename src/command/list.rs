//! `lockrun list`: who holds which lock, since when, and how many wait.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde::Serialize;

use crate::cli;
use crate::duration;
use crate::escape::{printable, printable_json};
use crate::exit::Exit;
use crate::lock::{Holder, LockState, Seen, Store};
use crate::message;
use crate::table::{Colour, Column, Look, Table};

use super::selection::SelectedLocks;
use super::stdout;

/// One lock in `--json`. Stable: fields are only ever added.
#[derive(Serialize)]
struct Lock {
    /// Its name, or the path that was locked.
    name: String,
    /// The file that is locked.
    path: String,
    /// `free`, `exclusive`, `shared`, `slots`, `unknown`.
    state: &'static str,
    /// Size of the pool, if a slot is held.
    slots: Option<u32>,
    /// All visible holders.
    holders: Vec<Row>,
    /// Number of waiters.
    waiting: usize,
}

/// A holder; null: unknown, or does not apply.
#[derive(Serialize)]
struct Row {
    pid: Option<i32>,
    /// The holder's host, on a server; null: this one.
    host: Option<String>,
    user: Option<String>,
    command: Option<String>,
    /// RFC 3339.
    since: Option<String>,
    /// Seconds since then.
    age: Option<f64>,
    /// RFC 3339; null: never.
    expires: Option<String>,
    /// Seconds until then; negative if past.
    remaining: Option<f64>,
    /// RFC 3339: the command has ended, and --at-least keeps the lock until then.
    kept_until: Option<String>,
    /// Process whose end releases a token's lock.
    owner: Option<i32>,
    slot: Option<u32>,
    fence: Option<u64>,
}

/// Prints a table, or JSON.
pub fn list(options: cli::List) -> Result<Exit> {
    stdout::print(text(options)?)?;
    Ok(Exit::Ok)
}

fn text(options: cli::List) -> Result<String> {
    let locks = SelectedLocks::new(options.which)?;
    if options.names {
        return names(&locks);
    }
    let seen = locks.look()?;
    if options.json { json(&seen) } else { Ok(table(&seen)) }
}

fn names(locks: &SelectedLocks) -> Result<String> {
    let names = locks.store.names()?;
    let simple = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
    Ok(simple.filter(|name| *name == printable(name.as_bytes())).map(|name| name + "\n").collect())
}

/// An array, one lock a line.
fn json(seen: &[Seen]) -> Result<String> {
    let now = SystemTime::now();
    let lines = seen.iter().map(|seen| serde_json::to_string(&described(seen, now)).map(|line| printable_json(&line)));
    let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
    Ok(if lines.is_empty() { "[]\n".into() } else { format!("[\n{}\n]\n", lines.join(",\n")) })
}

fn described(seen: &Seen, now: SystemTime) -> Lock {
    let row = |holder: &Holder| Row {
        pid: holder.pid,
        host: holder.host.clone(),
        user: holder.user.clone(),
        command: holder.command.clone(),
        since: holder.since.clone(),
        age: holder.age.map(|age| age.as_secs_f64()),
        expires: holder.expires.clone(),
        remaining: holder.expires.as_deref().and_then(|expires| seconds_until(expires, now)),
        kept_until: holder.kept_until.clone(),
        owner: holder.owner,
        slot: holder.slot,
        fence: holder.fence,
    };
    Lock {
        name: String::from_utf8_lossy(&seen.name).into_owned(),
        path: seen.path.to_string_lossy().into_owned(),
        state: match seen.state {
            LockState::Free => "free",
            LockState::Exclusive => "exclusive",
            LockState::Shared if slots_held(seen) > 0 => "slots",
            LockState::Shared => "shared",
            LockState::Unknown => "unknown",
        },
        slots: pool(seen),
        holders: seen.holders.iter().map(row).collect(),
        waiting: seen.waiting,
    }
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

/// One line for each lock, and one more for each further holder.
fn table(seen: &[Seen]) -> String {
    let now = SystemTime::now();
    let mut table = Table::new(vec![
        Column::new("LOCK").shrinks_to(12, 1),
        Column::new("STATE"),
        Column::new("PID").right().may_go(2),
        Column::new("USER").shrinks_to(6, 2).may_go(5),
        Column::new("COMMAND").shrinks_to(12, 0).may_go(1),
        Column::new("AGE").right().may_go(3),
        Column::new("UNTIL").may_go(4),
        Column::new("WAITING").right(),
    ]);
    for seen in seen {
        let (state, colour) = state(seen);
        let waiting = if seen.waiting > 0 { seen.waiting.to_string() } else { String::new() };
        let unknown = seen.state != LockState::Free && seen.holders.is_empty();
        let nobody = Holder::default();
        let holders = if seen.holders.is_empty() { std::slice::from_ref(&nobody) } else { &seen.holders[..] };
        for (position, holder) in holders.iter().enumerate() {
            let first = |text: &str| if position == 0 { text.to_owned() } else { String::new() };
            let shown = |text: &Option<String>| printable(text.as_deref().unwrap_or_default().as_bytes());
            let unseen = unknown || (holder.pid.is_none() && seen.state != LockState::Free);
            let command = match &holder.command {
                None if unseen => "(holder unknown)".into(),
                command => shown(command),
            };
            table.row(
                vec![
                    first(&message::shown_name(&seen.name)),
                    first(&state),
                    holder.pid.map_or_else(|| if unseen { "?".into() } else { String::new() }, |pid| pid.to_string()),
                    match &holder.host {
                        Some(_) => format!("{}@{}", shown(&holder.user), shown(&holder.host)),
                        None => shown(&holder.user),
                    },
                    command,
                    holder.age.map(duration::display).unwrap_or_default(),
                    until(holder, now),
                    first(&waiting),
                ],
                colour,
            );
        }
    }
    table.render(look())
}

fn state(seen: &Seen) -> (String, Colour) {
    match seen.state {
        LockState::Free => ("free".into(), Colour::Green),
        LockState::Exclusive => ("held".into(), Colour::Yellow),
        LockState::Shared => match (slots_held(seen), seen.holders.len()) {
            (0, 0) => ("shared".into(), Colour::Yellow),
            (0, holders) => (format!("shared by {holders}"), Colour::Yellow),
            (slots_held, _) => match pool(seen) {
                Some(slots) => (format!("{slots_held} of {slots} slots"), Colour::Yellow),
                None => (format!("{slots_held} slots"), Colour::Yellow),
            },
        },
        LockState::Unknown => ("unknown".into(), Colour::Plain),
    }
}

/// The latest time of the release.
fn until(holder: &Holder, now: SystemTime) -> String {
    let expiry = holder.expires.as_deref().and_then(|expires| seconds_until(expires, now)).map(|left| {
        if left <= 0.0 { "expired".into() } else { format!("in {}", duration::display(Duration::from_secs_f64(left))) }
    });
    let owner = holder.owner.map(|owner| format!("pid {owner} ends"));
    [owner, expiry].into_iter().flatten().collect::<Vec<_>>().join(", ")
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
