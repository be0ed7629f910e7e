//! The line that was probably meant, where one cannot be understood.
//!
//! Most mistakes are flock(1)'s line with another program's name: a file (or a number
//! of a descriptor) where lockrun expects an option, and no `--` before the command.
//! People paste the suggestion into a shell, so it must never execute a lock file: a
//! first word that looks like one is locked, even if it is executable.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::command::tree;
use super::goodwill::LooseLine;
use super::spelling::{knows, near_command};
use super::words::Words;
use crate::escape::printable;
use crate::name::shell_quote;

/// What was probably meant.
pub struct Suggestion {
    /// What is wrong, if we know better than clap.
    pub what: Option<String>,
    /// The whole line.
    pub line: Words,
}

/// The suggestion for `words`, which are without the program's name. `bad_value` is a
/// value that is wrong for its option; then nothing else is wrong.
pub fn suggest(words: &[OsString], bad_value: Option<&str>) -> Option<Suggestion> {
    let mut line = LooseLine::default();
    line.read(words, bad_value)?;
    let found = line.what.clone();
    let mut suggestion = line.suggestion()?;
    if bad_value.is_some() {
        suggestion.what = found;
    }
    Some(suggestion)
}

impl LooseLine {
    fn suggestion(self) -> Option<Suggestion> {
        if self.unlocks || self.descriptor.is_some() || self.is_number_alone() {
            return self.on_descriptor();
        }
        if self.shell.is_some() && self.has_dashes && !self.rest.is_empty() {
            return None;
        }
        if self.shell.is_some() {
            return Some(self.shell_line());
        }
        if self.has_dashes || self.rest.is_empty() {
            return Some(self.line("the command is missing"));
        }
        if !self.names_a_lock
            && let Some(suggestion) = self.subcommand()
        {
            return Some(suggestion);
        }
        self.positional()
    }

    /// `lockrun 9`, as in `flock 9`.
    fn is_number_alone(&self) -> bool {
        let [word] = &self.rest[..] else { return false };
        !self.names_a_lock && !self.has_dashes && self.shell.is_none() && is_number(word)
    }

    fn on_descriptor(self) -> Option<Suggestion> {
        let number = match (self.descriptor, &self.rest[..]) {
            (Some(number), []) => number,
            (None, [number]) if is_number(number) => number.clone(),
            _ => return None,
        };
        let mut line = Words::of_lockrun();
        line.add_plain(if self.unlocks { "release" } else { "acquire" });
        line.add_plain("--fd");
        line.add(&number);
        if !self.unlocks {
            self.options.iter().for_each(|option| line.append(option));
        }
        let number = printable(number.as_bytes());
        let action = if self.unlocks { "release" } else { "acquire" };
        let what = format!("{number} is a descriptor of the calling script, which 'lockrun {action} --fd' is for");
        Some(Suggestion { what: Some(what), line })
    }

    /// `-c echo hi`: the shell takes one word.
    fn shell_line(self) -> Suggestion {
        let mut string = self.shell.unwrap_or_default();
        let is_split = !self.rest.is_empty();
        for word in &self.rest {
            string.push(b' ');
            string.extend(shell_quote(word.as_bytes()));
        }
        let mut line = Words::of_lockrun();
        self.options.iter().for_each(|option| line.append(option));
        line.add_plain("-c");
        line.add(OsStr::from_bytes(&string));
        let what = is_split.then(|| "'-c' takes the command line as one word: quote it".to_owned());
        Suggestion { what: self.what.or(what), line }
    }

