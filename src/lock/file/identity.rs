//! The identity of a file: device and inode, the same for every spelling of its path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, stat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::sys;

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl From<&Stat> for Identity {
    fn from(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

impl Identity {
    /// The file that is at a lock file's path now, without following links.
    /// Errors: `EACCES`, `EIO`.
    pub fn at(dir: impl AsFd, name: impl Arg) -> rustix::io::Result<Option<Self>> {
        found(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// The file that a user's path leads to now, following links.
    /// Errors: `EACCES`, `EIO`.
    pub fn behind(path: &Path) -> rustix::io::Result<Option<Self>> {
        found(stat(path))
    }
}

/// A path that leads from any working directory to where it leads from this one.
///
/// A relative path begins at a descriptor. The absolute path need not lead there:
/// a directory above may not be searched, or was mounted over.
#[derive(Clone)]
pub struct Location {
    start: Option<Arc<OwnedFd>>,
    path: PathBuf,
}

impl Location {
    /// The location of this path now.
    /// Errors: `EMFILE`; `EACCES`: the working directory may not be searched.
    pub fn new(path: &Path) -> rustix::io::Result<Self> {
        let here = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(Arc::new(sys::above_stdio(rustix::fs::open(".", flags, Mode::empty())?)?))
        };
        let start = if path.is_relative() { Some(here()?) } else { None };
        Ok(Self { start, path: path.to_owned() })
    }

    pub fn join(&self, name: &str) -> Self {
        Self { start: self.start.clone(), path: self.path.join(name) }
    }

    pub fn file(&self) -> rustix::io::Result<Option<Identity>> {
        Identity::at(self.start(), &self.path)
    }

    pub fn target(&self) -> rustix::io::Result<Option<Identity>> {
        found(statat(self.start(), &self.path, AtFlags::empty()))
    }

    fn start(&self) -> BorrowedFd<'_> {
        self.start.as_ref().map_or(CWD, |start| start.as_fd())
    }
}

fn found(stat: rustix::io::Result<Stat>) -> rustix::io::Result<Option<Identity>> {
    match stat {
        Ok(stat) => Ok(Some(Identity::from(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(e),
    }
}
