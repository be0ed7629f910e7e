//! Every command, as a value and as clap knows it.

use clap::CommandFactory;

use super::flock::{self, Flock, NotFlock};
use super::look::{Break, Completions, List, LockPath, Prune, Status, Wait};
use super::run::Run;
use super::token::{Acquire, Check, Release, Renew};

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
    /// Do what flock(1) would do.
    Flock(Result<Flock, NotFlock>),
    /// Print a shell's completions.
    Completions(Completions),
    /// Print this text: a help, or the version.
    Help(String),
}

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
        .subcommand(named(flock::command(), "flock"))
        .subcommand(named(Completions::command(), "completions"))
}
