//! `lockrun help`, `--help`, `--version`: texts on stdout.

use anyhow::Result;

use super::stdout;
use crate::exit::Exit;

/// Prints `text`. Fails if stdout is closed or full: the help was not shown.
pub fn help(text: &str) -> Result<Exit> {
    stdout::print(text)?;
    Ok(Exit::Ok)
}
