//! Names of commands and options, even misspelt.

use std::ffi::{OsStr, OsString};

use clap::Arg;
use strsim::osa_distance;

use super::command::tree;
use super::words::Words;

/// A name with this many typing errors is still recognised.
const TYPING_ERRORS: usize = 2;
/// Other names of options that are too far from the right one, with that.
const RENAMED: [(&str, &str); 2] = [("lock", "name"), ("lockname", "name")];

/// The subcommand that is spelled like this, or almost.
pub fn near_command(word: &str) -> Option<String> {
    let tree = tree();
    let names = tree.get_subcommands().map(|command| command.get_name().to_owned());
    nearest(word, names.chain(["help", "version", "run"].map(String::from)))
}

/// The line with a subcommand's option spelled right.
pub fn respell(command: &str, words: &[OsString], wrong: &str) -> Option<Words> {
    let tree = tree();
    let command = tree.find_subcommand(command)?;
    let long = nearest_option(command, wrong.strip_prefix("--")?)?;
    let mut line = Words::of_lockrun();
    for word in words {
        match word.to_str().and_then(|word| word.strip_prefix(wrong)) {
            Some("") => line.add_plain(&format!("--{long}")),
            Some(value) if value.starts_with('=') => {
                line.add_plain(&format!("--{long}"));
                line.add(OsStr::new(&value[1..]));
            }
            _ => line.add(word),
        }
    }
    Some(line)
}

/// Whether this is the option or one of its aliases.
pub fn has_name(arg: &Arg, long: &str) -> bool {
    arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
}

/// Whether this is the option or one of its aliases, as a letter.
pub fn has_letter(arg: &Arg, letter: char) -> bool {
    arg.get_short() == Some(letter) || arg.get_all_short_aliases().is_some_and(|aliases| aliases.contains(&letter))
}

/// Whether a command has this option, or these flags.
pub fn knows(command: &clap::Command, option: &str) -> bool {
    let has = |test: &dyn Fn(&Arg) -> bool| command.get_arguments().any(test);
    match option.strip_prefix("--") {
        Some(long) => has(&|arg| has_name(arg, long)),
        None => option.chars().skip(1).all(|letter| has(&|arg| has_letter(arg, letter))),
    }
}

/// The long option that is spelled almost like this.
pub fn nearest_option(command: &clap::Command, long: &str) -> Option<String> {
    if let Some((_, ours)) = RENAMED.iter().find(|(theirs, _)| *theirs == long) {
        return Some((*ours).into());
    }
    nearest(long, command.get_arguments().filter_map(|arg| arg.get_long().map(String::from)))
}

fn nearest(word: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let near = names.map(|name| (osa_distance(word, &name), name));
    // Short words allow fewer errors.
    let near = near.filter(|(errors, name)| *errors <= TYPING_ERRORS.min(name.len() / 3));
    near.min().map(|(_, name)| name)
}
