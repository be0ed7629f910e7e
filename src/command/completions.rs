//! `lockrun completions`: what a shell needs to complete our command line.

use crate::cli::{self, Shell};
use crate::exit::Exit;
use crate::message;

use super::stdout;

/// Prints the script that packages install.
pub fn completions(options: &cli::Completions) -> Exit {
    let script = match options.shell {
        Shell::Bash => include_str!("../../completions/lockrun.bash"),
        Shell::Zsh => include_str!("../../completions/_lockrun"),
        Shell::Fish => include_str!("../../completions/lockrun.fish"),
    };
    match stdout::print(script) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            message::tell_error(&error);
            Exit::Failed
        }
    }
}
