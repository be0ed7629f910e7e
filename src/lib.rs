//! lockrun: run a command, but never twice at once.
//!
//! From argv to exit code, top to bottom:
//!
//! - [`cli`]: what can be typed
//! - `command`: what it means, one file per subcommand
//! - [`lock`]: engines that grant locks
//! - `child`: COMMAND, from waiting for its turn to its end
//! - `keeper`: the process behind a token, and how it is spoken to
//! - `net`: connections to servers, names and TLS (with the feature `net`)
//! - `waiting`, `message`, `table`: what people see
//! - `advice`, `process`, `name`, `record`, `token`, `duration`, `escape`, `users`, `exit`: values and their
//!   text forms
//! - [`sys`]: the system calls that need `unsafe`
//!
//! Public is what the binary, the tests and the man pages need. It is no stable
//! interface.

#![deny(unsafe_code, missing_docs)]

mod advice;
mod child;
pub mod cli;
mod command;
pub mod duration;
mod escape;
#[cfg(test)]
mod exhaustive;
mod exit;
#[cfg(test)]
mod hostile;
mod keeper;
pub mod lock;
mod message;
mod name;
#[cfg(feature = "net")]
pub mod net;
mod process;
mod record;
pub mod sys;
mod table;
mod token;
mod users;
mod waiting;

use std::ffi::OsString;

use anyhow::Result;

use cli::Command;
use exit::Exit;

/// Does what the command line says. Returns the exit code, unless the process
/// ends by a signal.
pub fn main() -> u8 {
    let exit = run(sys::arguments()).unwrap_or_else(|error| {
        match error.downcast_ref::<cli::UsageError>() {
            Some(usage) => [&usage.what, &usage.next].iter().for_each(|line| message::tell(line)),
            None => message::tell_error(&error),
        }
        if error.is::<lock::Unreachable>() { Exit::Unreachable } else { Exit::Failed }
    });
    exit.finish()
}

fn run(words: Vec<OsString>) -> Result<Exit> {
    let command = cli::parse(words)?;
    if !matches!(command, Command::Run(_) | Command::Acquire(_)) {
        sys::ignore_requests();
    }
    match command {
        Command::Run(options) => command::run::run(*options),
        Command::Acquire(options) => command::acquire::acquire(*options),
        Command::Release(options) => command::release::release(options),
        Command::Renew(options) => command::renew::renew(&options),
        Command::Check(options) => command::check::check(options),
        Command::List(options) => command::list::list(options),
        Command::Status(options) => command::status::status(options),
        Command::Wait(options) => command::wait::wait(options),
        Command::Break(options) => command::break_lock::break_lock(options),
        Command::Prune(options) => command::prune::prune(options),
        Command::Path(options) => command::path::path(options),
        Command::Flock(line) => command::flock::flock(line),
        Command::Completions(options) => command::completions::completions(&options),
        Command::Help(text) => command::help::help(&text),
    }
}
