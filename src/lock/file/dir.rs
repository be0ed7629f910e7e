//! The locks directory: its location, its permissions, and the mode of its files.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Mode, OFlags, Stat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::identity::{Identity, Location};
use crate::advice::Advice;
use crate::sys;
use crate::users;

/// An open locks directory.
#[derive(Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    given: PathBuf,
    location: Location,
    /// For people, and for records that are read in other directories.
    path: PathBuf,
    was_made: bool,
    /// From [`default_of_user`](Self::default_of_user).
    is_default: bool,
    stat: Stat,
}

impl Dir {
    /// Opens the user's choice of directory, and creates it and its parents (mode 0700)
    /// if it is missing.
    /// Errors: not a directory, no permission, no space.
    pub fn given(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            bail!("the locks directory is empty: give --dir or set LOCKRUN_DIR to a directory");
        }
        Self::open_or_make(path)
            .with_context(|| format!("cannot use the locks directory {}", path.display()))
            .context(Advice::new("check it, or give another --dir"))
    }

    /// As [`given`](Self::given) for commands that only inspect: they create nothing.
    /// Errors: also if it is missing: a typing error is not an empty directory.
    pub fn given_to_look(path: &Path) -> Result<Self> {
        if is_missing(path) {
            return Err(anyhow!("the locks directory {} does not exist", path.display()))
                .context(Advice::new("check --dir and LOCKRUN_DIR; a run creates it"));
        }
        Self::given(path)
    }

    /// As [`default_of_user`](Self::default_of_user), or `None` if it is
    /// missing.
    pub fn default_of_user_if_any() -> Result<Option<Self>> {
        let missing = Dir::default_path().is_ok_and(|path| is_missing(&path));
        if missing { Ok(None) } else { Self::default_of_user().map(Some) }
    }

    /// Opens the directory of this user id, whatever the environment: /run/lockrun for
    /// root, .local/state/lockrun in the home of others (the XDG state directory at its
    /// default place).
    /// Errors: as [`given`](Self::given); also if another user owns it or may write to it, and
    /// so could remove our locks.
    pub fn default_of_user() -> Result<Self> {
        let advice = || Advice::new("give --dir or set LOCKRUN_DIR");
        let path = Dir::default_path().context(advice())?;
        let dir = Self::open_or_make(&path)
            .with_context(|| format!("cannot use the locks directory {}", path.display()))
            .context(advice())?;
        let shown = path.display();
        if dir.stat.st_uid != geteuid().as_raw() {
            return Err(anyhow!("the locks directory {shown} belongs to user {}, not to us", dir.stat.st_uid))
                .context(advice());
        }
        if dir.stat.st_mode & 0o022 != 0 {
            return Err(anyhow!("others may write to the locks directory {shown}")).context(advice());
        }
        Ok(Self { is_default: true, ..dir })
    }

    /// Where the directory of this user id is.
    /// Errors: no home directory is known.
    pub fn default_path() -> Result<PathBuf> {
        let uid = geteuid().as_raw();
        if uid == 0 {
            return Ok("/run/lockrun".into());
        }
        let home = match users::find_anywhere(uid) {
            Some(user) => user.home,
            None => std::env::var_os("HOME")
                .map(PathBuf::from)
                .filter(|home| home.is_absolute())
                .ok_or_else(|| anyhow!("no home directory is known for user {uid}, and $HOME names none"))?,
        };
        Ok(home.join(".local/state/lockrun"))
    }

    /// Opens the directory that is at the path now, and creates it if it is missing.
    pub fn reopen(&self) -> Result<Self> {
        if self.is_default { Self::default_of_user() } else { Self::given(&self.given) }
    }

    /// Whether this directory is still at its path.
    pub fn is_current(&self) -> bool {
        self.location.target().is_ok_and(|now| now == Some(Identity::from(&self.stat)))
    }

    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn location_of(&self, name: &str) -> Location {
        self.location.join(name)
    }

    fn open_or_make(path: &Path) -> Result<Self> {
        let location = Location::new(path)?;
        let open = || {
            let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            sys::above_stdio(fd)
        };
        let (fd, was_made) = match open() {
            Err(Errno::NOENT) => {
                make_with_parents(path)?;
                (open()?, true)
            }
            other => (other?, false),
        };
        let stat = rustix::fs::fstat(&fd)?;
        let absolute = match path.is_absolute() {
            true => path.to_owned(),
            // A removed working directory has no path.
            false => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        Ok(Self {
            fd: Arc::new(fd),
            given: path.to_owned(),
            location,
            path: absolute,
            was_made,
            is_default: false,
            stat,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Warnings for users of its locks.
    pub fn warnings(&self) -> Vec<String> {
        let path = self.path.display();
        let made = || format!("created the locks directory {path}");
        let network = |kind| format!("{path} is on {kind}: locks there work only as far as its server supports them");
        // A mistyped directory excludes no other process.
        let was_made = self.was_made && !self.is_default;
        was_made.then(made).into_iter().chain(self.network().map(network)).collect()
    }

    /// The names of its files.
    /// Errors: `EACCES`: it can be used, but not read.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let reading = openat(self, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let entries = rustix::fs::Dir::new(reading)?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(OsString::from_vec(entry?.file_name().to_bytes().to_vec()));
        }
        Ok(names)
    }

    /// Mode of a new file: group and others may lock it exactly if they may write to
    /// the directory.
    pub fn file_mode(&self) -> Mode {
        let mode = self.stat.st_mode;
        let group = if mode & 0o020 != 0 { 0o060 } else { 0 };
        let others = if mode & 0o002 != 0 { 0o006 } else { 0 };
        Mode::from_raw_mode(0o600 | group | others)
    }

    /// The group for new files, if they do not inherit the directory's.
    pub fn file_group(&self, file: &Stat) -> Option<rustix::fs::Gid> {
        (self.stat.st_mode & 0o020 != 0 && file.st_gid != self.stat.st_gid)
            .then(|| rustix::fs::Gid::from_raw(self.stat.st_gid))
    }

    /// The network or user-space file system of the directory, where the server decides
    /// how far locks reach.
    pub fn network(&self) -> Option<&'static str> {
        network(&*self.fd)
    }

    pub(super) fn is_overlay(&self) -> bool {
        rustix::fs::fstatfs(&*self.fd).is_ok_and(|fs| fs.f_type as u32 == 0x794c_7630)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_missing(path: &Path) -> bool {
    !path.as_os_str().is_empty() && rustix::fs::stat(path).err() == Some(Errno::NOENT)
}

fn make_with_parents(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    sys::without_umask(|| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path))
}

/// The network or user-space file system of a file.
pub(super) fn network(file: impl AsFd) -> Option<&'static str> {
    // From linux/magic.h and the file systems' own headers.
    let magic = rustix::fs::fstatfs(file).ok()?.f_type as u32;
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x0bd0_0bd0 => "Lustre",
        _ => return None,
    })
}

pub(super) fn open_at(dir: &Dir, name: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    sys::above_stdio(openat(dir, name, flags, mode)?)
}
