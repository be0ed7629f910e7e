//! Where the token commands get their tokens from, and what they say about a token that
//! holds nothing any more.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::advice::Advice;
use crate::escape::printable;
use crate::exit::Exit;
#[cfg(feature = "net")]
use crate::keeper::TokenState;
use crate::keeper::{self, Answer, Ask, Contact};
use crate::lock::Unreachable;
use crate::message;
use crate::process;
use crate::record::{RELEASED, Record};
use crate::token::{AnyToken, ServerToken, Token, VARIABLE};

use super::engine;

/// A killed process ends sooner, unless it hangs in the kernel.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Whether there is a token neither among the arguments nor in the environment.
pub fn none_is_given(word: Option<&OsString>) -> bool {
    word.is_none() && std::env::var_os(VARIABLE).is_none()
}

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
pub fn for_each(given: &[OsString], act: impl Fn(&AnyToken) -> Result<Exit>) -> Result<Exit> {
    let words = words(given)?;
    let outcomes = words.iter().map(|word| match AnyToken::parse(word) {
        Some(token) => act(&token).unwrap_or_else(|error| {
            message::tell_about(&shown_name(&token), &message::describe(&error));
            if error.is::<Unreachable>() { Exit::Unreachable } else { Exit::Failed }
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
    Ok(outcomes.max_by_key(|exit| severity(*exit)).unwrap_or(Exit::Failed))
}

/// 125 before 69 before 123 before 0.
fn severity(exit: Exit) -> u8 {
    match exit {
        Exit::Ok => 0,
        Exit::Lost => 1,
        Exit::Unreachable => 2,
        _ => 3,
    }
}

/// Names of the locks, as messages show them.
pub fn shown_name(token: &AnyToken) -> String {
    message::shown_name(token.name().as_bytes())
}

/// Asks the keeper, or the server at `store`. If the lock is gone, says so; the exit is
/// then 123.
pub fn ask(token: &AnyToken, question: Ask, store: Option<&OsStr>) -> Result<Result<Answer, Exit>> {
    match token {
        AnyToken::Files(token) => ask_keeper(token, question),
        AnyToken::Server(token) => ask_server(token, &question, store),
    }
}

#[cfg(feature = "net")]
fn ask_server(token: &ServerToken, question: &Ask, store: Option<&OsStr>) -> Result<Result<Answer, Exit>> {
    use super::engine::ServerAsk;
    use super::engine::server::TokenAnswer;

    let question = match question {
        Ask::Release => ServerAsk::Release,
        Ask::Renew { lease } => ServerAsk::Renew(lease.unwrap_or(token.term)),
        Ask::Check => ServerAsk::Check,
    };
    Ok(match engine::ask_server(token, question, store)? {
        TokenAnswer::Released => Ok(Answer::Released { lost: None }),
        TokenAnswer::Held { expires, remaining } => Ok(Answer::State(TokenState { expires, remaining, lost: None })),
        TokenAnswer::Gone(name, holders) => {
            let now = if holders.is_empty() { String::new() } else { format!("; now {}", message::held_by(&holders)) };
            // A server does not remember how it ended.
            message::tell_about(
                &message::shown_name(name.as_bytes()),
                &format!("no longer held: released before, expired, broken or replaced{now}"),
            );
            Err(Exit::Lost)
        }
    })
}

#[cfg(not(feature = "net"))]
fn ask_server(_token: &ServerToken, _question: &Ask, _store: Option<&OsStr>) -> Result<Result<Answer, Exit>> {
    Err(anyhow!(
        "the token is of a server, and this lockrun was built without servers (cargo features etcd, postgres, redis)"
    ))
}

fn ask_keeper(token: &Token, question: Ask) -> Result<Result<Answer, Exit>> {
    let contact = Contact { id: &token.id, secret: &token.secret, uid: token.uid, called: "the token's keeper" };
    match keeper::ask(&contact, question)? {
        Answer::Gone => {
            let record = engine::record_of_grant(token);
            if let Some(record) = &record
                && record.fence == token.fence()
                && record.ended.is_none()
                && is_out_of_reach(record.pid)
            {
                return Err(anyhow!("its keeper, pid {}, cannot be reached from here", record.pid))
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
pub fn tell_lost(name: &str, how: &str) {
    let how = printable(how.as_bytes());
    message::tell_about(name, &format!("lost: {how}; what was done under it was not protected to the end"));
}

fn tell_gone(token: &Token, record: Option<Record>) {
    let name = message::shown_name(token.name.as_bytes());
    let Some(record) = record else {
        return tell_lost(&name, "no longer held, since when is unknown");
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
        Some(ended) => tell_lost(&name, ended),
        None if is_ours => tell_lost(&name, "its keeper was killed at an unknown time"),
        None => {
            let since = &record.since;
            tell_lost(&name, &format!("no longer held; granted to others since then, most recently at {since}"));
        }
    }
}
