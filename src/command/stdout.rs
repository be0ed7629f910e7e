//! Data for stdout.

use std::io::Write;

use anyhow::{Context, Result};

/// Prints all of it.
///
/// # Errors
/// stdout is closed, or full.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot print to stdout")
}
