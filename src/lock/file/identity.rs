//! Which file a path leads to: device and inode, the same for every spelling.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Stat, stat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

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
    /// What is at the path of a lock file now, not following a link; `None` if
    /// nothing is.
    ///
    /// # Errors
    /// `EACCES`, `EIO`.
    pub fn at(dir: impl AsFd, name: impl Arg) -> rustix::io::Result<Option<Self>> {
        found(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// What a path of the user's leads to now, following links; `None` if
    /// nothing is there.
    ///
    /// # Errors
    /// `EACCES`, `EIO`.
    pub fn behind(path: &Path) -> rustix::io::Result<Option<Self>> {
        found(stat(path))
    }
}

fn found(stat: rustix::io::Result<Stat>) -> rustix::io::Result<Option<Identity>> {
    match stat {
        Ok(stat) => Ok(Some(Identity::from(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(e),
    }
}
