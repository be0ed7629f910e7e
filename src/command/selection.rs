//! Which locks a command is about that takes none.

use std::os::unix::ffi::OsStringExt;

use anyhow::{Result, bail};

use crate::cli;
use crate::lock::{LockState, Seen, Store, Target, UserPath};

use super::engine::{AnyStore, Location};

/// Locks that a command is about, and where they are.
pub struct SelectedLocks {
    pub store: AnyStore,
    /// The locks that were named; none: all.
    pub targets: Vec<Target>,
}

impl SelectedLocks {
    pub fn new(which: cli::Selection) -> Result<Self> {
        let names: Vec<_> = which.lock.into_iter().chain(which.name).collect();
        if names.iter().any(|name| name.is_empty()) {
            bail!("the lock's name is empty");
        }
        if which.file.iter().any(|path| path.as_os_str().is_empty()) {
            bail!("the path of --file is empty: name a file or directory");
        }
        let location = Location { dir: which.dir, store: which.store, has_files: !which.file.is_empty() };
        let named = names.into_iter().map(|name| Target::Name(name.into_vec()));
        let targets = named.chain(which.file.into_iter().map(UserPath::new).map(Target::Path)).collect();
        Ok(Self { store: AnyStore::choose(location)?, targets })
    }

    /// Looks at the named locks in this order, or at all, sorted by name.
    pub fn look(&self) -> Result<Vec<Seen>> {
        self.store.look(&self.targets)
    }

    /// As [`look`](Self::look), but fails if it cannot see whether a lock is held.
    pub fn look_closely(&self) -> Result<Vec<Seen>> {
        let seen = self.look()?;
        match seen.iter().find(|seen| seen.state == LockState::Unknown) {
            Some(seen) => bail!("{}: whether it is held cannot be seen from here", seen.path.display()),
            None => Ok(seen),
        }
    }

    /// Fails if the locks could not be taken at all: see [`Store::require_usable`].
    pub fn require_usable(&self) -> Result<()> {
        self.store.require_usable(&self.targets)
    }
}
