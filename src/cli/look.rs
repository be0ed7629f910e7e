//! The command lines of the commands that take no lock.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use crate::duration::{self, Limit};

/// Which locks a command is about that takes none.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// A lock's name
    #[arg(value_name = "LOCK")]
    pub lock: Vec<OsString>,

    /// The same, also for a name that begins with '-'
    #[arg(short = 'l', long = "name", value_name = "NAME", allow_hyphen_values = true)]
    pub name: Vec<OsString>,

    /// The lock on this file or directory
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub file: Vec<PathBuf>,

    /// The locks directory [env: LOCKRUN_DIR]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// A server instead: etcd://HOST,HOST [env: LOCKRUN_STORE]
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    #[cfg_attr(not(feature = "net"), arg(hide = true))]
    pub store: Option<OsString>,
}

/// List locks: who holds them, how many wait, how the last run ended.
///
/// Held locks first, then free ones. Without LOCK, every lock with a file in
/// the locks directory. Listing never makes another lockrun fail or wait.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun list",
    override_usage = "lockrun list [OPTIONS] [LOCK]...",
    max_term_width = 80,
    args_override_self = true
)]
pub struct List {
    /// Which ones.
    #[command(flatten)]
    pub which: Selection,

    /// Only locks that are held
    #[arg(long)]
    pub held: bool,

    /// Print JSON, with every holder
    #[arg(long)]
    pub json: bool,

    /// Print the names alone, for shells to complete.
    #[arg(long, hide = true)]
    pub names: bool,
}

/// Tell whether a lock is free.
///
/// Free means that 'lockrun --timeout 0' would get it now. Prints nothing. Exit
/// code 0 if it is free, 1 if not, 125 if that cannot be determined.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun status",
    override_usage = "lockrun status [OPTIONS] LOCK",
    max_term_width = 80,
    args_override_self = true
)]
pub struct Status {
    /// Which one.
    #[command(flatten)]
    pub which: Selection,
}

/// Wait until locks are free, without taking them.
///
/// Several locks: until all are free at the same time. Never delays others.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun wait",
    override_usage = "lockrun wait [OPTIONS] LOCK...",
    max_term_width = 80,
    args_override_self = true
)]
pub struct Wait {
    /// Which ones.
    #[command(flatten)]
    pub which: Selection,

    /// Longest wait [default: forever]
    ///
    /// Exit code 124 when the time has passed.
    #[arg(short, long, value_name = "DUR", value_parser = duration::parse_limit, allow_hyphen_values = true)]
    pub timeout: Option<Limit>,
}

/// Make the holder of a lock release it.
///
/// A lockrun ends its command and everything the command started, and exits
/// with 123; a token is released; any other program gets TERM and then KILL.
/// Only processes that the kernel shows to hold the lock now are signalled.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun break",
    override_usage = "lockrun break [OPTIONS] LOCK",
    max_term_width = 80,
    args_override_self = true
)]
pub struct Break {
    /// Which one.
    #[command(flatten)]
    pub which: Selection,

    /// Time between TERM and KILL [default: 10]
    #[arg(long, value_name = "DUR", value_parser = duration::parse, allow_hyphen_values = true)]
    pub kill_after: Option<Duration>,
}

/// Remove unused lock files, and print their names.
///
/// Safe at any time: locks that are held or waited for stay.
#[derive(Parser, Debug)]
#[command(name = "lockrun prune", max_term_width = 80, args_override_self = true)]
pub struct Prune {
    /// Only print what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Keep what has been used within DUR
    #[arg(long, value_name = "DUR", value_parser = duration::parse, allow_hyphen_values = true)]
    pub older: Option<Duration>,

    /// The locks directory [env: LOCKRUN_DIR]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// A server instead: etcd://HOST,HOST [env: LOCKRUN_STORE]
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    #[cfg_attr(not(feature = "net"), arg(hide = true))]
    pub store: Option<OsString>,
}

/// Create the lock file of NAME safely, and print its path.
///
/// For scripts that open it themselves and lock their own descriptor.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun path",
    override_usage = "exec 9<>\"$(lockrun path NAME)\" || exit",
    max_term_width = 80,
    args_override_self = true
)]
pub struct LockPath {
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub lock: Vec<OsString>,

    /// The lock's name
    #[arg(short = 'l', long = "name", value_name = "NAME", allow_hyphen_values = true)]
    pub name: Vec<OsString>,

    /// The locks directory [env: LOCKRUN_DIR]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Print shell completions.
///
/// For bash, in ~/.bashrc: eval "$(lockrun completions bash)"
#[derive(Parser, Debug)]
#[command(name = "lockrun completions", max_term_width = 80)]
pub struct Completions {
    /// bash, zsh or fish
    #[arg(value_enum, value_name = "SHELL", hide_possible_values = true)]
    pub shell: Shell,
}

/// Shells with completions.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}
