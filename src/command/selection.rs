//! Which locks a command is about that takes none.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cli;
use crate::lock::Target;
use crate::lock::file::{Dir, Survey};
use crate::lock::{LockState, Seen};

use super::request::DIR;

/// The locks directory: the given one, the environment's, or the user's own;
/// `None` if there is none yet, and so no lock with a name.
///
/// # Errors
/// See [`Dir::given`] and [`Dir::default_of_user`].
pub fn dir(given: Option<PathBuf>) -> Result<Option<Dir>> {
    match given.or_else(|| std::env::var_os(DIR).map(PathBuf::from)) {
        Some(path) => Dir::given_if_any(&path),
        None => Dir::default_of_user_if_any(),
    }
}

/// Locks, and where their files are.
pub struct SelectedLocks {
    /// The directory, if there is one yet.
    pub dir: Option<Dir>,
    /// Those that were named; none: all.
    pub targets: Vec<Target>,
}

impl SelectedLocks {
    /// Understands the words.
    ///
    /// # Errors
    /// A name or path that is empty, or a directory that cannot be used.
    pub fn new(which: cli::Selection) -> Result<Self> {
        if which.lock.iter().any(|name| name.is_empty()) {
            bail!("the lock's name is empty");
        }
        if which.file.iter().any(|path| path.as_os_str().is_empty()) {
            bail!("the path of --file is empty: name a file or directory");
        }
        let named = which.lock.into_iter().map(|name| Target::Name(name.into_vec()));
        let targets = named.chain(which.file.into_iter().map(Target::Path)).collect();
        Ok(Self { dir: dir(which.dir)?, targets })
    }

    /// Looks at the ones that were named, in this order, or at all, by name.
    ///
    /// # Errors
    /// One of them is no lock, or cannot be looked at.
    pub fn look(&self) -> Result<Vec<Seen>> {
        let survey = Survey::new(self.dir.as_ref());
        if self.targets.is_empty() {
            return survey.all();
        }
        self.targets.iter().map(|target| survey.of(target)).collect()
    }

    /// As [`look`](Self::look), for those who decide by it.
    ///
    /// # Errors
    /// As [`look`](Self::look); or whether it is held cannot be seen.
    pub fn look_closely(&self) -> Result<Vec<Seen>> {
        let seen = self.look()?;
        match seen.iter().find(|seen| seen.state == LockState::Unknown) {
            Some(seen) => bail!("{}: whether it is held cannot be seen from here", seen.path.display()),
            None => Ok(seen),
        }
    }

    /// Whether the locks could be taken at all.
    ///
    /// # Errors
    /// See [`Survey::require_usable`].
    pub fn require_usable(&self) -> Result<()> {
        let survey = Survey::new(self.dir.as_ref());
        self.targets.iter().try_for_each(|target| survey.require_usable(target))
    }
}
