//! Where the token commands get their tokens from, and what they say about
//! one that holds nothing any more.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, anyhow};

use crate::escape::printable;
use crate::exit::Exit;
use crate::holder::{self, Answer, Ask};
use crate::message;
use crate::record;
use crate::token::Token;

const VARIABLE: &str = "LOCKRUN_TOKEN";

/// The words that were given: as arguments, on stdin for `-`, or else in the
/// environment. An empty word is one too, and no token.
///
/// # Errors
/// None was given, or stdin cannot be read.
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
        std::io::stdin().read_to_end(&mut text).context("cannot read tokens from stdin")?;
        let on_stdin = text.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let before = words.len();
        words.extend(on_stdin.map(<[u8]>::to_vec));
        if words.len() == before {
            return Err(anyhow!("no token on stdin"));
        }
    }
    Ok(words)
}

/// Does something with every token; the worst outcome counts.
pub fn for_each(given: &[OsString], act: impl Fn(&Token) -> Result<Exit>) -> Exit {
    let words = match words(given) {
        Ok(words) => words,
        Err(error) => {
            message::tell_error(&error);
            return Exit::Failed;
        }
    };
    let outcomes = words.iter().map(|word| match Token::parse(word) {
        Some(token) => act(&token).unwrap_or_else(|error| {
            message::tell_about(&message::shown_name(token.name.as_bytes()), &message::describe(&error));
            Exit::Failed
        }),
        None => {
            // Not the word itself: it may be a right one with a slip.
            message::tell(if word.is_empty() { "the token is empty" } else { "that word is no token" });
            Exit::Failed
        }
    });
    outcomes.max_by_key(|exit| exit.code()).unwrap_or(Exit::Failed)
}

/// Asks the holder; with one that is gone, says since when, and that is 123.
///
/// # Errors
/// See [`holder::ask`].
pub fn ask(token: &Token, question: Ask) -> Result<Result<Answer, Exit>> {
    match holder::ask(token, question)? {
        Answer::Gone => {
            tell_gone(token);
            Ok(Err(Exit::Lost))
        }
        answer => Ok(Ok(answer)),
    }
}

/// What was lost was lost while somebody relied on it.
pub fn tell_lost(token: &Token, how: &str) {
    let name = message::shown_name(token.name.as_bytes());
    message::tell_about(&name, &format!("lost: {how}; what was done under it was not protected to the end"));
}

fn tell_gone(token: &Token) {
    let name = message::shown_name(token.name.as_bytes());
    let file = token.grants.first().map(|grant| token.dir().join(&grant.file));
    let record = file.and_then(|file| std::fs::File::open(file).ok()).and_then(|file| record::read(&file).record());
    let Some(record) = record else {
        return tell_lost(token, "not held any more, since when is not known");
    };
    let is_ours = record.fence == token.fence();
    let ended = match &record.previous {
        Some((fence, ended)) if *fence == token.fence() => Some(ended),
        _ => record.ended.as_ref().filter(|_| is_ours),
    };
    match ended {
        Some(ended) if ended.starts_with("released") => {
            message::tell_about(&name, &format!("not held any more: {}", printable(ended.as_bytes())));
        }
        Some(ended) => tell_lost(token, &printable(ended.as_bytes())),
        None if is_ours => tell_lost(token, "its holder was killed, when is not known"),
        None => {
            let since = printable(record.since.as_bytes());
            tell_lost(token, &format!("not held any more, and granted to others since, last at {since}"));
        }
    }
}
