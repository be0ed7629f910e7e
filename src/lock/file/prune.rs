//! Removing lock files that nobody uses.
//!
//! Safe against those who come meanwhile: under the door nobody is granted
//! anything, nobody waits (there is no ticket) and nobody holds (the lock is
//! ours for the moment). Who has opened the file before it goes, finds after
//! the grant that it is not the one at the path any more, and starts over.

use std::fs::File;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, unlinkat};
use rustix::io::Errno;

use super::dir::Dir;
use super::identity::Identity;
use super::kernel::{FileId, Kernel};
use super::lock_file::LockFile;
use super::open;
use super::queue::Queue;
use super::{floor, kernel};
use crate::advice::Advice;
use crate::record::{self, Text};

/// Removes every lock file that nobody uses, or only says which
/// (`only_look`). `tell` gets the name of each, and what went wrong with
/// those that should have been removed but could not be.
///
/// # Errors
/// The directory cannot be read.
pub fn all(dir: &Dir, only_look: bool, mut tell: impl FnMut(Result<Vec<u8>>)) -> Result<()> {
    let names = dir.names().with_context(|| format!("cannot read the locks directory {}", dir.path().display()))?;
    let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    let kernel = Kernel::look();
    for file_name in names {
        let Some(unused) = Unused::find(dir, &kernel, &file_name).transpose() else { continue };
        let name = unused.and_then(|unused| {
            if !only_look {
                unused.remove(dir, &file_name)?;
            }
            Ok(unused.name)
        });
        tell(name.with_context(|| format!("cannot remove {}", dir.path().join(&file_name).display())));
    }
    Ok(())
}

/// A file that nobody uses, and that nobody can begin to use as long as this
/// lives.
struct Unused {
    name: Vec<u8>,
    fence: u64,
    /// Gives the door back when it is closed.
    _queue: Queue,
    /// Gives the lock back.
    _lock: Option<File>,
}

impl Unused {
    /// `None`: it is used, or no lock of ours.
    fn find(dir: &Dir, kernel: &Kernel, file_name: &str) -> Result<Option<Self>> {
        let Some(file) = LockFile::parse(file_name) else { return Ok(None) };
        let Some(opened) = open::existing_lock_file(dir, file_name)? else { return Ok(None) };
        if !opened.writable {
            return Ok(None);
        }
        let text = record::read(&opened.file);
        if text == Text::Foreign {
            return Ok(None);
        }
        let lock = opened.file.try_clone()?;
        let queue = Queue::on(opened.file);
        if !queue.try_enter_door()? || queue.waiting(1)? > 0 {
            return Ok(None);
        }
        // Read anew: now nobody writes it who comes through the door.
        let record = record::read(queue.file()).record();
        let told = record.map(|record| record.name.into_bytes());
        let lock = match &file {
            LockFile::Named(_) => match take(lock)? {
                Some(lock) => Some(lock),
                None => return Ok(None),
            },
            LockFile::Gate(locked) => match take_path(kernel, told.as_deref(), *locked)? {
                Taken::Held => return Ok(None),
                Taken::Gone => None,
                Taken::Ours(lock) => Some(lock),
            },
        };
        if Identity::at(dir, file_name)? != Some(opened.identity) {
            return Ok(None);
        }
        let stem = file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem);
        let name = file.name().or(told).unwrap_or_else(|| stem.as_bytes().to_vec());
        let fence = record::highest_fence(queue.file());
        Ok(Some(Self { name, fence, _queue: queue, _lock: lock }))
    }

    fn remove(&self, dir: &Dir, file_name: &str) -> Result<()> {
        if self.fence > 0 {
            floor::raise(dir, self.fence)?;
        }
        unlinkat(dir, file_name, AtFlags::empty()).map_err(|e| match e {
            Errno::PERM | Errno::ACCESS => {
                anyhow!("it belongs to another user").context(Advice::new("ask that user or root to prune"))
            }
            e => e.into(),
        })
    }
}

enum Taken {
    Ours(File),
    Held,
    /// There is no such file any more.
    Gone,
}

fn take(lock: File) -> Result<Option<File>> {
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e).context("cannot lock it"),
    }
}

/// The file that a queue belongs to. Removing the queue of one that is held
/// would not let two in; but it has the record of the holder.
fn take_path(kernel: &Kernel, path: Option<&[u8]>, identity: Identity) -> Result<Taken> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let path = path.map(|path| std::path::Path::new(OsStr::from_bytes(path)));
    let leads_there = path.is_some_and(|path| matches!(Identity::behind(path), Ok(Some(there)) if there == identity));
    let Some(path) = path.filter(|_| leads_there) else {
        let held = !kernel.lockers(kernel::FileId::of_device(identity.device, identity.inode)).is_empty();
        return Ok(if held { Taken::Held } else { Taken::Gone });
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(lock) = rustix::fs::open(path, flags, Mode::empty()) else { return Ok(Taken::Held) };
    let shown: Option<FileId> = kernel.id_of(&lock);
    if shown.is_some_and(|id| !kernel.lockers(id).is_empty()) {
        return Ok(Taken::Held);
    }
    Ok(take(lock.into())?.map_or(Taken::Held, Taken::Ours))
}
