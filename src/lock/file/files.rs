//! The open files of one lock: the locked file and its queue.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, anyhow};

use super::descriptor;
use super::dir::Dir;
use super::identity::{Identity, Location};
use super::lock_file::LockFile;
use super::open::{self, Opened};
use super::queue::Queue;
use crate::advice::Advice;
use crate::lock::Target;
use crate::lock::{Mode, Rules};
use crate::record::{self, Text};
use crate::sys;

pub struct Files {
    target: Target,
    /// Where a file is that the user gave.
    location: Option<Location>,
    lock: Opened,
    /// `None` on a read-only file system, without a locks directory (the kernel alone
    /// orders waiters there), and after it was closed.
    queue: Option<Queue>,
    /// The file with queue and record.
    queue_file: Option<QueueFile>,
}

/// A file in the locks directory.
#[derive(Clone)]
struct QueueFile {
    name: String,
    location: Location,
    identity: Identity,
}

impl Files {
    /// Opens a target's files, and creates missing ones.
    pub fn open(dir: Option<&Dir>, target: &Target, mode: Mode) -> Result<Self> {
        let (location, lock) = match target {
            Target::Name(name) => {
                let dir = dir.context("a lock with a name needs a locks directory")?;
                let file_name = LockFile::of_name(name).file_name();
                let lock = open::lock_file(dir, &file_name)?;
                if matches!(mode, Mode::Slot { .. }) && !lock.writable {
                    return Err(anyhow!(
                        "cannot lock {file_name}: its file system is read-only, where slots cannot be locked"
                    ))
                    .context(Advice::new("use another --dir, or no --slots"));
                }
                (None, lock)
            }
            Target::Path(path) => {
                let location = Location::new(path.given());
                let location = location.with_context(|| format!("cannot find {}", path.given().display()))?;
                (Some(location), open::user_file(path.given())?)
            }
            Target::Descriptor(descriptor) => {
                let location = descriptor.path.as_deref().map(Location::new).transpose()?;
                (location, descriptor::open(descriptor.number)?)
            }
        };
        let mut files = Self { target: target.clone(), location, lock, queue: None, queue_file: None };
        if let Some(dir) = dir {
            let name = match target {
                Target::Name(name) => LockFile::of_name(name),
                Target::Path(_) | Target::Descriptor(_) => {
                    descriptor::queue_of(dir, &files.lock.file, files.lock.identity)
                }
            }
            .file_name();
            // The queue has its own open file description: closing it, as executing
            // COMMAND does, releases door and ticket, and keeps the lock.
            let queue = open::lock_file(dir, &name)?;
            files.queue_file = Some(QueueFile { location: dir.location_of(&name), name, identity: queue.identity });
            files.queue = queue.writable.then(|| Queue::on(queue.file));
        }
        Ok(files)
    }

    /// For a process that shares our memory and has its own copies of our descriptors.
    pub fn of_cohabitant(&self) -> Self {
        let file = sys::descriptor_of_cohabitant;
        Self {
            target: self.target.clone(),
            location: self.location.clone(),
            lock: Opened { file: file(&self.lock.file), ..self.lock },
            queue: self.queue.as_ref().map(|queue| Queue::on(file(queue.file()))),
            queue_file: self.queue_file.clone(),
        }
    }

    pub fn lock(&self) -> &File {
        &self.lock.file
    }

    /// The descriptor that COMMAND inherits.
    pub fn descriptor(&self) -> RawFd {
        self.lock.file.as_raw_fd()
    }

    /// Identity of the locked file. Several locks are taken in this order.
    pub fn identity(&self) -> Identity {
        self.lock.identity
    }

    /// The queue, also the file of the record.
    pub fn queue(&self) -> Option<&Queue> {
        self.queue.as_ref()
    }

    pub fn queue_identity(&self) -> Option<Identity> {
        self.queue_file.as_ref().map(|file| file.identity)
    }

    /// The queue's file name in the locks directory; empty without one.
    pub fn queue_name(&self) -> &str {
        self.queue_file.as_ref().map_or("", |file| &file.name)
    }

    /// Releases door and tickets and every other lock on the queue.
    pub fn close_queue(&mut self) {
        self.queue = None;
    }

    pub fn name(&self) -> &[u8] {
        self.target.name()
    }

    /// The name in the record, by which a lock file is recognised.
    pub fn recorded_name(&self) -> Vec<u8> {
        match (&self.target, LockFile::parse(self.queue_name())) {
            (Target::Path(_) | Target::Descriptor(_), Some(file @ LockFile::Named(_))) => file
                .name()
                .or_else(|| Some(self.read_text().record()?.name.into_bytes()))
                .unwrap_or_else(|| self.queue_name().into()),
            _ => self.name().to_vec(),
        }
    }

