//! `lockrun list --json`, as docs/schema/list.json describes it.

use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use super::{pool, seconds_until, slots_held};
use crate::escape::printable_json;
use crate::lock::{Holder, HowEnded, LastRun, LockState, Seen};

/// One lock in `--json`. Stable: fields are only ever added.
#[derive(Serialize)]
struct Lock {
    /// Its name, or the path that was locked.
    name: String,
    /// The file that is locked.
    path: String,
    /// Null where that is not visible from here.
    held: Option<bool>,
    /// `free`, `exclusive`, `shared`, `slots`, `unknown`.
    state: &'static str,
    /// Size of the pool, if a slot is held.
    slots: Option<u32>,
    /// All visible holders.
    holders: Vec<Row>,
    waiting: usize,
    /// Of a free lock in a file: how its last run ended.
    last: Option<Last>,
}

/// The last run; null: unknown, or does not apply.
#[derive(Serialize)]
struct Last {
    /// `succeeded`, `failed`, `killed`, `lost`, `released`, `unknown`.
    result: &'static str,
    code: Option<u8>,
    signal: Option<i32>,
    user: String,
    /// Without arguments.
    command: String,
    /// RFC 3339.
    since: String,
    /// RFC 3339.
    ended: Option<String>,
    /// Seconds under the lock.
    held: Option<f64>,
    fence: u64,
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

/// An array, one lock a line.
pub fn text(seen: &[Seen]) -> Result<String> {
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
        held: match seen.state {
            LockState::Free => Some(false),
            LockState::Exclusive | LockState::Shared => Some(true),
            LockState::Unknown => None,
        },
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
        last: seen.last.as_ref().map(last),
    }
}

fn last(run: &LastRun) -> Last {
    Last {
        result: run.how.word(),
        code: if let HowEnded::Code(code) = run.how { Some(code) } else { None },
        signal: if let HowEnded::Signal(signal) = run.how { Some(signal) } else { None },
        user: run.user.clone(),
        command: run.command.clone(),
        since: run.since.clone(),
        ended: run.ended.clone(),
        held: run.took.map(|took| took.as_secs_f64()),
        fence: run.fence,
    }
}
