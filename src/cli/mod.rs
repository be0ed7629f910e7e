//! What can be typed: words, their help, nothing of what they do.

mod fast_path;
mod parse;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, ValueEnum};

use crate::duration::{self, Limit};
use crate::lock::{MAX_SLOTS, WholeNumber};

pub use parse::parse;

/// Run a command under a lock, never twice at once.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun",
    version,
    override_usage = "lockrun [OPTIONS] -- COMMAND [ARG]...\n       lockrun [OPTIONS] -c STRING",
    after_help = AFTER_SHORT_HELP,
    after_long_help = AFTER_HELP,
    max_term_width = 80,
    args_override_self = true,
)]
#[cfg_attr(test, derive(PartialEq))]
#[derive(Default)]
pub struct Run {
    /// Which lock, and how to get it.
    #[command(flatten)]
    pub lock: Lock,

    /// Run '/bin/sh -c STRING' as COMMAND
    #[arg(short = 'c', value_name = "STRING", conflicts_with = "command", help_heading = "Run options")]
    pub shell: Option<OsString>,

    /// Become COMMAND: no lockrun process stays
    ///
    /// The lock then lasts until every copy of its descriptor is closed, so a
    /// daemon that COMMAND leaves behind keeps it.
    #[arg(
        long,
        alias = "no-fork",
        short_alias = 'F',
        conflicts_with_all = ["expires", "kill_after", "hold", "report"],
        help_heading = "Run options"
    )]
    pub exec: bool,

    /// End COMMAND and everything it started after DUR
    ///
    /// DUR counts from the grant, including time in suspend. TERM first, then
    /// KILL; exit code 123.
    #[arg(long, value_name = "DUR", value_parser = duration::parse_expiry, allow_hyphen_values = true,
        help_heading = "Run options")]
    pub expires: Option<Limit>,

    /// Time between TERM and KILL [default: 10]
    ///
    /// Applies whenever lockrun ends COMMAND: --expires, --replace, break.
    #[arg(long, value_name = "DUR", value_parser = duration::parse, allow_hyphen_values = true,
        help_heading = "Run options")]
    pub kill_after: Option<Duration>,

    /// Hold until the command or its whole tree ends
    ///
    /// With 'tree', a daemon that COMMAND leaves behind keeps the lock while it
    /// lives.
    #[arg(long, value_enum, value_name = "WHAT", hide_possible_values = true, help_heading = "Run options")]
    pub hold: Option<Hold>,

    /// Append one line of JSON about the run to FILE
    ///
    /// Name, command, times, seconds waited and held, exit code, fence.
    #[arg(long, value_name = "FILE", help_heading = "Run options")]
    pub report: Option<PathBuf>,

    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

/// The options that mean the same in every command that takes a lock.
#[derive(Args, Debug, Default)]
#[cfg_attr(test, derive(PartialEq))]
#[command(next_help_heading = "Lock options")]
pub struct Lock {
    /// The lock's name [default: the command line]
    ///
    /// The lock is the file NAME.lock in the locks directory, with unusual bytes
    /// percent-encoded. acquire has no default.
    #[arg(short = 'l', long = "name", value_name = "NAME", allow_hyphen_values = true)]
    pub name: Vec<OsString>,

    /// Lock exactly this file or directory
    ///
    /// Excludes scripts that use flock(1) on it, and is excluded by them. The
    /// file is created if missing and never written to.
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub file: Vec<PathBuf>,

