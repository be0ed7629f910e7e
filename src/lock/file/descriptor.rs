//! The caller's own descriptor and its file.
//!
//! A lock on it belongs to the caller's open file description: it outlives us, follows
//! the description into every process that inherits it, and ends with the last copy. So
//! a lock that we take and do not grant must be released explicitly.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FileType, OFlags, Stat, fcntl_getfl, fstat, fstatfs};
use rustix::io::Errno;

use super::dir::Dir;
use super::identity::Identity;
use super::lock_file::LockFile;
use super::open::{self, Opened};
use crate::advice::Advice;
use crate::lock::{Descriptor, Rules, Target};
use crate::record::{self, Text};
use crate::sys;

const RECIPE: Advice = Advice::new("open a lock file first: exec 9<>\"$(lockrun path NAME)\" || exit");

const RECIPE_IF_CLOSED: Advice = Advice::new(
    "open a lock file first: exec 9<>\"$(lockrun path NAME)\" || exit; \
     ksh and mksh close it for programs, there write ( ... ) 9<>FILE",
);

/// Inspects a descriptor. Called before any other file is opened, because the next file
/// would get a closed number.
/// Errors: it is closed, or not a regular file or directory.
pub fn look_at(number: RawFd) -> Result<Descriptor> {
    let opened = open(number)?;
    match opened.what_cannot_be_locked() {
        Some(kind) => Err(anyhow!("descriptor {number} is {kind}, which cannot be a lock")).context(RECIPE),
        None => Ok(described(number, &opened, Rules::Ours)),
    }
}

/// As [`look_at`], for anything that flock(2) can lock.
/// Errors: it is closed.
pub fn look_at_any(number: RawFd) -> Result<Descriptor> {
    Ok(described(number, &open(number)?, Rules::Flocks))
}

fn described(number: RawFd, opened: &Opened, rules: Rules) -> Descriptor {
    let path = path_of(&opened.file);
    let name = path.as_ref().map_or_else(
        || format!("descriptor {number}").into_bytes(),
        |path| path.as_os_str().as_encoded_bytes().to_vec(),
    );
    Descriptor { number, path, name, rules }
}

/// Whether it can have a queue, which needs a file with an inode of its own.
pub fn can_have_queue(number: RawFd) -> bool {
    open(number).is_ok_and(|opened| opened.what_cannot_be_locked().is_none())
}

/// Duplicates the descriptor, on the same description.
/// Errors: it is closed.
pub fn open(number: RawFd) -> Result<Opened> {
    let file: File = sys::duplicate(number)
        .map_err(|_| anyhow!("descriptor {number} is not open"))
        .context(RECIPE_IF_CLOSED)?
        .into();
    let stat = fstat(&file).with_context(|| format!("cannot look at descriptor {number}"))?;
    Ok(Opened { file, identity: Identity::from(&stat), writable: false })
}

/// Opens a file or directory as [`open::user_file`] does, to lock its descriptor.
/// Errors: no permission, a missing directory, no space.
pub fn open_file(path: &Path) -> Result<File, Errno> {
    let errno = |error: anyhow::Error| error.root_cause().downcast_ref().copied().unwrap_or(Errno::IO);
    open::user_file(path).map(|opened| opened.file).map_err(errno)
}

/// Opens the file again, on a new description.
/// Errors: no permission to read it; no /proc.
pub fn open_again(file: &File) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(format!("/proc/self/fd/{}", file.as_raw_fd()), flags, rustix::fs::Mode::empty())?;
    Ok(sys::above_stdio(opened)?.into())
}

impl Opened {
    fn what_cannot_be_locked(&self) -> Option<&'static str> {
        fstat(&self.file).map_or(Some("no file"), |stat| what_cannot_be_locked(&self.file, &stat))
    }
}

