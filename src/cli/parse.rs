//! From words to a command, or to what is wrong with them.

use std::ffi::OsString;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use super::command::{Command, tree};
use super::look::{Break, Completions, List, LockPath, Prune, Status, Wait};
use super::run::Run;
use super::token::{Acquire, Check, Release, Renew};
use super::usage_error::UsageError;
use super::{fast_path, flock, friedl, spelling, suggestion};
use crate::escape::printable;

/// Reads the command line. The error is a [`UsageError`].
pub fn parse(words: Vec<OsString>) -> Result<Command> {
    if words.first().is_some_and(|program| flock::is_name(program)) {
        return Ok(Command::Flock(flock::parse(&words[1..])));
    }
    if words.get(1).is_some_and(|word| word == "flock") {
        return Ok(Command::Flock(flock::parse(&words[2..])));
    }
    match fast_path::read(&words) {
        Some(options) => Ok(Command::Run(Box::new(options))),
        None => Ok(parse_by_clap(words.get(1..).unwrap_or_default())?),
    }
}

fn parse_by_clap(words: &[OsString]) -> Result<Command, UsageError> {
    let sorted = command_first(words);
    let words = sorted.as_deref().unwrap_or(words);
    let Some((first, others)) = words.split_first() else { return main_job(words) };
    match first.to_str() {
        Some("run") => main_job(others),
        Some("help") => help(others),
        Some("version") if others.is_empty() => Ok(Command::Help(Run::command().render_version())),
        Some("version") => Err(UsageError::form("'version' stands alone", "lockrun version", "")),
        Some("acquire") if others.iter().any(|word| word == "--") => Err(no_command(others)),
        Some(name) => match subcommand(name, others) {
            Some(Ok(Command::Acquire(options))) => Ok(Command::Acquire(Box::new(options.with_words_as_names()?))),
            Some(parsed) => parsed.or_else(|error| text_or(&error, || wrong_subcommand(name, &error, words))),
            None => main_job(words),
        },
        None => main_job(words),
    }
}

/// What stands after `--` is a command everywhere else, and no lock's name here.
fn no_command(words: &[OsString]) -> UsageError {
    let command = words.iter().skip_while(|word| *word != "--").nth(1);
    let command = command.map(|word| format!(": '{}' would not be run", printable(word.as_encoded_bytes())));
    let what = format!("acquire takes no command{}", command.unwrap_or_default());
    UsageError::form(what, "lockrun acquire [OPTIONS] [LOCK]...", "acquire")
}

/// `lockrun --dir DIR list` as `lockrun list --dir DIR`: where the locks are may stand
/// before the subcommand, too.
fn command_first(words: &[OsString]) -> Option<Vec<OsString>> {
    let mut place = 0;
    loop {
        let word = words.get(place)?.to_str()?;
        place += match word {
            "--dir" | "-d" | "--store" => 2,
            _ if word.starts_with("--dir=") || word.starts_with("--store=") => 1,
            _ if place > 0 && tree().find_subcommand(word).is_some() => break,
            _ => return None,
        };
    }
    let (options, command) = words.split_at(place);
    Some([&command[..1], options, &command[1..]].concat())
}

/// `None`: there is no such subcommand.
fn subcommand(name: &str, others: &[OsString]) -> Option<clap::error::Result<Command>> {
    // clap shows the first word in the usage line.
    let words = || std::iter::once(format!("lockrun {name}").into()).chain(others.iter().cloned());
    Some(match name {
        "acquire" => Acquire::try_parse_from(words()).map(|options| Command::Acquire(Box::new(options))),
        "release" => Release::try_parse_from(words()).map(Command::Release),
        "renew" => Renew::try_parse_from(words()).map(Command::Renew),
        "check" => Check::try_parse_from(words()).map(Command::Check),
        "list" => List::try_parse_from(words()).map(Command::List),
        "status" => Status::try_parse_from(words()).map(Command::Status),
        "wait" => Wait::try_parse_from(words()).map(Command::Wait),
        "break" => Break::try_parse_from(words()).map(Command::Break),
        "prune" => Prune::try_parse_from(words()).map(Command::Prune),
        "path" => LockPath::try_parse_from(words()).map(Command::Path),
        "completions" => Completions::try_parse_from(words()).map(Command::Completions),
        _ => return None,
    })
}

