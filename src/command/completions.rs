//! `lockrun completions`: the completion script of a shell.

use anyhow::Result;

use crate::cli::{self, Shell};
use crate::exit::Exit;

use super::stdout;

/// Prints the script that packages install.
pub fn completions(options: &cli::Completions) -> Result<Exit> {
    let script = match options.shell {
        Shell::Bash => include_str!("../../completions/lockrun.bash"),
        Shell::Zsh => include_str!("../../completions/_lockrun"),
        Shell::Fish => include_str!("../../completions/lockrun.fish"),
    };
    stdout::print(script)?;
    Ok(Exit::Ok)
}