    /// The locks directory [env: LOCKRUN_DIR]
    ///
    /// Users who give the same directory exclude each other. Default:
    /// /run/lockrun for root, ~/.local/state/lockrun for others.
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Longest wait; 0: none [env: LOCKRUN_TIMEOUT]
    ///
    /// Seconds (10, 0.5) or a time with units (90s, 1m 30s, 500ms); -1 or
    /// 'forever', the default: no limit. Exit code 124, with 0 it is 75.
    #[arg(short, long, value_name = "DUR",
        short_alias = 'w', alias = "wait", value_parser = duration::parse_limit,
        allow_hyphen_values = true, overrides_with = "nonblock")]
    pub timeout: Option<Limit>,

    /// Do not wait: --timeout 0
    #[arg(short, long, overrides_with = "timeout")]
    pub nonblock: bool,

    /// Take a shared (read) lock
    ///
    /// Shared holders exclude only exclusive ones.
    #[arg(short, long, overrides_with = "exclusive")]
    pub shared: bool,

    /// Accepted for flock(1): the lock is exclusive anyway.
    #[arg(short = 'x', short_alias = 'e', long, hide = true, overrides_with = "shared")]
    pub exclusive: bool,

    /// Take one of N slots: up to N holders at once
    ///
    /// COMMAND finds its slot, 0 to N-1, in LOCKRUN_SLOT. A call without --slots
    /// takes the whole lock and excludes every slot.
    #[arg(long, value_name = "N", allow_hyphen_values = true, conflicts_with_all = ["shared", "file"],
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub slots: Option<u32>,

    /// With --slots N: exactly slot K modulo N
    ///
    /// Any integer: -1 is slot N-1.
    #[arg(long, value_name = "K", allow_hyphen_values = true, requires = "slots", value_parser = WholeNumber::parse)]
    pub slot: Option<WholeNumber>,

    /// Fail at once if N wait already; 0: never wait
    ///
    /// Exit code 121. With several locks, each busy one counts.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_waiters: Option<u32>,

    /// Stop the current holder and take the lock next
    ///
    /// Also ends earlier waiters with --replace: the newest wins. They exit with
    /// 123 and say who replaced them. Not counted by --max-waiters.
    #[arg(long, conflicts_with_all = ["shared", "slots"])]
    pub replace: bool,

    /// Below a command that holds it, run at once
    ///
    /// Instead of failing with 122. The outer lock must be at least as strong.
    #[arg(long)]
    pub reentrant: bool,

    /// Exit code instead of 75, 121 and 124
    ///
    /// The code for a lock that was not obtained in time: 0 to 255.
    #[arg(short = 'E', long, value_name = "N", allow_hyphen_values = true)]
    pub conflict_exit_code: Option<u8>,

    /// Print nothing about waiting or giving up
    ///
    /// Failures are still reported: exit codes 122, 123, 125, 126 and 127.
    #[arg(short, long, overrides_with = "verbose")]
    pub quiet: bool,

    /// Print the path, waiting and holding times
    #[arg(short, long, overrides_with = "quiet")]
    pub verbose: bool,
}

/// How long the lock is held.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Until COMMAND ends
    Command,
    /// Until everything that it started has ended
    Tree,
}

/// Take a lock and print a token for it.
///
/// The token is one word on stdout; 'lockrun release TOKEN' releases the lock.
/// Until then a small background process holds it.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun acquire",
    override_usage = "TOKEN=$(lockrun acquire --name NAME [OPTIONS]) || exit $?",
    after_long_help = AFTER_ACQUIRE_HELP,
    max_term_width = 80,
    args_override_self = true,
)]
pub struct Acquire {
    /// Which lock, and how to get it.
    #[command(flatten)]
    pub lock: Lock,

    /// Let go when the process PID has ended
    ///
    /// However it ended. In a script, --owner $$ is the script itself.
    #[arg(long, value_name = "PID", allow_hyphen_values = true, help_heading = "Token options")]
    pub owner: Option<i32>,

    /// Let go after DUR, or never: forever
    ///
    /// Counted from the grant, on a clock that runs through suspend. Without
    /// --owner and --expires, after one hour.
    #[arg(long, value_name = "DUR", value_parser = duration::parse_expiry, allow_hyphen_values = true,
        help_heading = "Token options")]
    pub expires: Option<Limit>,
}

/// Release the locks of tokens.
///
/// Returns when they are free. Exit code 123 if a lock had been lost: work done
/// under it was not protected to the end.
#[derive(Parser, Debug)]
#[command(name = "lockrun release", max_term_width = 80)]
pub struct Release {
    /// What acquire printed; '-': on stdin [env: LOCKRUN_TOKEN]
    #[arg(value_name = "TOKEN", allow_hyphen_values = true)]
    pub token: Vec<OsString>,
}

/// Extend the expiry of a token's lock.
///
/// Exit code 123 if the lock had been lost.
#[derive(Parser, Debug)]
#[command(name = "lockrun renew", max_term_width = 80, args_override_self = true)]
pub struct Renew {
    /// What acquire printed; '-': on stdin [env: LOCKRUN_TOKEN]
    #[arg(value_name = "TOKEN")]
    pub token: Option<OsString>,

    /// Expire after DUR from now, or never: forever
    ///
    /// Without it, as long as it was taken for.
    #[arg(long, value_name = "DUR", value_parser = duration::parse_expiry, allow_hyphen_values = true)]
    pub expires: Option<Limit>,
}

/// Check whether a token's lock is still held.
///
/// Exit code 0 if it is, 123 if it was lost.
#[derive(Parser, Debug)]
#[command(name = "lockrun check", max_term_width = 80)]
pub struct Check {
    /// What acquire printed; '-': on stdin [env: LOCKRUN_TOKEN]
    #[arg(value_name = "TOKEN")]
    pub token: Option<OsString>,

    /// Print name, slot, fence, expires and remaining seconds as JSON
    #[arg(long)]
    pub json: bool,
}

/// Which locks are meant, by those who do not take them.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// A lock's name
    #[arg(value_name = "LOCK")]
    pub lock: Vec<OsString>,

    /// The lock on this file or directory
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub file: Vec<PathBuf>,

    /// The locks directory [env: LOCKRUN_DIR]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// List locks, their holders and their queues.
