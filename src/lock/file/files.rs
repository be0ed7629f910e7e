//! The files of one lock, open: the one that is locked, and its queue.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use rustix::fs::CWD;

use super::dir::Dir;
use super::identity::Identity;
use super::lock_file::LockFile;
use super::open::{self, Opened};
use super::queue::Queue;
use crate::advice::Advice;
use crate::lock::Mode;
use crate::lock::Target;
use crate::record::{self, Text};
use crate::sys;

/// The files of one lock.
pub struct Files {
    target: Target,
    /// The path of a `--file`, from any working directory.
    path: Option<PathBuf>,
    lock: Opened,
    /// `None` on a read-only file system, where only the kernel knows an order,
    /// and once it is closed.
    queue: Option<Queue>,
    /// The file in the locks directory that has queue and record.
    queue_name: String,
    /// Its path, from any working directory.
    queue_path: PathBuf,
    queue_identity: Identity,
}

impl Files {
    /// Opens a target's files, and makes those that are missing.
    ///
    /// # Errors
    /// See [`open::lock_file`] and [`open::user_file`].
    pub fn open(dir: &Dir, target: &Target, mode: Mode) -> Result<Self> {
        let path = match target {
            Target::Name(_) => None,
            Target::Path(path) => Some(path.absolute().to_owned()),
        };
        let (lock, queue_name) = match target {
            Target::Name(name) => {
                let file_name = LockFile::of_name(name).file_name();
                let lock = open::lock_file(dir, &file_name)?;
                if matches!(mode, Mode::Slot { .. }) && !lock.writable {
                    return Err(anyhow!(
                        "cannot lock {file_name}: its file system is read-only, where slots cannot be locked"
                    ))
                    .context(Advice::new("use another --dir, or no --slots"));
                }
                (lock, file_name)
            }
            Target::Path(path) => {
                let lock = open::user_file(path.given())?;
                let gate = LockFile::Gate(lock.identity).file_name();
                (lock, gate)
            }
        };
        // The queue has an open file description of its own: closing it, as
        // executing COMMAND does, gives door and ticket back while the lock stays.
        let queue = open::lock_file(dir, &queue_name)?;
        Ok(Self {
            target: target.clone(),
            path,
            lock,
            queue: queue.writable.then(|| Queue::on(queue.file)),
            queue_path: dir.path_of(&queue_name),
            queue_name,
            queue_identity: queue.identity,
        })
    }

    /// The same for a process that lives in our memory and has descriptors of
    /// its own, with the same numbers.
    pub fn of_cohabitant(&self) -> Self {
        let file = sys::descriptor_of_cohabitant;
        Self {
            target: self.target.clone(),
            path: self.path.clone(),
            lock: Opened { file: file(&self.lock.file), ..self.lock },
            queue: self.queue.as_ref().map(|queue| Queue::on(file(queue.file()))),
            queue_name: self.queue_name.clone(),
            queue_path: self.queue_path.clone(),
            queue_identity: self.queue_identity,
        }
    }

    /// The file that is locked.
    pub fn lock(&self) -> &File {
        &self.lock.file
    }

    /// Its number, for COMMAND to inherit.
    pub fn descriptor(&self) -> RawFd {
        self.lock.file.as_raw_fd()
    }

    /// Which file is locked: several locks are taken in this order.
    pub fn identity(&self) -> Identity {
        self.lock.identity
    }

    /// Door, tickets, and the file for the record.
    pub fn queue(&self) -> Option<&Queue> {
        self.queue.as_ref()
    }

    /// The file of the queue.
    pub fn queue_identity(&self) -> Identity {
        self.queue_identity
    }

    /// The queue's name in the locks directory.
    pub fn queue_name(&self) -> &str {
        &self.queue_name
    }

    /// Gives back door and tickets, and whatever else is locked on the queue.
    pub fn close_queue(&mut self) {
        self.queue = None;
    }

    /// The lock's name, as it was given.
    pub fn name(&self) -> &[u8] {
        self.target.name()
    }

    /// Whether the lock has slots: only lock files of names do.
    pub fn has_slots(&self) -> bool {
        matches!(self.target, Target::Name(_))
    }

    /// Opens the user's file again for writing, which network file systems ask
    /// of an exclusive lock.
    ///
    /// # Errors
    /// No permission; `EBADF`: it is a file of ours, open for writing already.
    pub fn reopen_for_writing(&mut self) -> std::io::Result<()> {
        let Target::Path(path) = &self.target else { return Err(rustix::io::Errno::BADF.into()) };
        self.lock.file = open::user_file_for_writing(path.given())?.into();
        Ok(())
    }

    /// Whether the open files are still those at their paths. If not, somebody
    /// else can lock what is there now.
    ///
    /// # Errors
    /// The paths cannot be looked at.
    pub fn are_current(&self) -> Result<bool> {
        let queue = Identity::at(CWD, &self.queue_path).with_context(|| self.cannot_lock())?;
        let lock = match &self.path {
            None => queue,
            Some(path) => Identity::behind(path).with_context(|| self.cannot_lock())?,
        };
        Ok(queue == Some(self.queue_identity) && lock == Some(self.lock.identity))
    }

    /// Whether the file at the lock's path is certainly another one by now.
    pub fn is_replaced(&self) -> bool {
        let now = match &self.path {
            None => Identity::at(CWD, &self.queue_path),
            Some(path) => Identity::behind(path),
        };
        now.is_ok_and(|now| now != Some(self.lock.identity))
    }

    /// How a replaced lock was lost, as a clause.
    pub fn how_replaced(&self) -> String {
        let file = match &self.target {
            Target::Name(_) => format!("its file {}", self.queue_name),
            Target::Path(_) => "the file".into(),
        };
        format!("{file} was removed or replaced while it was held, so others could take it")
    }

    /// What the lock's file says.
    pub fn read_text(&self) -> Text {
        match &self.queue {
            Some(queue) => record::read(queue.file()),
            None if self.has_slots() => record::read(&self.lock.file),
            None => Text::Empty,
        }
    }

    /// What was tried when something fails.
    pub fn cannot_lock(&self) -> String {
        format!("cannot lock {}", self.shown())
    }

    /// As [`cannot_lock`](Self::cannot_lock).
    pub fn cannot_unlock(&self) -> String {
        format!("cannot unlock {}", self.shown())
    }

    fn shown(&self) -> String {
        match &self.target {
            Target::Name(_) => self.queue_name.clone(),
            Target::Path(path) => path.absolute().display().to_string(),
        }
    }
}
