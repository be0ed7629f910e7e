//! Where the token commands get their tokens from, and what they say about a token that
//! holds nothing any more.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::advice::Advice;
use crate::escape::printable;
use crate::exit::Exit;
use crate::keeper::{self, Answer, Ask};
use crate::message;
use crate::process;
use crate::record::{RELEASED, Record};
use crate::token::Token;

use super::engine;

pub const VARIABLE: &str = "LOCKRUN_TOKEN";

/// A killed process ends sooner, unless it hangs in the kernel.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The tokens as text: the arguments, stdin for `-`, or else the environment. Fails if
/// there is none; an empty one is kept, to be reported as invalid.
pub fn words(given: &[OsString]) -> Result<Vec<Vec<u8>>> {
    if given.is_empty() {
        let word = std::env::var_os(VARIABLE)
            .ok_or_else(|| anyhow!("no token: give it as an argument, on stdin with '-', or in {VARIABLE}"))?;
        return Ok(vec![word.as_bytes().to_vec()]);
    }
    let mut words = Vec::new();
    for word in given {
        if word != "-" {
            words.push(word.as_bytes().to_vec());
            continue;
        }
        let mut text = Vec::new();
        if let Err(error) = std::io::stdin().read_to_end(&mut text) {
            message::tell(&format!("cannot read tokens from stdin: {}", printable(error.to_string().as_bytes())));
        }
        let on_stdin = text.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let before = words.len();
        words.extend(on_stdin.map(<[u8]>::to_vec));
        if words.len() == before {
            // `-` without a token on stdin is an error, but the other tokens are tried.
            words.push(Vec::new());
        }
    }
    Ok(words)
}

/// Calls `act` with every token; the worst outcome counts. After a message about one
/// the others are still tried.
pub fn for_each(given: &[OsString], act: impl Fn(&Token) -> Result<Exit>) -> Result<Exit> {
    let words = words(given)?;
    let outcomes = words.iter().map(|word| match Token::parse(word) {
        Some(token) => act(&token).unwrap_or_else(|error| {
            message::tell_about(&message::shown_name(token.name.as_bytes()), &message::describe(&error));
            Exit::Failed
        }),
        None => {
            // Without the text itself: it may be a valid token with a typo.
            message::tell(if word.is_empty() {
                "the token is empty"
            } else {
                "not a token: expected the output of 'lockrun acquire'"
            });
            Exit::Failed
        }
    });
    Ok(outcomes.max_by_key(|exit| exit.code()).unwrap_or(Exit::Failed))
}

/// Asks the keeper. If it is gone, says since when; the exit is then 123.
pub fn ask(token: &Token, question: Ask) -> Result<Result<Answer, Exit>> {
    match keeper::ask(token, question)? {
        Answer::Gone => {
            let record = engine::record_of_grant(token);
            if let Some(record) = &record
                && record.fence == token.fence()
                && record.ended.is_none()
                && is_out_of_reach(record.pid)
            {
                return Err(anyhow!("its holder, pid {}, cannot be reached from here", record.pid))
                    .context(Advice::new("use the token in the network namespace where the lock was acquired"));
            }
            tell_gone(token, record);
            Ok(Err(Exit::Lost))
        }
        answer => Ok(Ok(answer)),
    }
}

/// Whether this keeper is alive although we cannot reach its socket. A killed one is
/// waited for: its lock goes after its socket.
fn is_out_of_reach(pid: i32) -> bool {
    if !engine::is_token_keeper(pid) {
        return false;
    }
    let is_ending = process::is_ending(pid);
    if is_ending && let Some(holder) = process::open(pid).ok().flatten() {
        process::wait_for_end(&holder, END_LIMIT);
    }
    !is_ending
}

/// Says that a lock was lost while a command relied on it.
pub fn tell_lost(token: &Token, how: &str) {
    let name = message::shown_name(token.name.as_bytes());
    let how = printable(how.as_bytes());
    message::tell_about(&name, &format!("lost: {how}; what was done under it was not protected to the end"));
}

fn tell_gone(token: &Token, record: Option<Record>) {
    let name = message::shown_name(token.name.as_bytes());
    let Some(record) = record else {
        return tell_lost(token, "no longer held, since when is unknown");
    };
    let is_ours = record.fence == token.fence();
    let ended = match &record.previous {
        Some((fence, ended)) if *fence == token.fence() => Some(ended),
        _ => record.ended.as_ref().filter(|_| is_ours),
    };
    match ended {
        Some(ended) if ended.starts_with(RELEASED) => {
            message::tell_about(&name, &format!("no longer held: {}", printable(ended.as_bytes())));
        }
        Some(ended) => tell_lost(token, ended),
        None if is_ours => tell_lost(token, "its holder was killed at an unknown time"),
        None => {
            let since = &record.since;
            tell_lost(token, &format!("no longer held; granted to others since then, most recently at {since}"));
        }
    }
}
