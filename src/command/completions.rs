//! `lockrun completions`: what a shell needs to complete our command line.

use anyhow::Result;

use crate::cli::{self, Shell};
use crate::exit::Exit;

use super::stdout;

/// Prints the script that packages install.
///
/// # Errors
/// stdout is closed, or full.
pub fn completions(options: &cli::Completions) -> Result<Exit> {
    let script = match options.shell {
        Shell::Bash => include_str!("../../completions/lockrun.bash"),
        Shell::Zsh => include_str!("../../completions/_lockrun"),
        Shell::Fish => include_str!("../../completions/lockrun.fish"),
    };
    stdout::print(script)?;
    Ok(Exit::Ok)
}
