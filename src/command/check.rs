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
use super::{descriptor, environment, stdout, tokens};

/// What `--json` prints. Stable: fields are only ever added.
#[derive(Serialize)]
struct Report<'a> {
    name: Cow<'a, str>,
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
    if tokens::none_is_given(options.token.as_ref()) && engine::is_inside_a_run() {
        if let Some(rows) = std::env::var_os(environment::ROWS) {
            return check_tokens(&[rows], &options);
        }
        let locks = engine::locks_around(environment::number_of_locks())?;
        if !locks.is_empty() {
            return check_around(&locks, options.json);
        }
    }
    check_tokens(options.token.as_slice(), &options)
}

/// The rows of a run on a server are checked as those of a token.
fn check_tokens(words: &[OsString], options: &cli::Check) -> Result<Exit> {
    tokens::for_each(words, |token| {
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

/// Inside a run, the locks around us.
fn check_around(locks: &[LockAround], json: bool) -> Result<Exit> {
    let name = environment::names();
    if let Some((place, lock)) = locks.iter().enumerate().find(|(_, lock)| !lock.is_held || lock.is_replaced) {
        let how = match lock.is_held {
            true => "its file was removed or replaced while it was held, so others could take it",
            false => "the lockrun around this command has released it",
        };
        let names: Vec<_> = name.as_bytes().split(|byte| *byte == b'\n').collect();
        // A name can have several lines itself.
        let name = if names.len() == locks.len() { names[place] } else { name.as_bytes() };
        return Ok(tell_lost(name, how));
    }
    if json {
        let [lock, ..] = locks else { return Ok(Exit::Ok) };
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

/// Says that a lock around us was lost.
pub fn tell_lost(name: &[u8], how: &str) -> Exit {
    message::tell_about(&message::shown_name(name), &format!("lost: {how}"));
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