    /// `lockrun -q list`, `lockrun lits`.
    fn subcommand(&self) -> Option<Suggestion> {
        let (first, after) = self.rest.split_first()?;
        let typed = first.to_str()?;
        let right = near_command(typed)?;
        if typed != right && (is_executable(first) || after.first().is_some_and(|next| is_executable(next))) {
            return None;
        }
        let shown = printable(typed.as_bytes());
        let what = match typed == right {
            true => format!("'{shown}' comes first, before its options"),
            false => format!("'{shown}' is not a command of lockrun"),
        };
        let mut line = Words::of_lockrun();
        line.add_plain(&right);
        let tree = tree();
        let command = tree.find_subcommand(&right).unwrap_or(&tree);
        self.options.iter().filter(|option| knows(command, option.first())).for_each(|option| line.append(option));
        line.extend(after);
        Some(Suggestion { what: Some(what), line })
    }

    /// No `--` before a word that is not an option.
    fn positional(mut self) -> Option<Suggestion> {
        let words = std::mem::take(&mut self.rest);
        let dashes = words.iter().position(|word| word == "--");
        let (before, after) = words.split_at(dashes.unwrap_or(words.len()));
        let after = after.get(1..).unwrap_or_default();
        let (first, others) = before.split_first()?;
        if first.is_empty() {
            return Some(self.line("the command is empty"));
        }
        let next = others.iter().chain(after).next();
        let is_lock = match next {
            _ if looks_like_a_lock_file(first) => true,
            _ if self.names_a_lock => false,
            Some(next) if dashes.is_some() => !is_executable(first) || is_executable(next),
            // `nice make` is a command, and a script may lock itself.
            Some(next) if is_executable(first) => is_path(first) && is_executable(next),
            Some(next) => !next.as_bytes().starts_with(b"-"),
            None => !is_executable(first),
        };
        if !is_lock {
            self.rest = [before, after].concat();
            return Some(self.line("the command goes after '--'"));
        }
        let is_file = looks_like_a_lock_file(first) || is_path(first);
        let option = if is_file { "--file" } else { "--name" };
        let what = if is_file { "the lock file goes after --file" } else { "the lock's name goes after --name" };
        let mut what = format!("'{}' is not an option: {what}", printable(first.as_bytes()));
        let mut words = Words::default();
        words.add_plain(option);
        words.add(first);
        self.options.push(words);
        self.names_a_lock = true;
        // flock accepts `FILE -c STRING`, and people put options there.
        let mut later = Self { options: self.options.clone(), names_a_lock: true, ..Self::default() };
        match later.read(others, None) {
            Some(()) => later.rest.extend_from_slice(after),
            None => later = Self { rest: [others, after].concat(), ..self },
        }
        if later.shell.is_none() && dashes.is_none() {
            what += ", the command after '--'";
        }
        later.what = Some(what);
        Some(if later.shell.is_some() { later.shell_line() } else { later.line("") })
    }

    /// `lockrun OPTIONS -- COMMAND`.
    fn line(self, what: &str) -> Suggestion {
        let mut line = Words::of_lockrun();
        self.options.iter().for_each(|option| line.append(option));
        line.add_plain("--");
        if self.rest.is_empty() {
            line.add_plain("COMMAND");
        }
        line.extend(&self.rest);
        Suggestion { what: self.what.or_else(|| Some(what.to_owned())), line }
    }
}

fn is_number(word: &OsStr) -> bool {
    !word.is_empty() && word.as_bytes().iter().all(u8::is_ascii_digit)
}

fn is_path(word: &OsStr) -> bool {
    word.as_bytes().contains(&b'/')
}

/// By its name, or because it exists and is not executable.
fn looks_like_a_lock_file(word: &OsStr) -> bool {
    let path = Path::new(word);
    let has_its_name = path.extension().is_some_and(|end| ["lock", "lck", "pid"].iter().any(|lock| end == *lock));
    has_its_name || !is_executable(word) && (is_path(word) || path.exists())
}

/// Whether a shell would find a program for this word.
fn is_executable(word: &OsStr) -> bool {
    let is_program =
        |path: PathBuf| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if is_path(word) {
        return is_program(word.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    !word.is_empty() && std::env::split_paths(&path).any(|directory| is_program(directory.join(word)))
}
