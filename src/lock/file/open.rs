//! Opening lock files: nothing that is not a plain file of this directory is
//! opened, followed, truncated or changed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, statat};
use rustix::io::Errno;

use super::dir::{Dir, open_at};
use super::identity::Identity;
use crate::advice::Advice;
use crate::sys;

/// A file of ours in the locks directory.
pub struct Opened {
    pub file: File,
    pub identity: Identity,
    /// Whether texts and byte-range locks are possible; not on a read-only
    /// file system.
    pub writable: bool,
}

/// Opens a lock file, and makes it if it is missing.
///
/// # Errors
/// A symbolic link, FIFO, socket, device or directory at its place; more
/// than one link to it; no permission; no space for a new file.
pub fn lock_file(dir: &Dir, name: &str) -> Result<Opened> {
    try_lock_file(dir, name).with_context(|| shown(dir, name).to_string())
}

fn shown(dir: &Dir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

fn try_lock_file(dir: &Dir, name: &str) -> Result<Opened> {
    loop {
        if let Some(opened) = try_existing(dir, name)? {
            return Ok(opened);
        }
        match create(dir, name) {
            Ok(opened) => return Ok(opened),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e).context("cannot create it").context(Advice::new(advice(e))),
        }
    }
}

/// Opens a lock file if there is one.
///
/// # Errors
/// As [`lock_file`].
pub fn existing_lock_file(dir: &Dir, name: &str) -> Result<Option<Opened>> {
    try_existing(dir, name).with_context(|| shown(dir, name).to_string())
}

fn try_existing(dir: &Dir, name: &str) -> Result<Option<Opened>> {
    loop {
        // Looked at before it is opened: opening alone can already change
        // something about a FIFO or a device.
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => require_plain(&stat)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e).context("cannot look at it").context(Advice::new(advice(e))),
        }
        let open = |flags| match open_at(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the file's owner may have it that no look at the text is
            // written down.
            Err(Errno::PERM) => open_at(dir, name, flags, Mode::empty()),
            other => other,
        };
        // Without O_CREAT: with fs.protected_regular that is refused for
        // another user's file in a sticky directory, even to root.
        let (fd, writable) = match open(OFlags::RDWR) {
            Ok(fd) => (fd, true),
            Err(Errno::ROFS) => match open(OFlags::RDONLY) {
                Ok(fd) => (fd, false),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e).context("cannot open it").context(Advice::new(advice(e))),
            },
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e).context("cannot open it for reading and writing").context(Advice::new(advice(e))),
        };
        let stat = fstat(&fd).context("cannot look at it")?;
        require_plain(&stat)?;
        match stat.st_nlink {
            0 => continue,
            1 => {}
            _ => bail!("has other hard links; a lock file has one link, so that it cannot be somebody else's file"),
        }
        return Ok(Some(Opened { file: fd.into(), identity: Identity::from(&stat), writable }));
    }
}

fn create(dir: &Dir, name: &str) -> rustix::io::Result<Opened> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    // The mode follows the directory whatever the umask, and is right from
    // the first moment: another user may open the file in the next one.
    let fd = sys::without_umask(|| open_at(dir, name, flags, dir.file_mode()))?;
    let stat = fstat(&fd)?;
    if let Some(group) = dir.file_group(&stat) {
        // Fails where we are not a member: then the group cannot use it.
        let _ = rustix::fs::fchown(&fd, None, Some(group));
    }
    Ok(Opened { file: fd.into(), identity: Identity::from(&stat), writable: true })
}

pub(super) fn require_plain(stat: &Stat) -> Result<()> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown type",
    };
    bail!("is {kind}, not a lock file; nothing was changed: remove it or use another name")
}

fn advice(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS | Errno::PERM => "use a locks directory that you may write to (--dir, LOCKRUN_DIR)",
        Errno::NOSPC | Errno::DQUOT => "make room, or use another --dir",
        Errno::ROFS => "the file system is read-only: use another --dir",
        Errno::MFILE | Errno::NFILE => "too many open files: raise the limit",
        _ => "use another --dir",
    }
}

/// Opens the file or directory of `--file` as flock(1) does: it is followed
/// if a link, made if missing, and only locked.
///
/// # Errors
/// No permission, a missing directory, a dangling path.
pub fn user_file(path: &Path) -> Result<Opened> {
    let open = |flags: OFlags| {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        sys::above_stdio(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?)
    };
    let fd = match open(OFlags::RDONLY) {
        // Made only if missing, see above.
        Err(Errno::NOENT) => open(OFlags::RDONLY | OFlags::CREATE),
        Err(Errno::ACCESS) => open(OFlags::WRONLY),
        other => other,
    };
    let opened = fd.and_then(|fd| Ok((fstat(&fd)?, fd))).with_context(|| format!("cannot open {}", path.display()));
    let (stat, fd) = opened.context(Advice::new("give --file a path that you may read, or that can be made"))?;
    Ok(Opened { file: fd.into(), identity: Identity::from(&stat), writable: false })
}

/// Opens the same file again for writing too, which network file systems ask
/// of an exclusive lock.
///
/// # Errors
/// No permission.
pub fn user_file_for_writing(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    sys::above_stdio(rustix::fs::open(path, flags, Mode::empty())?)
}
