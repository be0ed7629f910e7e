//! Opening lock files. Only plain files of the locks directory are opened; links are
//! never followed, and foreign files never truncated or changed. [`file_named`] applies
//! the same care to paths that another user may have written there.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, lstat, statat};
use rustix::io::Errno;

use super::dir::{Dir, open_at};
use super::identity::Identity;
use crate::advice::Advice;
use crate::sys;

pub struct Opened {
    pub file: File,
    pub identity: Identity,
    /// Whether records and byte-range locks are possible: not on a read-only file
    /// system.
    pub writable: bool,
}

/// A file is not removed and made again more often in a row, between two system
/// calls.
const MOST_TRIES: u32 = 100;
const CONTRADICTION: &str = "it keeps appearing and disappearing: check what removes it, or its file system";

#[derive(Debug)]
pub struct NotPlain(&'static str);

impl fmt::Display for NotPlain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("has other hard links, so it may be somebody else's file; nothing was changed"),
            kind => write!(f, "is {kind}, not a lock file; nothing was changed"),
        }
    }
}

impl std::error::Error for NotPlain {}

/// Opens a lock file, and creates it if it is missing.
/// Errors: [`NotPlain`]; no permission; no space for a new file.
pub fn lock_file(dir: &Dir, name: &str) -> Result<Opened> {
    try_lock_file(dir, name).with_context(|| shown(dir, name).to_string())
}

fn shown(dir: &Dir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

fn try_lock_file(dir: &Dir, name: &str) -> Result<Opened> {
    for _ in 0..MOST_TRIES {
        if let Some(opened) = try_existing(dir, name)? {
            return Ok(opened);
        }
        match create(dir, name) {
            Ok(opened) => return Ok(opened),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e).context("cannot create it").context(Advice::new(advice(e))),
        }
    }
    bail!(CONTRADICTION)
}

pub fn existing_lock_file(dir: &Dir, name: &str) -> Result<Option<Opened>> {
    try_existing(dir, name).with_context(|| shown(dir, name).to_string())
}

/// Opens a lock file if it exists and is plain, permitted and writable.
/// Errors: `EIO`, too many open files.
pub fn usable_lock_file(dir: &Dir, name: &str) -> Result<Option<Opened>> {
    match existing_lock_file(dir, name) {
        Err(e) if e.is::<NotPlain>() || matches!(e.downcast_ref(), Some(&(Errno::ACCESS | Errno::PERM))) => Ok(None),
        Ok(Some(opened)) if !opened.writable => Ok(None),
        other => other,
    }
}

/// Opens a lock file for inspection, and for writing where permitted (`true`).
/// Errors: `ENOENT`: there is no plain file with one link.
pub fn lock_file_to_look_at(dir: &Dir, name: &str) -> rustix::io::Result<(File, bool)> {
    let is_plain = |stat: &Stat| require_plain(stat).is_ok() && stat.st_nlink > 0;
    if !is_plain(&statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?) {
        return Err(Errno::NOENT);
    }
    let (fd, writable) = match open_at(dir, name, OFlags::RDWR, Mode::empty()) {
        Ok(fd) => (fd, true),
        Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) => (open_at(dir, name, OFlags::RDONLY, Mode::empty())?, false),
        Err(e) => return Err(e),
    };
    if !is_plain(&fstat(&fd)?) {
        return Err(Errno::NOENT);
    }
    Ok((fd.into(), writable))
}

fn try_existing(dir: &Dir, name: &str) -> Result<Option<Opened>> {
    for _ in 0..MOST_TRIES {
        // Checked before opening, because opening a FIFO or a device can have effects.
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => require_plain(&stat)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e).context("cannot look at it").context(Advice::new(advice(e))),
        }
        let open = |flags| match open_at(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            // O_NOATIME is only allowed for the file's owner.
            Err(Errno::PERM) => open_at(dir, name, flags, Mode::empty()),
            other => other,
        };
        // Without O_CREAT: fs.protected_regular refuses it for another user's file in a
        // sticky directory, even to root.
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
        // Some file systems count no links.
        if stat.st_nlink == 0 && Identity::at(dir, name) != Ok(Some(Identity::from(&stat))) {
            continue;
        }
        return Ok(Some(Opened { file: fd.into(), identity: Identity::from(&stat), writable }));
    }
    bail!(CONTRADICTION)
}

