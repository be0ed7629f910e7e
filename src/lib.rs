//! lockrun: run a command, but never twice at once.
//!
//! From argv to exit code, top to bottom:
//!
//! - [`cli`]: what can be typed
//! - [`command`]: what it means, one file per subcommand
//! - [`lock`]: engines that grant locks
//! - [`child`]: COMMAND, from waiting for its turn to its end
//! - [`keeper`]: the process behind a token, and how it is spoken to
//! - `net`: connections to servers, names and TLS (with the feature `net`)
//! - [`waiting`], [`message`], [`table`]: what people see
//! - [`advice`], [`process`], [`name`], [`record`], [`token`], [`duration`], [`escape`], [`users`], [`exit`]:
//!   values and their text forms
//! - [`sys`]: the system calls that need `unsafe`
//!
//! The library exists for the binary, its tests and its man pages. It is no
//! stable interface.

#![deny(unsafe_code, missing_docs)]

pub mod advice;
pub mod child;
pub mod cli;
pub mod command;
pub mod duration;
pub mod escape;
pub mod exit;
pub mod keeper;
pub mod lock;
pub mod message;
pub mod name;
#[cfg(feature = "net")]
pub mod net;
pub mod process;
pub mod record;
pub mod sys;
pub mod table;
pub mod token;
pub mod users;
pub mod waiting;

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
