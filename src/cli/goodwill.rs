//! The options of a line that cannot be understood, read leniently: with typing errors,
//! without their values, with flock(1)'s.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Arg;

use super::command::tree;
use super::spelling::{has_letter, has_name, nearest_option};
use super::words::Words;
use crate::escape::printable;

/// A command line of the main job, read leniently.
#[derive(Default)]
pub struct LooseLine {
    /// Each with its value; flags may be combined.
    pub options: Vec<Words>,
    /// Whether there is `--name` or `--file`.
    pub names_a_lock: bool,
    /// The value of `-c`.
    pub shell: Option<Vec<u8>>,
    /// Whether there is flock's `-u`.
    pub unlocks: bool,
    /// The value of `--fd`, which is an option of other commands.
    pub descriptor: Option<OsString>,
    /// From the first word that is not an option, or after `--`.
    pub rest: Vec<OsString>,
    /// Whether the options end with `--`.
    pub has_dashes: bool,
    /// What is wrong, if it was found on the way.
    pub what: Option<String>,
}

impl LooseLine {
    /// Reads options up to the first other word. `None`: one is unknown.
    pub fn read(&mut self, words: &[OsString], bad_value: Option<&str>) -> Option<()> {
        let run = tree();
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                self.has_dashes = true;
                self.rest = after.to_vec();
                return Some(());
            }
            if !bytes.starts_with(b"-") || bytes == b"-" {
                break;
            }
            rest = self.read_option(&run, word.to_str()?, after, bad_value)?;
        }
        self.rest = rest.to_vec();
        Some(())
    }

    /// Reads an option. Returns the words after it and its value.
    fn read_option<'a>(
        &mut self,
        run: &clap::Command,
        word: &str,
        after: &'a [OsString],
        bad_value: Option<&str>,
    ) -> Option<&'a [OsString]> {
        let (option, inline) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(OsString::from(value))),
            _ => (word, None),
        };
        if let Some(long) = option.strip_prefix("--").or_else(|| one_dash_too_few(run, option)) {
            return self.read_long(run, option, long, inline, after, bad_value);
        }
        let mut flags = String::from("-");
        for (at, letter) in word.char_indices().skip(1) {
            if letter == 'u' {
                self.unlocks = true;
                continue;
            }
            let arg = run.get_arguments().find(|arg| has_letter(arg, letter))?;
            if !arg.get_action().takes_values() {
                flags.push(letter);
                continue;
            }
            let inline = &word[at + letter.len_utf8()..];
            let inline = (!inline.is_empty()).then(|| inline.into());
            self.add_flags(&flags);
            return Some(self.add_value(arg, &format!("-{letter}"), inline, after, bad_value));
        }
        self.add_flags(&flags);
        Some(after)
    }

    fn add_flags(&mut self, flags: &str) {
        if flags != "-" {
            let mut words = Words::default();
            words.add_plain(flags);
            self.options.push(words);
        }
    }

    fn read_long<'a>(
        &mut self,
        run: &clap::Command,
        typed: &str,
        long: &str,
        inline: Option<OsString>,
        after: &'a [OsString],
        bad_value: Option<&str>,
    ) -> Option<&'a [OsString]> {
        if long == "unlock" {
            self.unlocks = true;
            return Some(after);
        }
        if long == "fd" {
            let (descriptor, after) = match inline {
                Some(value) => (value, after),
                None => after.split_first().map(|(value, after)| (value.clone(), after))?,
            };
            self.descriptor = Some(descriptor);
            return Some(after);
        }
        let right = match run.get_arguments().find(|arg| has_name(arg, long)) {
            Some(_) => long.to_owned(),
            None => nearest_option(run, long)?,
        };
        if typed != format!("--{right}") {
            self.what = Some(format!("unknown option '{}'", printable(typed.as_bytes())));
        }
        let arg = run.get_arguments().find(|arg| has_name(arg, &right))?;
        if arg.get_action().takes_values() {
            return Some(self.add_value(arg, &format!("--{right}"), inline, after, bad_value));
        }
        self.add_flags(&format!("--{right}"));
        Some(after)
    }

    /// Adds an option and its value or a placeholder. Returns what is left.
    fn add_value<'a>(
        &mut self,
        arg: &Arg,
        option: &str,
        inline: Option<OsString>,
        after: &'a [OsString],
        bad_value: Option<&str>,
    ) -> &'a [OsString] {
        let ends_the_options = |word: &OsString| word == "--" && !after[1..].iter().any(|word| word == "--");
        let (value, after) = match (inline, after.split_first()) {
            (Some(value), _) => (Some(value), after),
            (None, Some((value, after))) if !ends_the_options(value) => (Some(value.clone()), after),
            (None, next) => {
                if next.is_some() {
                    self.what = Some(format!("'{option}' has no value: '--' ends the options"));
                }
                (None, after)
            }
        };
        if arg.get_id() == "shell" {
            self.shell = Some(value.map_or_else(|| b"STRING".to_vec(), |value| value.as_bytes().to_vec()));
            return after;
        }
        self.names_a_lock |= ["name", "file"].iter().any(|id| arg.get_id() == id);
        let mut words = Words::default();
        words.add_plain(option);
        match value.filter(|value| value.to_str().is_none() || value.to_str() != bad_value) {
            Some(value) => words.add(&value),
            None => words.add_plain(&placeholder(arg)),
        }
        self.options.push(words);
        after
    }
}

/// `-timeout` for `--timeout`.
fn one_dash_too_few<'a>(run: &clap::Command, option: &'a str) -> Option<&'a str> {
    let long = option.strip_prefix('-').filter(|long| long.len() > 2)?;
    let name = long.split('=').next()?;
    run.get_arguments().any(|arg| has_name(arg, name)).then_some(long)
}

fn placeholder(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| "VALUE".into(), ToString::to_string)
}
