//! flock(1)'s own command line, as util-linux reads it: options first, abbreviated as
//! long as they are unambiguous, then a file or a number, then a command.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, Command};

use crate::duration::Limit;
use crate::escape::printable;

/// A flock(1) command line, understood.
#[derive(Debug, PartialEq)]
pub struct Flock {
    /// What to do with the lock.
    pub operation: Operation,
    /// How long to wait.
    pub limit: Limit,
    /// Exit code if the lock was not obtained in time.
    pub conflict_exit_code: u8,
    /// Close the descriptor for the command.
    pub close: bool,
    /// Become the command.
    pub no_fork: bool,
    /// Print what is done on stdout, and who holds the lock.
    pub verbose: bool,
    /// Which lock.
    pub lock: FlockLock,
    /// What to run.
    pub command: FlockCommand,
}

/// What to do with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Take all of it.
    Exclusive,
    /// Share it.
    Shared,
    /// Unlock it.
    Unlock,
}

/// What is locked.
#[derive(Debug, PartialEq)]
pub enum FlockLock {
    /// A file or directory.
    File(PathBuf),
    /// The caller's descriptor.
    Descriptor(RawFd),
}

/// What is run under the lock.
#[derive(Debug, PartialEq)]
pub enum FlockCommand {
    /// Nothing: leave the lock on the descriptor.
    None,
    /// These words.
    Words(Vec<OsString>),
    /// This text, by `$SHELL -c`.
    Shell(OsString),
}

/// A command line that locks nothing.
#[derive(Debug, PartialEq)]
pub enum NotFlock {
    /// Print this help or version on stdout.
    Text(String),
    /// It is wrong: why, in one line.
    Usage(String),
    /// The time is negative, which flock(1) notices when it sets its timer.
    NoTimer,
}

/// An option: letters, long names, value, help.
struct Opt {
    is: Is,
    short: &'static [char],
    long: &'static [&'static str],
    value: Option<&'static str>,
    help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    Operation(Operation),
    Nonblock,
    Timeout,
    ConflictExitCode,
    Close,
    NoFork,
    Fd,
    Fcntl,
    Verbose,
    Help,
    Version,
}

const fn opt(
    is: Is,
    short: &'static [char],
    long: &'static [&'static str],
    value: Option<&'static str>,
    help: &'static str,
) -> Opt {
    Opt { is, short, long, value, help }
}

const OPTIONS: [Opt; 15] = [
    opt(Is::Operation(Operation::Shared), &['s'], &["shared"], None, "Take a shared (read) lock"),
    opt(Is::Operation(Operation::Exclusive), &['x', 'e'], &["exclusive"], None, "Take an exclusive lock [default]"),
    opt(Is::Operation(Operation::Unlock), &['u'], &["unlock"], None, "Unlock the descriptor"),
    opt(Is::Nonblock, &['n'], &["nonblock", "nonblocking", "nb"], None, "Do not wait: fail at once"),
    opt(Is::Timeout, &['w'], &["timeout", "wait"], Some("SECONDS"), "Longest wait, with decimals; 0: none"),
    opt(Is::ConflictExitCode, &['E'], &["conflict-exit-code"], Some("N"), "Exit code instead of 1 without the lock"),
    opt(Is::Close, &['o'], &["close"], None, "Close the descriptor for COMMAND"),
    opt(Is::NoFork, &['F'], &["no-fork"], None, "Become COMMAND"),
    opt(Is::Fd, &[], &["fd"], Some("N"), "Lock the caller's descriptor N, and run COMMAND"),
    opt(Is::Fcntl, &[], &["fcntl"], None, FCNTL_HELP),
    opt(Is::Fcntl, &[], &["start"], Some("OFFSET"), FCNTL_HELP),
    opt(Is::Fcntl, &[], &["length"], Some("NUMBER"), FCNTL_HELP),
    opt(Is::Verbose, &[], &["verbose"], None, "Print how long it took, and who holds the lock"),
    opt(Is::Help, &['h'], &["help"], None, "Print help"),
    opt(Is::Version, &['V'], &["version"], None, "Print version"),
];

const FCNTL_HELP: &str = "Refused: lockrun has no fcntl(2) locks";

/// The error for `--fcntl` and ranges.
const NO_FCNTL: &str = "--fcntl, --start and --length are refused: an fcntl(2) lock excludes no lockrun and no \
    flock(2) lock, and lockrun's queue needs those of the file; use util-linux's flock";

