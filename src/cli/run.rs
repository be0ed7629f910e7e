//! The command line of the main job, and the lock options, which mean the same
//! wherever a lock is taken.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use super::number;
use crate::duration::{self, Limit};
use crate::lock::WholeNumber;

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
    #[arg(
        short = 'c',
        alias = "command",
        value_name = "STRING",
        conflicts_with = "command",
        help_heading = "Run options"
    )]
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

    /// After DUR, end COMMAND and everything it started
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

    /// On a server: keep the lock for at least DUR
    ///
    /// DUR counts from the grant. The lock stays even if COMMAND ends or fails
    /// earlier, or its host dies; lockrun returns when COMMAND has ended.
    #[arg(long, value_name = "DUR", value_parser = duration::parse, allow_hyphen_values = true,
        hide_short_help = true, help_heading = "Run options")]
    #[cfg_attr(not(feature = "net"), arg(hide = true))]
    pub at_least: Option<Duration>,

    /// Append one line of JSON about the run to FILE
    ///
    /// Lock, command, process, user, times, seconds waited and held, exit code and
    /// result. '-' is stderr.
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
    /// percent-encoded. The current directory does not count: 'lockrun -- make' in
    /// two checkouts is one lock. acquire has no default.
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

    /// Lock on an etcd server [env: LOCKRUN_STORE]
    ///
    /// etcd://HOST[:2379][,HOST...][/PREFIX], or etcds:// for TLS. Excludes the
    /// same name on every host that uses the server. 'file:' means lock files in
    /// their default directory.
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    #[cfg_attr(not(feature = "net"), arg(hide = true))]
    pub store: Option<OsString>,

    /// Longest wait; 0: none [env: LOCKRUN_TIMEOUT]
    ///
    /// Seconds (10, 0.5) or a time with units (90s, 1m 30s, 500ms); -1 or
    /// 'forever', the default: no limit. Exit code 124, with 0 it is 75.
    #[arg(short, long, value_name = "DUR",
        short_alias = 'w', alias = "wait", value_parser = duration::parse_limit,
        allow_hyphen_values = true, overrides_with = "nonblock")]
    pub timeout: Option<Limit>,

    /// Do not wait: --timeout 0
    #[arg(short, long, aliases = ["nb", "nonblocking"], overrides_with = "timeout")]
    pub nonblock: bool,

    /// Take a shared (read) lock
    ///
    /// Shared holders exclude only exclusive ones.
    #[arg(short, long, overrides_with = "exclusive")]
    pub shared: bool,

    /// Accepted for flock(1): the lock is exclusive anyway.
    #[arg(short = 'x', short_alias = 'e', long, hide = true, overrides_with = "shared")]
    pub exclusive: bool,

    /// Accepted for flock(1): a daemon that COMMAND leaves does not keep the lock.
    #[arg(short = 'o', long, hide = true)]
    pub close: bool,

    /// Take one of N slots: up to N holders at once
    ///
    /// COMMAND finds its slot, 0 to N-1, in LOCKRUN_SLOT. A call without --slots
    /// takes the whole lock and excludes every slot.
    #[arg(long, value_name = "N", allow_hyphen_values = true, conflicts_with_all = ["shared", "file"],
        value_parser = number::slots)]
    pub slots: Option<u32>,

    /// With --slots N: exactly slot K modulo N
    ///
    /// Any integer: -1 is slot N-1.
    #[arg(long, value_name = "K", allow_hyphen_values = true, requires = "slots", value_parser = WholeNumber::parse)]
    pub slot: Option<WholeNumber>,

    /// Fail at once if N are waiting; 0: never wait
    ///
    /// Exit code 121. With several locks, each busy one counts.
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = number::waiters)]
    pub max_waiters: Option<u32>,

    /// Stop the current holder and take the lock next
    ///
    /// Also ends earlier waiters with --replace: the newest wins. They exit with
    /// 123 and say who replaced them. Not counted by --max-waiters.
    #[arg(long, conflicts_with_all = ["shared", "slots"])]
    pub replace: bool,

    /// Run at once under a command that holds the lock
    ///
    /// Instead of failing with 122. The outer lock must be at least as strong.
    #[arg(long)]
    pub reentrant: bool,

    /// Exit code instead of 75, 121 and 124
    ///
    /// The code for a lock that was not obtained in time: 0 to 255.
    #[arg(short = 'E', long, value_name = "N", allow_hyphen_values = true, value_parser = number::exit_code)]
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

const AFTER_SHORT_HELP: &str = "\
Other commands, each with its own --help:
  acquire, release, renew, check    locks by token, or on a script's descriptor
  list, status, wait, break, prune  inspect locks, stop holders, clean up
  path, flock, completions          lock files, flock(1)'s own syntax, shells

See 'lockrun --help' or lockrun(1) for more.";

const AFTER_HELP: &str = "\
Other commands, each with its own --help:
  lockrun acquire --name NAME    take the lock, print a token, return
  lockrun release [TOKEN]...     release it
  lockrun renew [TOKEN]          extend its expiry
  lockrun check [TOKEN]          is it still held?
  lockrun list [LOCK]...         who holds what, since when; --json
  lockrun status LOCK            exit code 0: free, 1: not
  lockrun wait LOCK...           wait until it is free, without taking it
  lockrun break LOCK             make the holder release it
  lockrun prune                  remove lock files that nobody uses
  lockrun path NAME              create its lock file, print the path
  lockrun flock ...              flock(1)'s own command line
  lockrun completions SHELL      bash, zsh, fish
  lockrun help [COMMAND]         this text, or that of a command

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