fn create(dir: &Dir, name: &str) -> rustix::io::Result<Opened> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    // The mode follows the directory whatever the umask, from the first moment on:
    // another user may open the file in the next one.
    let fd = sys::without_umask(|| open_at(dir, name, flags, dir.file_mode()))?;
    let stat = fstat(&fd)?;
    if let Some(group) = dir.file_group(&stat) {
        // Fails unless we are a member; then the group cannot use the lock.
        let _ = rustix::fs::fchown(&fd, None, Some(group));
    }
    Ok(Opened { file: fd.into(), identity: Identity::from(&stat), writable: true })
}

/// Errors: [`NotPlain`].
pub(super) fn require_plain(stat: &Stat) -> Result<()> {
    not_plain(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink > 1 => "",
        FileType::RegularFile => return Ok(()),
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown type",
    })
}

fn not_plain<T>(kind: &'static str) -> Result<T> {
    Err(NotPlain(kind)).context(Advice::new("remove it or use another name"))
}

fn advice(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS | Errno::PERM => "use a locks directory that you may write to (--dir, LOCKRUN_DIR)",
        Errno::NOSPC | Errno::DQUOT => "make room, or use another --dir",
        Errno::MFILE | Errno::NFILE => "raise the limit (ulimit -n)",
        _ => "use another --dir",
    }
}

/// Opens the file or directory of `--file` as flock(1) does: follows links, creates a
/// missing file, and never writes to it.
/// Errors: no permission, a missing directory, a dangling path.
pub fn user_file(path: &Path) -> Result<Opened> {
    let open = |flags: OFlags| {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        sys::above_stdio(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?)
    };
    let fd = match open(OFlags::RDONLY) {
        // Without O_CREAT first: see `try_existing`.
        Err(Errno::NOENT) => open(OFlags::RDONLY | OFlags::CREATE),
        Err(Errno::ACCESS) => open(OFlags::WRONLY),
        other => other,
    };
    let opened = fd.and_then(|fd| Ok((fstat(&fd)?, fd))).with_context(|| format!("cannot open {}", path.display()));
    let (stat, fd) = opened.context(Advice::new("give --file a path that you may read, or that can be made"))?;
    Ok(Opened { file: fd.into(), identity: Identity::from(&stat), writable: false })
}

/// Finds the file or directory that a lock file's text names by this path, if it has
/// this identity. Uses `O_PATH`, because opening a FIFO or a device can have effects,
/// and anyone with write access to the locks directory can name one.
pub fn file_named(path: &Path, identity: Identity) -> Option<OwnedFd> {
    let found =
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).and_then(sys::above_stdio).ok()?;
    let stat = fstat(&found).ok()?;
    let is_plain = matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory);
    (is_plain && Identity::from(&stat) == identity).then_some(found)
}

/// Opens what [`file_named`] found, even if the path leads elsewhere by now.
/// Errors: no permission; no /proc.
pub fn open_found(found: &OwnedFd) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(sys::above_stdio(rustix::fs::open(path, flags, Mode::empty())?)?.into())
}

/// Opens a plain file for reading; `None` for anything else.
pub fn plain_file(path: &Path) -> Option<File> {
    require_plain(&lstat(path).ok()?).ok()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    require_plain(&fstat(&file).ok()?).ok()?;
    Some(file.into())
}

/// Opens the file for writing, as network file systems require for an exclusive lock.
/// Errors: no permission.
pub fn user_file_for_writing(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    sys::above_stdio(rustix::fs::open(path, flags, Mode::empty())?)
}
