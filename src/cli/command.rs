//! Every command, as a value and as clap knows it.

use clap::CommandFactory;

use super::flock::{self, Flock, NotFlock};
use super::look::{Break, Completions, List, LockPath, Prune, Status, Wait};
use super::run::Run;
use super::token::{Acquire, Check, Release, Renew};

/// What was asked for.
pub enum Command {
    /// Run a command under a lock.
    Run(Box<Run>),
    /// Take a lock for a token.
    Acquire(Box<Acquire>),
    /// Release it.
    Release(Release),
    /// Extend its expiry.
    Renew(Renew),
    /// Check that it is still held.
    Check(Check),
    /// Show locks.
    List(List),
    /// Tell whether a lock is free.
    Status(Status),
    /// Wait until locks are free.
    Wait(Wait),
    /// Make a holder let go.
    Break(Break),
    /// Remove unused lock files.
    Prune(Prune),
    /// Print the path of a lock file.
    Path(LockPath),
    /// Do what flock(1) does.
    Flock(Result<Flock, NotFlock>),
    /// Print a shell's completions.
    Completions(Completions),
    /// Print this help or version.
    Help(String),
}

/// The whole command line, for the manual and the completions. A call builds only the
/// part that it needs.
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
        .subcommand(named(flock::command(), "flock"))
        .subcommand(named(Completions::command(), "completions"))
}
