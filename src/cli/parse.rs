//! From words to a command, or to one line that says what is wrong.

use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::Parser;
use clap::error::ErrorKind;

use super::command::{Command, tree};
use super::look::{Break, Completions, List, LockPath, Prune, Status, Wait};
use super::run::Run;
use super::token::{Acquire, Check, Release, Renew};
use super::{fast_path, flock};
use crate::escape::printable;

/// Reads the command line.
///
/// # Errors
/// It cannot be understood: what is wrong, in one line.
pub fn parse(words: Vec<OsString>) -> Result<Command> {
    if words.first().is_some_and(|program| flock::is_name(program)) {
        return Ok(Command::Flock(flock::parse(&words[1..])));
    }
    if words.get(1).is_some_and(|word| word == "flock") {
        return Ok(Command::Flock(flock::parse(&words[2..])));
    }
    match fast_path::read(&words) {
        Some(options) => Ok(Command::Run(Box::new(options))),
        None => parse_by_clap(&words),
    }
}

fn parse_by_clap(words: &[OsString]) -> Result<Command> {
    let subcommand = words.get(1).and_then(|word| word.to_str());
    let rest = || words.iter().skip(1);
    let parsed = match subcommand {
        Some("acquire") => Acquire::try_parse_from(rest()).map(|options| Command::Acquire(Box::new(options))),
        Some("release") => Release::try_parse_from(rest()).map(Command::Release),
        Some("renew") => Renew::try_parse_from(rest()).map(Command::Renew),
        Some("check") => Check::try_parse_from(rest()).map(Command::Check),
        Some("list") => List::try_parse_from(rest()).map(Command::List),
        Some("status") => Status::try_parse_from(rest()).map(Command::Status),
        Some("wait") => Wait::try_parse_from(rest()).map(Command::Wait),
        Some("break") => Break::try_parse_from(rest()).map(Command::Break),
        Some("prune") => Prune::try_parse_from(rest()).map(Command::Prune),
        Some("path") => LockPath::try_parse_from(rest()).map(Command::Path),
        Some("completions") => Completions::try_parse_from(rest()).map(Command::Completions),
        _ => Run::try_parse_from(words).map(|options| Command::Run(Box::new(options))),
    };
    parsed.or_else(|error| not_a_command(&error, words))
}

fn not_a_command(error: &clap::Error, words: &[OsString]) -> Result<Command> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Command::Help(error.render().to_string())),
        _ => bail!(usage_error(error, words)),
    }
}

/// clap's paragraphs as one line: what is wrong, a tip, where to read more.
fn usage_error(error: &clap::Error, words: &[OsString]) -> String {
    if let Some(text) = missing_dashes(error, words) {
        return text;
    }
    let rendered = error.render().to_string();
    let said = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let is_noise = |line: &&str| line.is_empty() || ["For more", "tip: to pass"].iter().any(|s| line.starts_with(s));
    let said: Vec<&str> = said.filter(|line| !is_noise(line)).collect();
    let text = said.join("; ").replace(":; ", ": ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    format!("{}; see 'lockrun --help'", printable(text.as_bytes()))
}

/// The mistake that everybody makes who comes from flock(1).
fn missing_dashes(error: &clap::Error, words: &[OsString]) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    let ErrorKind::UnknownArgument = error.kind() else { return None };
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    if word.starts_with('-') {
        return None;
    }
    let word = printable(word.as_bytes());
    let is_subcommand = |name: &str| tree().find_subcommand(name).is_some();
    if let Some(first) = words.get(1).and_then(|first| first.to_str()).filter(|first| is_subcommand(first)) {
        return Some(format!("'{word}' is one word too many; see 'lockrun {first} --help'"));
    }
    if is_subcommand(&word) {
        return Some(format!("'{word}' comes first: lockrun {word} [OPTIONS] ...; see 'lockrun {word} --help'"));
    }
    Some(if words.iter().any(|w| w == "--") {
        format!("'{word}' is no option; a lock's name goes behind --name, the command behind '--'")
    } else {
        format!("put '--' before the command: lockrun [OPTIONS] -- {word} ...; see 'lockrun --help'")
    })
}