///
/// Without LOCK, every lock with a file in the locks directory. Listing never
/// makes another lockrun fail or wait.
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
/// Several: until all are free at the same time. Delays nobody.
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
    /// Exit code 124 when the time is over.
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

    /// Time until KILL [default: 10]
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

    /// The locks directory [env: LOCKRUN_DIR]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Make the lock file of NAME safely, and print its path.
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

/// Shells that completions are made for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}

/// What was asked for.
pub enum Command {
    /// The main job.
    Run(Box<Run>),
    /// Take a lock for a token.
    Acquire(Box<Acquire>),
    /// Give it back.
    Release(Release),
    /// Keep it longer.
    Renew(Renew),
    /// See whether it is still held.
    Check(Check),
    /// Show locks.
    List(List),
    /// Is a lock free?
    Status(Status),
    /// Wait until locks are free.
    Wait(Wait),
    /// Make a holder let go.
    Break(Break),
    /// Remove unused lock files.
    Prune(Prune),
    /// Print the path of a lock file.
    Path(LockPath),
    /// Print a shell's completions.
    Completions(Completions),
    /// Print this text: a help, or the version.
    Help(String),
}

const AFTER_ACQUIRE_HELP: &str = "\
Examples:
  TOKEN=$(lockrun acquire --name deploy --timeout 10 --owner $$) || exit $?
  ...
  lockrun release \"$TOKEN\"

Exit codes:
    0  the lock is held, the token is printed
   75  busy: --timeout 0, and it is held or others wait
  121  queue full: --max-waiters
  122  it would deadlock: the lock is held for this very process
  124  timed out: waited the whole --timeout
  125  lockrun itself failed: usage, permission, disk, a foreign file";

const AFTER_SHORT_HELP: &str = "\
Other commands, each with its own --help:
  acquire, release, renew, check   locks that outlive one command, by token
  list, status, wait, break, prune  see locks, end holders, clean up
  path                             a lock file for 'exec 9<>' in scripts
  completions                      for bash, zsh and fish

See 'lockrun --help' or lockrun(1) for more.";

const AFTER_HELP: &str = "\
Other commands, each with its own --help:
  lockrun acquire --name NAME    take the lock, print a token, return
  lockrun release [TOKEN]...     give it back
  lockrun renew [TOKEN]          push its expiry out
  lockrun check [TOKEN]          is it still held?
  lockrun list [LOCK]...         who holds what, since when; --json
  lockrun status LOCK            exit code 0: free, 1: not
  lockrun wait LOCK...           until it is free, without taking it
  lockrun break LOCK             make the holder let go
  lockrun prune                  remove lock files that nobody uses
  lockrun path NAME              make its lock file, print the path
  lockrun completions SHELL      bash, zsh, fish

Examples:
  lockrun -- backup.sh --all             the same command line never twice
  lockrun -l calc --timeout 10 -- cmd    wait 10 s at most, then exit with 124
  lockrun -n -E 0 -q -l sync -- sync.sh  in a crontab: skip quietly if it runs
  lockrun -l db -c 'dump && upload'      a shell line
  lockrun --file /var/lib/x -- cmd       the same lock as flock(1) on that path
  lockrun --shared -l data -- read.sh    together with other readers
  lockrun --slots 2 -l gpu -- train.sh   at most two at once
  lockrun --replace -l ci -- build.sh    end the older run, keep the newest
  lockrun --expires 1h -l job -- cmd     end it, with all it started, after 1 h

Exit codes (otherwise COMMAND's own; a signal that ends it ends lockrun too):
   75  busy: --timeout 0, and it is held or others wait
  121  queue full: --max-waiters
  122  it would deadlock: this command already runs under the lock
  123  lost: expired, replaced, broken, or its file was removed meanwhile
  124  timed out: waited the whole --timeout
  125  lockrun itself failed: usage, permission, disk, a foreign file
  126  COMMAND cannot be executed
  127  COMMAND was not found";

/// The whole command line, for the manual and the completions. A call itself
/// builds only the part that it needs.
pub fn tree() -> clap::Command {
    let named = |command: clap::Command, name: &'static str| command.name(name).bin_name(format!("lockrun {name}"));
    Run::command()
        .subcommand(named(Acquire::command(), "acquire"))
        .subcommand(named(Release::command(), "release"))
        .subcommand(named(Renew::command(), "renew"))
        .subcommand(named(Check::command(), "check"))
        .subcommand(named(List::command(), "list"))
        .subcommand(named(Status::command(), "status"))
        .subcommand(named(Wait::command(), "wait"))
        .subcommand(named(Break::command(), "break"))
        .subcommand(named(Prune::command(), "prune"))
        .subcommand(named(LockPath::command(), "path"))
        .subcommand(named(Completions::command(), "completions"))
}
