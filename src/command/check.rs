//! `lockrun check`: is it still mine?

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use crate::cli;
use crate::escape::printable_json;
use crate::exit::Exit;
use crate::keeper::{Answer, Ask, TokenState};
use crate::message;
use crate::token::AnyToken;

use super::engine::{self, LockAround};
use super::{descriptor, stdout, tokens};

/// What `--json` prints. Stable: fields are only ever added.
#[derive(Serialize)]
struct Report<'a> {
    /// The lock's name.
    name: Cow<'a, str>,
    /// Its slot in a pool; null outside of one.
    slot: Option<u32>,
    /// Fencing token; null where flock(1) locked a descriptor.
    fence: Option<u64>,
    /// RFC 3339; null: never.
    expires: Option<&'a str>,
    /// Seconds until then; null: never.
    remaining: Option<f64>,
}

/// Prints nothing but a loss, unless asked for details.
pub fn check(mut options: cli::Check) -> Result<Exit> {
    if let Some(number) = descriptor::number_alone(options.fd, &mut options.file)? {
        return check_descriptor(number, options.json);
    }
    if tokens::none_is_given(options.token.as_ref())
        && let Some(lock) = engine::lock_around()?
    {
        return check_around(lock, options.json);
    }
    tokens::for_each(options.token.as_slice(), |token| {
        Ok(match tokens::ask(token, Ask::Check, options.store.as_deref())? {
            Ok(Answer::State(TokenState { lost: Some(how), .. })) => {
                tokens::tell_lost(&tokens::shown_name(token), &how);
                Exit::Lost
            }
            Ok(Answer::State(state)) => {
                if options.json {
                    print(&report(token, &state))?;
                }
                Exit::Ok
            }
            Ok(_) => Exit::Ok,
            Err(exit) => exit,
        })
    })
}

/// Inside a run, the lock around us.
fn check_around(lock: LockAround, json: bool) -> Result<Exit> {
    if !lock.is_held || lock.is_replaced {
        let how = match lock.is_held {
            true => "its file was removed or replaced while it was held, so others could take it",
            false => "the lockrun around this command has released it",
        };
        return Ok(lost_around(how));
    }
    if json {
        let name = name_around();
        let now = SystemTime::now();
        let remaining = lock.expires.as_deref().and_then(|at| humantime::parse_rfc3339(at).ok());
        print(&Report {
            name: name.to_string_lossy(),
            slot: lock.slot,
            fence: Some(lock.fence),
            expires: lock.expires.as_deref(),
            remaining: remaining.map(|at| at.duration_since(now).unwrap_or_default().as_secs_f64()),
        })?;
    }
    Ok(Exit::Ok)
}

fn name_around() -> OsString {
    std::env::var_os("LOCKRUN_NAME").unwrap_or_default()
}

/// Says that the lock around us was lost.
pub fn lost_around(how: &str) -> Exit {
    message::tell_about(&message::shown_name(name_around().as_bytes()), &format!("lost: {how}"));
    Exit::Lost
}

fn check_descriptor(number: RawFd, json: bool) -> Result<Exit> {
    let Some(grant) = descriptor::check(number)? else { return Ok(Exit::Lost) };
    if json {
        print(&Report {
            name: String::from_utf8_lossy(&grant.name),
            slot: None,
            fence: grant.fence,
            expires: None,
            remaining: None,
        })?;
    }
    Ok(Exit::Ok)
}

fn report<'a>(token: &'a AnyToken, state: &'a TokenState) -> Report<'a> {
    Report {
        name: token.name().into(),
        slot: token.slot(),
        fence: Some(token.fence()),
        expires: state.expires.as_deref(),
        remaining: state.remaining.map(|left| left.as_secs_f64()),
    }
}

fn print(report: &Report) -> Result<()> {
    stdout::print(printable_json(&serde_json::to_string(report)?) + "\n")
}
