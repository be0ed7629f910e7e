//! lockrun: run a command, but never twice at once.
//!
//! From argv to exit code, top to bottom:
//!
//! - [`cli`]: what can be typed
//! - [`command`]: what it means, one file per subcommand
//! - [`lock`]: engines that grant locks
//! - [`child`]: COMMAND, from waiting for its turn to its end
//! - [`keeper`]: the process behind a token, and how it is spoken to
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
pub mod process;
pub mod record;
pub mod sys;
pub mod table;
pub mod token;
pub mod users;
pub mod waiting;

/// Does what the command line says. Returns the exit code, unless the process
/// ends by a signal.
pub fn main() -> u8 {
    let exit = match cli::parse(sys::arguments()) {
        Ok(subcommand) => do_subcommand(subcommand),
        Err(exit) => exit,
    };
    exit.finish()
}

fn do_subcommand(command: cli::Command) -> exit::Exit {
    if !matches!(command, cli::Command::Run(_) | cli::Command::Acquire(_)) {
        sys::ignore_requests();
    }
    match command {
        cli::Command::Run(options) => command::run::run(*options),
        cli::Command::Acquire(options) => command::acquire::acquire(*options),
        cli::Command::Release(options) => command::release::release(&options),
        cli::Command::Renew(options) => command::renew::renew(&options),
        cli::Command::Check(options) => command::check::check(&options),
        cli::Command::List(options) => command::list::list(options),
        cli::Command::Status(options) => command::status::status(options),
        cli::Command::Wait(options) => command::wait::wait(options),
        cli::Command::Break(options) => command::break_lock::break_lock(options),
        cli::Command::Prune(options) => command::prune::prune(options),
        cli::Command::Path(options) => command::path::path(options),
        cli::Command::Completions(options) => command::completions::completions(&options),
    }
}
