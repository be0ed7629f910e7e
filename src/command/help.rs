//! `lockrun help`, `--help`, `--version`: texts on stdout.

use anyhow::Result;

use super::stdout;
use crate::exit::Exit;

/// Prints the text that was asked for.
///
/// # Errors
/// stdout is closed, or full: then the help has not been shown.
pub fn help(text: &str) -> Result<Exit> {
    stdout::print(text)?;
    Ok(Exit::Ok)
}