fn what_cannot_be_locked(file: &File, stat: &Stat) -> Option<&'static str> {
    let is_path_only = fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::PATH));
    match FileType::from_raw_mode(stat.st_mode) {
        _ if is_path_only => Some("only a path (O_PATH)"),
        FileType::RegularFile if stat.st_nlink == 0 && is_memfd(file) => Some("a memfd"),
        FileType::RegularFile | FileType::Directory => None,
        FileType::Fifo => Some("a pipe"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice if rustix::termios::isatty(file) => Some("a terminal"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        FileType::Symlink | FileType::Unknown => Some("no file"),
    }
}

fn is_memfd(file: &File) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const HUGETLBFS: u32 = 0x9584_58f6;
    // A regular path like this could only be in the root directory.
    shown_path(file).is_some_and(|path| path.as_os_str().as_encoded_bytes().starts_with(b"/memfd:"))
        && fstatfs(file).is_ok_and(|fs| [TMPFS, HUGETLBFS].contains(&(fs.f_type as u32)))
}

/// Whether an open file is certainly at no path any more, or not at this one.
pub fn is_removed(file: &Opened, path: Option<&Path>) -> bool {
    let is_elsewhere =
        |path: &Path| path.is_absolute() && Identity::behind(path).is_ok_and(|now| now != Some(file.identity));
    fstat(&file.file).is_ok_and(|stat| stat.st_nlink == 0) || path.is_some_and(is_elsewhere)
}

/// The number N of `/dev/fd/N` or `/proc/self/fd/N`.
pub fn number_in(path: &Path) -> Option<RawFd> {
    let digits = ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|start| path.to_str()?.strip_prefix(start))?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The path of an open file in /proc; the former path of a removed one.
fn path_of(file: &File) -> Option<PathBuf> {
    // A relative one is outside of our root, or no path at all.
    let path = shown_path(file).filter(|path| path.is_absolute())?;
    let before_its_removal = path.as_os_str().as_encoded_bytes().strip_suffix(b" (deleted)");
    let is_removed = fstat(file).is_ok_and(|stat| stat.st_nlink == 0);
    Some(before_its_removal.filter(|_| is_removed).map_or_else(|| path.clone(), |path| OsStr::from_bytes(path).into()))
}

fn shown_path(file: impl AsFd) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())).ok()
}

/// Names the descriptor after its lock, if its file is a lock file.
pub fn named_in(dir: Option<&Dir>, descriptor: Descriptor) -> Result<Descriptor> {
    let Some(dir) = dir else { return Ok(descriptor) };
    let opened = open(descriptor.number)?;
    let name = own_lock_file(dir, &opened.file, opened.identity).and_then(|own| own.name());
    Ok(match name {
        Some(name) => Descriptor { name, ..descriptor },
        None => descriptor,
    })
}

/// Requires that the descriptor is open on this lock's file.
/// Errors: it is open on another one.
pub fn require_of(dir: Option<&Dir>, descriptor: &Descriptor, target: &Target) -> Result<()> {
    let identity = open(descriptor.number)?.identity;
    let (there, path) = match (target, dir) {
        (Target::Name(name), Some(dir)) => {
            let file_name = LockFile::of_name(name).file_name();
            (Identity::at(dir, &file_name), dir.path_of(&file_name))
        }
        (Target::Path(path), _) => (Identity::behind(path.given()), path.absolute().to_owned()),
        (Target::Name(_), None) | (Target::Descriptor(_), _) => return Ok(()),
    };
    if there.with_context(|| format!("cannot look at {}", path.display()))? == Some(identity) {
        return Ok(());
    }
    Err(anyhow!("descriptor {} is not open on {}", descriptor.number, path.display())).context(RECIPE)
}

/// The file with the queue of an open file: the file itself if it is the lock file of a
/// name, so that name, path and descriptor are one lock.
pub fn queue_of(dir: &Dir, file: impl AsFd, identity: Identity) -> LockFile {
    own_lock_file(dir, file, identity).unwrap_or(LockFile::Gate(identity))
}

/// The name of an open file, if it is a lock file of `dir`.
pub fn own_lock_file(dir: &Dir, file: impl AsFd, identity: Identity) -> Option<LockFile> {
    let path = shown_path(file)?;
    let file_name = path.file_name()?.to_str()?;
    let own = LockFile::parse(file_name).filter(|own| matches!(own, LockFile::Named(_)))?;
    if Identity::at(dir, file_name) != Ok(Some(identity)) {
        return None;
    }
    // A foreign file can have such a name; it is locked, but never written to.
    let (text, _) = open::lock_file_to_look_at(dir, file_name).ok()?;
    (record::read(&text) != Text::Foreign).then_some(own)
}