/// The command line for the manual, the completions and `--help`.
pub fn command() -> Command {
    let arg = |opt: &Opt| {
        let first = opt.long[0];
        let arg = Arg::new(first).long(first).help(opt.help).visible_aliases(&opt.long[1..]);
        let arg = arg.hide(opt.is == Is::Fcntl);
        let arg = match opt.short {
            [] => arg,
            [short, rest @ ..] => arg.short(*short).visible_short_aliases(rest.to_vec()),
        };
        match opt.value {
            Some(value) => arg.value_name(value).num_args(1),
            None => arg.num_args(0).action(clap::ArgAction::SetTrue),
        }
    };
    let usage = "lockrun flock [OPTIONS] FILE|DIRECTORY COMMAND [ARG]...\n       \
        lockrun flock [OPTIONS] FILE|DIRECTORY -c STRING\n       \
        lockrun flock [OPTIONS] NUMBER\n       \
        lockrun flock [OPTIONS] --fd NUMBER [COMMAND [ARG]...]";
    Command::new("lockrun flock")
        .about("Lock with flock(1)'s own command line")
        .long_about(
            "Lock with flock(1)'s own command line.\n\nIts options, its exit codes and its texts, in the queue of \
             lockrun. Also when lockrun is called by the name flock.",
        )
        .override_usage(usage)
        .max_term_width(80)
        // clap has its own --help.
        .args(OPTIONS.iter().filter(|opt| opt.is != Is::Help).map(arg))
}

/// Reads the words after the program's name.
pub fn parse(words: &[OsString]) -> Result<Flock, NotFlock> {
    if words.is_empty() {
        return Err(usage("not enough arguments"));
    }
    let mut options = Options::default();
    let rest = options.read(words)?;
    if options.no_fork && options.close {
        return Err(NotFlock::Usage("the --no-fork and --close options are incompatible".into()));
    }
    let (lock, command) = match (options.fd, rest) {
        (Some(number), command) => (FlockLock::Descriptor(number), command),
        (None, [number]) => (FlockLock::Descriptor(integer(number, "bad file descriptor")?), &[][..]),
        (None, [file, command @ ..]) => (FlockLock::File(file.into()), command),
        (None, []) => return Err(NotFlock::Usage("requires file descriptor, file or directory".into())),
    };
    let command = match command {
        [] => FlockCommand::None,
        [option, rest @ ..] if option == "-c" || option == "--command" => match rest {
            [text] => FlockCommand::Shell(text.clone()),
            _ => {
                let option = option.to_string_lossy();
                return Err(NotFlock::Usage(format!("{option} requires exactly one command argument")));
            }
        },
        words => FlockCommand::Words(words.to_vec()),
    };
    // Last, as in flock(1).
    let limit = match options.timeout {
        Some(seconds) if seconds < 0.0 => return Err(NotFlock::NoTimer),
        _ if options.nonblock => Limit::After(Duration::ZERO),
        Some(seconds) => Limit::After(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
        None => Limit::Never,
    };
    Ok(Flock {
        operation: options.operation,
        limit,
        conflict_exit_code: options.conflict_exit_code,
        close: options.close,
        no_fork: options.no_fork,
        verbose: options.verbose,
        lock,
        command,
    })
}

/// Whether lockrun was called by the name `flock`.
pub fn is_name(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new("flock"))
}

struct Options {
    operation: Operation,
    nonblock: bool,
    timeout: Option<f64>,
    conflict_exit_code: u8,
    close: bool,
    no_fork: bool,
    verbose: bool,
    fd: Option<RawFd>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            operation: Operation::Exclusive,
            nonblock: false,
            timeout: None,
            conflict_exit_code: 1,
            close: false,
            no_fork: false,
            verbose: false,
            fd: None,
        }
    }
}

impl Options {
    /// Reads the options. Returns the words after them.
    fn read<'w>(&mut self, words: &'w [OsString]) -> Result<&'w [OsString], NotFlock> {
        let mut at = 0;
        while let Some(word) = words.get(at).map(|word| word.as_bytes()) {
            at += 1;
            match word {
                b"--" => break,
                // Without a file before it.
                b"-c" | b"--command" if self.fd.is_some() => {
                    at -= 1;
                    break;
                }
                [b'-', b'-', long @ ..] => {
                    let (name, given) = match long.iter().position(|byte| *byte == b'=') {
                        Some(end) => (&long[..end], Some(OsString::from_vec(long[end + 1..].to_vec()))),
                        None => (long, None),
                    };
                    let opt = by_name(name)?;
                    let name = printable(name);
                    let value = match (opt.value, given) {
                        (None, Some(_)) => return Err(usage(&format!("option '--{name}' doesn't allow an argument"))),
                        (Some(_), None) => Some(next(words, &mut at, &format!("option '--{name}'"))?),
                        (_, given) => given,
                    };
                    self.set(opt, value)?;
                }
                [b'-', first, ..] if *first != b'-' => {
                    let mut letters = &word[1..];
                    while let [letter, rest @ ..] = letters {
                        letters = rest;
                        let letter = char::from(*letter);
                        let opt = OPTIONS.iter().find(|opt| opt.short.contains(&letter));
                        let opt = opt.ok_or_else(|| usage(&format!("invalid option -- '{letter}'")))?;
                        let value = match (opt.value, letters) {
                            (None, _) => None,
                            (Some(_), []) => Some(next(words, &mut at, &format!("option -- '{letter}'"))?),
                            (Some(_), rest) => Some(OsString::from_vec(rest.to_vec())),
                        };
                        if value.is_some() {
                            letters = &[];
                        }
                        self.set(opt, value)?;
                    }
                }
                _ => {
                    at -= 1;
                    break;
                }
            }
        }
        Ok(&words[at..])
    }

    fn set(&mut self, opt: &Opt, value: Option<OsString>) -> Result<(), NotFlock> {
        let value = value.unwrap_or_default();
        match opt.is {
            Is::Operation(operation) => self.operation = operation,
            Is::Nonblock => self.nonblock = true,
            Is::Timeout => self.timeout = Some(seconds(&value)?),
            Is::ConflictExitCode => {
                let code = integer(&value, "invalid exit code")?;
                self.conflict_exit_code = u8::try_from(code)
                    .map_err(|_| NotFlock::Usage("exit code out of range (expected 0 to 255)".into()))?;
            }
            Is::Close => self.close = true,
            Is::NoFork => self.no_fork = true,
            Is::Fd => self.fd = Some(integer(&value, "bad file descriptor")?),
            Is::Fcntl => return Err(NotFlock::Usage(NO_FCNTL.into())),
            Is::Verbose => self.verbose = true,
            Is::Help => return Err(NotFlock::Text(command().render_help().to_string())),
            Is::Version => {
                return Err(NotFlock::Text(format!("flock from lockrun {}\n", env!("CARGO_PKG_VERSION"))));
            }
        }
        Ok(())
    }
}

