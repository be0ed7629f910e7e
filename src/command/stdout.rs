//! Data for stdout.

use std::io::Write;

use anyhow::{Context, Result};

/// Prints all of it.
///
/// # Errors
/// stdout is closed, or full.
pub fn print(data: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(data.as_ref()).and_then(|()| stdout.flush()).context("cannot print to stdout")
}