fn main_job(words: &[OsString]) -> Result<Command, UsageError> {
    let line = std::iter::once("lockrun".into()).chain(words.iter().cloned());
    match Run::try_parse_from(line) {
        Ok(options) if options.command.is_empty() && options.shell.is_none() => Err(wrong_line(None, words)),
        Ok(options) => Ok(Command::Run(Box::new(options))),
        Err(error) => text_or(&error, || wrong_line(Some(&error), words)),
    }
}

/// `lockrun help`, `lockrun help list`.
fn help(words: &[OsString]) -> Result<Command, UsageError> {
    let long = [OsString::from("--help")];
    match words {
        [] => main_job(&long),
        [name] if name == "run" => main_job(&long),
        [name] if name == "flock" => Ok(Command::Flock(flock::parse(&long))),
        [name] => {
            let name = name.to_string_lossy();
            if let Some(Err(error)) = subcommand(&name, &long) {
                return text_or(&error, || UsageError::form(clap_text(&error), "lockrun help", ""));
            }
            let near = spelling::near_command(&name).map(|near| format!("lockrun help {near}"));
            let what = format!("'{}' is not a command of lockrun", printable(name.as_bytes()));
            Err(UsageError::form(what, near.as_deref().unwrap_or("lockrun help"), ""))
        }
        _ => Err(UsageError::form("'help' takes one command", "lockrun help [COMMAND]", "")),
    }
}

/// clap reports a help or version that was asked for as an error.
fn text_or(error: &clap::Error, wrong: impl FnOnce() -> UsageError) -> Result<Command, UsageError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Command::Help(error.render().to_string())),
        _ => Err(wrong()),
    }
}

/// Without an error of clap's, the command is missing.
fn wrong_line(error: Option<&clap::Error>, words: &[OsString]) -> UsageError {
    if let Some((line, theirs)) = friedl::translate(words) {
        let what = format!("'{theirs}' is an option of Stephen Friedl's lockrun, which is another program");
        return UsageError::meant(what, &line);
    }
    let conflict = error
        .is_some_and(|error| matches!(error.kind(), ErrorKind::ArgumentConflict | ErrorKind::MissingRequiredArgument));
    let bad_value = error.and_then(|error| context(error, ContextKind::InvalidValue));
    let meant = if conflict { None } else { suggestion::suggest(words, bad_value.as_deref()) };
    let said = || error.map_or_else(|| "the command is missing".into(), clap_text);
    match meant {
        Some(meant) => UsageError::meant(meant.what.unwrap_or_else(said), &meant.line),
        None => UsageError::form(said(), "lockrun [OPTIONS] -- COMMAND [ARG]...", ""),
    }
}

fn wrong_subcommand(name: &str, error: &clap::Error, words: &[OsString]) -> UsageError {
    let mut what = clap_text(error);
    if let (ErrorKind::UnknownArgument, Some(word)) = (error.kind(), context(error, ContextKind::InvalidArg)) {
        if !word.starts_with('-') {
            what = format!("'{}' is one word too many", printable(word.as_bytes()));
        } else if let Some(line) = spelling::respell(name, words, &word) {
            return UsageError::meant(what, &line);
        }
    }
    let usage = tree().find_subcommand_mut(name).map(|command| command.render_usage().to_string());
    let usage = usage.unwrap_or_default();
    let form = usage.lines().next().unwrap_or_default();
    UsageError::form(what, form.strip_prefix("Usage: ").unwrap_or(form), name)
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// clap's description of the error, on one line.
fn clap_text(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let said = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let is_noise = |line: &&str| line.is_empty() || ["For more", "tip: "].iter().any(|s| line.starts_with(s));
    let text = said.filter(|line| !is_noise(line)).collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    let mut text = text.strip_prefix("error: ").unwrap_or(&text).to_owned();
    if let (ErrorKind::UnknownArgument, Some(option)) = (error.kind(), context(error, ContextKind::InvalidArg)) {
        text = format!("unknown option '{option}'");
    }
    printable(text.as_bytes())
}
