//! `lockrun path`: the lock file of a name, for scripts that open it
//! themselves.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Result, bail};

use super::request::DIR;
use super::stdout;
use crate::cli;
use crate::exit::Exit;
use crate::lock::file::{self, Dir};

/// Makes the file if it is missing and prints its absolute path.
///
/// # Errors
/// Not one name, or its file cannot be made.
pub fn path(options: cli::LockPath) -> Result<Exit> {
    let mut names = options.lock.into_iter().chain(options.name);
    let (Some(name), None) = (names.next(), names.next()) else {
        bail!("which lock? lockrun path NAME, one of them; see 'lockrun path --help'");
    };
    if name.is_empty() {
        bail!("the lock's name is empty");
    }
    let dir = match options.dir.or_else(|| std::env::var_os(DIR).map(Into::into)) {
        Some(dir) => Dir::given(&dir)?,
        None => Dir::default_of_user()?,
    };
    let path = file::make_lock_file(&dir, &name.into_vec())?;
    stdout::print([path.as_os_str().as_bytes(), b"\n"].concat())?;
    Ok(Exit::Ok)
}
