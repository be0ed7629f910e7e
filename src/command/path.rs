//! `lockrun path`: the lock file of a name, for scripts that open it.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Result, bail};

use super::{engine, stdout};
use crate::cli;
use crate::escape::printable;
use crate::exit::Exit;
use crate::message;

/// Makes the file if it is missing and prints its absolute path.
pub fn path(options: cli::LockPath) -> Result<Exit> {
    let mut names = options.lock.into_iter().chain(options.name);
    let (Some(name), None) = (names.next(), names.next()) else {
        bail!(cli::UsageError::form("which lock? give exactly one", "lockrun path NAME", "path"));
    };
    if name.is_empty() {
        bail!("the lock's name is empty");
    }
    let (path, warnings) = engine::make_lock_file(options.dir, &name.into_vec())?;
    warnings.iter().for_each(|warning| message::tell(&printable(warning.as_bytes())));
    stdout::print([path.as_os_str().as_bytes(), b"\n"].concat())?;
    Ok(Exit::Ok)
}
