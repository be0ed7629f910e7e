//! Data for stdout.

use anyhow::{Context, Result};
use rustix::io::Errno;

/// Prints all of `data`. Fails if stdout is closed or full; std would ignore a closed
/// one.
pub fn print(data: impl AsRef<[u8]>) -> Result<()> {
    let mut rest = data.as_ref();
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot print to stdout"),
        }
    }
    Ok(())
}
