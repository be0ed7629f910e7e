//! Inspecting locks without disturbing their users: holders and length of the queue.
//!
//! A lock is held if the kernel shows a holder. It is free if the kernel shows all
//! locks, and not this one. Where the kernel does not (another pid namespace, network
//! file systems, a list longer than one piece), the lock is tried for a moment under
//! the door, so that a lockrun that arrives meanwhile waits instead of failing. A list
//! of all locks is too long to try each one; it reads the kernel's list again instead.
//!
//! A path in a lock file's text may come from another user. It is opened only if the
//! kernel cannot answer, and only if it is the plain file or directory that the lock
//! file's name identifies.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, statat};
use rustix::io::Errno;

use super::descriptor;
use super::dir::{self, Dir};
use super::history;
use super::holders::Holders;
use super::identity::Identity;
use super::kernel::{FileId, Kernel};
use super::lock_file::LockFile;
use super::open;
use super::probe::probe;
use super::queue::Queue;
use crate::lock::{LockState, Seen, Target, UserPath};
use crate::name;
use crate::record::{self, Text};

/// The locks of a directory at one moment.
pub struct Survey<'a> {
    dir: Option<&'a Dir>,
    kernel: Kernel,
    /// The kernel's name for the directory; its files are on the same device.
    id: Option<FileId>,
    /// Whether inodes are those of stat(2), and a lock that the kernel does not show is
    /// free.
    certain: bool,
    holders: Holders,
}

/// What is inspected for one lock.
struct Subject<'s> {
    name: Vec<u8>,
    path: PathBuf,
    lock: Option<FileId>,
    queue: Option<FileId>,
    /// Whether the kernel shows all locks of this file.
    certain: bool,
    /// `None` if the queue is in the locked file.
    open_lock: Option<&'s dyn Fn() -> rustix::io::Result<File>>,
    open_queue: &'s dyn Fn() -> rustix::io::Result<(File, bool)>,
}

/// The origin of a path.
#[derive(Clone, Copy)]
enum Named {
    ByUser,
    /// From a lock file, perhaps written by another user.
    ByText,
}

impl<'a> Survey<'a> {
    /// Takes a snapshot. Without a directory, no named lock has a file.
    pub fn new(dir: Option<&'a Dir>) -> Self {
        let kernel = Kernel::look();
        let id = dir.and_then(|dir| {
            let id = kernel.id_of(dir)?;
            let as_stat_says = id.beside(fstat(dir).ok()?.st_ino) == id;
            // On overlayfs the numbers differ from file to file.
            (as_stat_says && dir.network().is_none() && !dir.is_overlay()).then_some(id)
        });
        Self { dir, certain: kernel.is_complete() && id.is_some(), id, kernel, holders: Holders::now() }
    }

    /// All locks that have a file in the directory, sorted by name.
    /// Errors: the directory cannot be read.
    pub fn all(mut self) -> Result<Vec<Seen>> {
        let Some(dir) = self.dir else { return Ok(Vec::new()) };
        if !self.kernel.is_complete() {
            self.kernel = Kernel::look_thoroughly();
            self.certain = self.kernel.shows_everybody() && self.id.is_some();
        }
        let names = dir.names().with_context(|| format!("cannot read the locks directory {}", dir.path().display()))?;
        let mut seen: Vec<Seen> = names.iter().filter_map(|name| self.file(dir, name.to_str()?)).collect();
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(seen)
    }

