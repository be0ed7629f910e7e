//! `lockrun list` for people: a table of held locks, and one of free ones.

use std::time::{Duration, SystemTime};

use super::{pool, seconds_until, slots_held};
use crate::duration;
use crate::escape::printable;
use crate::lock::{Holder, HowEnded, LastRun, LockState, Seen};
use crate::message;
use crate::table::{Colour, Column, Look, Table};

/// Both tables, or the one that has rows.
pub fn text(seen: &[Seen], look: Look) -> String {
    let (free_locks, held_locks): (Vec<&Seen>, Vec<&Seen>) =
        seen.iter().partition(|seen| seen.state == LockState::Free);
    let held = (!held_locks.is_empty()).then(|| held(&held_locks, look));
    let free = (!free_locks.is_empty()).then(|| free(&free_locks, look));
    held.into_iter().chain(free).collect::<Vec<_>>().join("\n")
}

/// A line for each free lock, with its last run.
fn free(seen: &[&Seen], look: Look) -> String {
    let now = SystemTime::now();
    let mut table = Table::new(vec![
        Column::new("LOCK").shrinks_to(12, 1),
        Column::new("STATE"),
        Column::new("LAST RUN").may_go(3),
        Column::new("ENDED").right().may_go(2),
        Column::new("TOOK").right().may_go(4),
        Column::new("USER").shrinks_to(6, 2).may_go(5),
        Column::new("COMMAND").shrinks_to(12, 0).may_go(1),
        Column::new("WAITING").right().may_go(0),
    ]);
    for seen in seen {
        let run = seen.last.as_ref();
        let shown = |text: Option<&String>| printable(text.map_or("", String::as_str).as_bytes());
        table.row(
            vec![
                message::shown_name(&seen.name),
                "free".into(),
                run.map(how).unwrap_or_default(),
                run.and_then(|run| ago(run, now)).unwrap_or_default(),
                run.and_then(|run| run.took).map(duration::display).unwrap_or_default(),
                shown(run.map(|run| &run.user)),
                shown(run.map(|run| &run.command)),
                if seen.waiting > 0 { seen.waiting.to_string() } else { String::new() },
            ],
            Colour::Green,
        );
    }
    table.render(look)
}

/// `exit 1`, a signal, or a word.
pub fn how(run: &LastRun) -> String {
    match run.how {
        HowEnded::Code(code) => format!("exit {code}"),
        HowEnded::Signal(signal) => message::signal_name(signal),
        how => how.word().into(),
    }
}

/// When it ended, if that is known.
pub fn ago(run: &LastRun, now: SystemTime) -> Option<String> {
    let ended = humantime::parse_rfc3339(run.ended.as_ref()?).ok()?;
    Some(format!("{} ago", duration::display(now.duration_since(ended).unwrap_or_default())))
}

/// One line for each lock, and one more for each further holder.
fn held(seen: &[&Seen], look: Look) -> String {
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
    table.render(look)
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