    /// Whether the lock is on the caller's own description, and so outlives our copy.
    pub fn are_callers(&self) -> bool {
        matches!(self.target, Target::Descriptor(_))
    }

    /// Whether it is locked by flock(1)'s rules, see [`Rules`].
    pub fn are_flocks(&self) -> bool {
        matches!(&self.target, Target::Descriptor(descriptor) if descriptor.rules == Rules::Flocks)
    }

    /// Whether the lock can have slots: only lock files of names can, without
    /// flock(1)'s rules.
    pub fn has_slots(&self) -> bool {
        self.queue_identity() == Some(self.lock.identity) && !self.are_flocks()
    }

    /// The locked file, if the record is in it and can be written.
    pub fn record_in_lock(&self) -> Option<&File> {
        (self.has_slots() && self.lock.writable).then_some(&self.lock.file)
    }

    /// Reopens the user's file for writing, as network file systems require for an
    /// exclusive lock.
    /// Errors: no permission; `EBADF`: it is a lock file, open for writing already.
    pub fn reopen_for_writing(&mut self) -> io::Result<()> {
        let Target::Path(path) = &self.target else { return Err(rustix::io::Errno::BADF.into()) };
        self.lock.file = open::user_file_for_writing(path.given())?.into();
        Ok(())
    }

    /// Whether the open files are still those at their paths. Otherwise the files there
    /// now can be locked as well.
    /// Errors: the paths cannot be inspected.
    pub fn are_current(&self) -> Result<bool> {
        if let Some(queue) = &self.queue_file {
            let now = queue.location.file().with_context(|| self.cannot_lock())?;
            if now != Some(queue.identity) {
                return Ok(false);
            }
        }
        match &self.target {
            // The file just looked at.
            Target::Name(_) => Ok(self.queue_identity() == Some(self.lock.identity)),
            Target::Path(_) => self.is_at_its_path().with_context(|| self.cannot_lock()),
            // Without permission to look, the file is not known to be gone.
            Target::Descriptor(_) => Ok(self.are_flocks() || !self.is_removed()),
        }
    }

    /// Whether the file is certainly no longer at its path.
    pub fn is_removed(&self) -> bool {
        rustix::fs::fstat(&self.lock.file).is_ok_and(|stat| stat.st_nlink == 0) || self.is_replaced()
    }

    /// Whether the path certainly leads to another file by now.
    pub fn is_replaced(&self) -> bool {
        self.is_at_its_path() == Ok(false)
    }

    fn is_at_its_path(&self) -> rustix::io::Result<bool> {
        let now = match (&self.location, &self.queue_file) {
            (Some(location), _) => location.target()?,
            (None, Some(queue)) => queue.location.file()?,
            (None, None) => return Ok(true),
        };
        Ok(now == Some(self.lock.identity))
    }

    /// How a replaced lock was lost, as a clause.
    pub fn how_replaced(&self) -> String {
        let file = match &self.target {
            Target::Name(_) => format!("its file {}", self.queue_name()),
            Target::Path(_) | Target::Descriptor(_) => "the file".into(),
        };
        format!("{file} was removed or replaced while it was held, so others could take it")
    }

    pub fn read_text(&self) -> Text {
        match &self.queue {
            Some(queue) => record::read(queue.file()),
            None if self.has_slots() => record::read(&self.lock.file),
            None => Text::Empty,
        }
    }

    /// An error of a call that locks the file, with its context.
    pub fn lock_failed(&self, error: io::Error) -> anyhow::Error {
        let is_access = error.raw_os_error() == Some(libc::EBADF);
        let error = anyhow::Error::from(error).context(self.cannot_lock());
        match &self.target {
            Target::Descriptor(descriptor) if is_access => error
                .context(Advice(format!("open it for reading and writing: exec {}<>FILE", descriptor.number).into())),
            _ => error,
        }
    }

    pub fn cannot_lock(&self) -> String {
        format!("cannot lock {}", self.shown())
    }

    pub fn cannot_unlock(&self) -> String {
        format!("cannot unlock {}", self.shown())
    }

    fn shown(&self) -> String {
        match &self.target {
            Target::Name(_) => self.queue_name().to_owned(),
            Target::Path(path) => path.absolute().display().to_string(),
            Target::Descriptor(descriptor) => {
                format!("descriptor {}, {}", descriptor.number, String::from_utf8_lossy(&descriptor.name))
            }
        }
    }
}