/// The option of this name, or of an unambiguous abbreviation.
fn by_name(name: &[u8]) -> Result<&'static Opt, NotFlock> {
    let names = || OPTIONS.iter().flat_map(|opt| opt.long.iter().map(move |long| (opt, *long)));
    if let Some((opt, _)) = names().find(|(_, long)| long.as_bytes() == name) {
        return Ok(opt);
    }
    let begun: Vec<_> = names().filter(|(_, long)| long.as_bytes().starts_with(name)).collect();
    let name = printable(name);
    match &begun[..] {
        [] => Err(usage(&format!("unrecognized option '--{name}'"))),
        [(first, _), rest @ ..] if rest.iter().all(|(opt, _)| opt.is == first.is && opt.value == first.value) => {
            Ok(first)
        }
        many => {
            let names: String = many.iter().map(|(_, long)| format!(" '--{long}'")).collect();
            Err(usage(&format!("option '--{name}' is ambiguous; possibilities:{names}")))
        }
    }
}

fn next(words: &[OsString], at: &mut usize, option: &str) -> Result<OsString, NotFlock> {
    let word = words.get(*at).cloned();
    *at += 1;
    word.ok_or_else(|| match option.split_once(" -- ") {
        Some((_, letter)) => usage(&format!("option requires an argument -- {letter}")),
        None => usage(&format!("{option} requires an argument")),
    })
}

fn usage(what: &str) -> NotFlock {
    NotFlock::Usage(format!("{what}; try 'flock --help'"))
}

/// As strtol(3) reads a decimal number.
fn integer(word: &OsStr, what: &str) -> Result<i32, NotFlock> {
    let wrong = || NotFlock::Usage(format!("{what}: '{}'", printable(word.as_bytes())));
    let text = word.to_str().ok_or_else(wrong)?.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().map_err(|_| match wrong() {
        NotFlock::Usage(text) => NotFlock::Usage(text + ": Numerical result out of range"),
        other => other,
    })
}

/// As strtod(3) reads a decimal number.
fn seconds(word: &OsStr) -> Result<f64, NotFlock> {
    let wrong = || NotFlock::Usage(format!("invalid timeout value: '{}'", printable(word.as_bytes())));
    let text = word.to_str().ok_or_else(wrong)?.trim_start();
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|_| is_number).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Flock, NotFlock> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_end_at_the_file_and_letters_may_be_joined() {
        let call = read("-xnoE 7 --verb file -s -- true").unwrap();
        assert_eq!((call.conflict_exit_code, call.close, call.verbose), (7, true, true));
        assert_eq!(call.limit, Limit::After(Duration::ZERO));
        assert_eq!(call.lock, FlockLock::File("file".into()));
        assert_eq!(call.command, FlockCommand::Words(["-s", "--", "true"].map(OsString::from).into()));
        assert_eq!(read("-w1.5 -s 9").unwrap().limit, Limit::After(Duration::from_millis(1500)));
        assert_eq!(read("-u -- 9").unwrap().operation, Operation::Unlock);
        assert_eq!(read("--fd=9 -n").unwrap().lock, FlockLock::Descriptor(9));
    }

    #[test]
    fn an_abbreviation_is_what_only_one_option_begins_with() {
        assert!(read("--nonb 9").is_ok() && read("--ti 1 9").is_ok() && read("--conf 3 9").is_ok());
        for wrong in ["--no 9", "--foo 9", "--shared=1 9", "-w", "--wait", "-c x", "-z 9", "9x", "0x9", ""] {
            assert!(matches!(read(wrong), Err(NotFlock::Usage(_))), "{wrong}");
        }
    }
}