    /// The lock names in the directory, from the file names alone, for shell
    /// completion.
    /// Errors: the directory cannot be read.
    pub fn names_in(dir: &Dir) -> Result<Vec<Vec<u8>>> {
        let names = dir.names().with_context(|| format!("cannot read {}", dir.path().display()))?;
        let name = |file: &std::ffi::OsString| LockFile::parse(file.to_str()?)?.name();
        let mut names: Vec<_> = names.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// One lock. Without a file it is free.
    /// Errors: the file is not a lock file, or cannot be inspected.
    pub fn of(&self, target: &Target) -> Result<Seen> {
        match target {
            Target::Name(name) => {
                let file_name = LockFile::of_name(name).file_name();
                let Some(dir) = self.dir else {
                    let place = Dir::default_path().unwrap_or_default();
                    return Ok(free(name.clone(), place.join(file_name)));
                };
                let path = dir.path().join(&file_name);
                match statat(dir, &file_name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => {
                        open::require_plain(&stat).with_context(|| path.display().to_string())?;
                        Ok(self.named(dir, name.clone(), &file_name, &stat))
                    }
                    Err(Errno::NOENT) => Ok(free(name.clone(), path)),
                    Err(e) => Err(e).with_context(|| format!("cannot look at {}", path.display())),
                }
            }
            Target::Descriptor(descriptor) => match &descriptor.path {
                Some(path) => {
                    let seen = self.of(&Target::Path(UserPath::new(path.clone())))?;
                    Ok(Seen { name: descriptor.name.clone(), ..seen })
                }
                None => Ok(Seen { state: LockState::Unknown, ..free(descriptor.name.clone(), PathBuf::new()) }),
            },
            Target::Path(path) => match rustix::fs::open(path.given(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(found) => self.at_path(path, &found, Named::ByUser),
                Err(Errno::NOENT) => Ok(free(target.name().to_vec(), path.absolute().to_owned())),
                Err(e) => Err(e).with_context(|| format!("cannot look at {}", path.absolute().display())),
            },
        }
    }

    /// Checks that the lock could be requested at all.
    /// Errors: no permission, or a foreign file in place of the lock.
    pub fn require_usable(&self, target: &Target) -> Result<()> {
        let (Some(dir), Target::Name(name)) = (self.dir, target) else { return Ok(()) };
        let file_name = LockFile::of_name(name).file_name();
        match open::existing_lock_file(dir, &file_name)? {
            Some(opened) if record::read(&opened.file) == Text::Foreign => {
                bail!("{}: its content is not lockrun's", dir.path().join(file_name).display())
            }
            _ => Ok(()),
        }
    }

    /// The lock of a file in the directory, if it is a lock file.
    fn file(&self, dir: &Dir, file_name: &str) -> Option<Seen> {
        let file = LockFile::parse(file_name)?;
        match &file {
            LockFile::Named(stem) => {
                let stat = statat(dir, file_name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return None;
                }
                // A foreign text means another program's lock file.
                let ours = stat.st_size % record::SIZE as i64 == 0 || self.text(file_name) != Some(Text::Foreign);
                let name = file.name().unwrap_or_else(|| self.long_name(file_name, stem));
                ours.then(|| self.named(dir, name, file_name, &stat))
            }
            LockFile::Gate(locked) => {
                let record = self.text(file_name)?.record();
                let path = PathBuf::from(record?.name);
                if let Some(found) = open::file_named(&path, *locked) {
                    return self.at_path(&UserPath::new(path), &found, Named::ByText).ok();
                }
                // The path leads elsewhere now, but the file that it named may still be
                // locked.
                let seen = self.look(&Subject {
                    name: path.as_os_str().as_bytes().to_vec(),
                    path,
                    lock: Some(FileId::of_device(locked.device, locked.inode)),
                    queue: None,
                    certain: true,
                    open_lock: Some(&|| Err(Errno::NOENT)),
                    open_queue: &|| self.reading(file_name),
                });
                (seen.state != LockState::Free).then_some(seen)
            }
        }
    }

    fn text(&self, file_name: &str) -> Option<Text> {
        let (file, _) = self.reading(file_name).ok()?;
        Some(record::read(&file))
    }

    fn reading(&self, file_name: &str) -> rustix::io::Result<(File, bool)> {
        open::lock_file_to_look_at(self.dir.ok_or(Errno::NOENT)?, file_name)
    }

    /// The name in the file's text if the file name agrees with it, otherwise the file
    /// name.
    fn long_name(&self, file_name: &str, stem: &str) -> Vec<u8> {
        let told = self.text(file_name).and_then(Text::record).map(|record| record.name);
        let beginning = |name: &String| name.strip_suffix('…').unwrap_or(name).as_bytes().to_vec();
        let told = told.filter(|name| !name.is_empty() && name::may_begin(stem, &beginning(name)) == Some(true));
        told.map_or_else(|| stem.as_bytes().to_vec(), String::into_bytes)
    }

    fn named(&self, dir: &Dir, name: Vec<u8>, file_name: &str, stat: &rustix::fs::Stat) -> Seen {
        // On other file systems the kernel's number is read from an open file.
        let id = || self.kernel.id_of(&self.reading(file_name).ok()?.0);
        let id = self.id.map(|id| id.beside(stat.st_ino)).or_else(id);
        self.look(&Subject {
            path: dir.path().join(file_name),
            name,
            lock: id,
            queue: id,
            certain: self.certain,
            open_lock: None,
            open_queue: &|| self.reading(file_name),
        })
    }

    fn at_path(&self, path: &UserPath, found: &OwnedFd, named: Named) -> Result<Seen> {
        let stat = fstat(found).with_context(|| format!("cannot look at {}", path.absolute().display()))?;
        let identity = Identity::from(&stat);
        let queue = self.dir.map_or(LockFile::Gate(identity), |dir| descriptor::queue_of(dir, found, identity));
        let queue_name = queue.file_name();
        let lock = self.kernel.id_of(found);
        let queue = self.reading(&queue_name).ok().and_then(|(queue, _)| self.kernel.id_of(&queue));
        let shows_all = match named {
            Named::ByUser => self.kernel.is_complete(),
            Named::ByText => self.kernel.shows_everybody(),
        };
        Ok(self.look(&Subject {
            name: path.absolute().as_os_str().as_bytes().to_vec(),
            path: path.absolute().to_owned(),
            lock,
            queue,
            certain: lock.is_some() && shows_all && dir::network(found).is_none(),
            open_lock: Some(&|| match named {
                Named::ByUser => {
                    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                    Ok(rustix::fs::open(path.given(), flags, Mode::empty())?.into())
                }
                Named::ByText => open::open_found(found),
            }),
            open_queue: &|| self.reading(&queue_name),
        }))
    }

    fn look(&self, subject: &Subject<'_>) -> Seen {
        let lockers = subject.lock.map_or(&[][..], |lock| self.kernel.lockers(lock));
        let shown = match lockers {
            [] => None,
            lockers if lockers.iter().any(|locker| !locker.shared) => Some(LockState::Exclusive),
            _ => Some(LockState::Shared),
        };
        let certainly_idle = subject.certain && !subject.queue.is_some_and(|queue| self.kernel.has_queue(queue));
        let mut seen = free(subject.name.clone(), subject.path.clone());
        if shown.is_none() && certainly_idle {
            let text = (subject.open_queue)();
            seen.last = text.ok().and_then(|(text, _)| history::last_run(&record::all(&text)));
            return seen;
        }
        let queue = match (subject.open_queue)() {
            Ok((file, writable)) => Some((Queue::on(file), writable)),
            // Removed in the meantime.
            Err(Errno::NOENT) if subject.open_lock.is_none() => return seen,
            Err(_) => None,
        };
        seen.waiting = queue.as_ref().and_then(|(queue, _)| queue.waiting(usize::MAX).ok()).unwrap_or(0);
        seen.state = match (shown, subject.open_lock) {
            (Some(state), _) => state,
            (None, _) if subject.certain => LockState::Free,
            (None, None) => queue.as_ref().map_or(LockState::Unknown, |queue| probe(queue.0.file(), Some(queue))),
            (None, Some(open)) => match open() {
                Ok(lock) => probe(&lock, queue.as_ref()),
                Err(Errno::NOENT) => LockState::Free,
                Err(_) => LockState::Unknown,
            },
        };
        let records = queue.as_ref().map_or_else(Vec::new, |(queue, _)| record::all(queue.file()));
        if seen.state == LockState::Free {
            seen.last = history::last_run(&records);
        }
        if matches!(seen.state, LockState::Exclusive | LockState::Shared) {
            let holders = |lock| self.holders.of(&self.kernel, lock, lockers, &records);
            seen.holders = subject.lock.map_or_else(Vec::new, holders);
            // A fixed order: ancestors first, then holders of which most is known.
            seen.holders.sort_by_key(|holder| (!holder.is_ancestor, holder.slot, holder.since.is_none(), holder.pid));
        }
        seen
    }
}

fn free(name: Vec<u8>, path: PathBuf) -> Seen {
    Seen { name, path, state: LockState::Free, holders: Vec::new(), waiting: 0, last: None }
}
