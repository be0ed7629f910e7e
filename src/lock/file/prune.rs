//! Removing unused lock files.
//!
//! This is safe with concurrent calls: under the door no lock is granted, without a
//! ticket no process is waiting, and we hold the lock for a moment. A process that
//! opened the file earlier finds another one at the path after its grant, and starts
//! over.
//!
//! flock(1) does not check the path again. So only files with lockrun's text are
//! removed: a script may have an empty one open, to lock it later.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, anyhow};
use rustix::fs::{AtFlags, FlockOperation, flock, unlinkat};
use rustix::io::Errno;

use super::dir::{self, Dir};
use super::identity::Identity;
use super::kernel::{FileId, Kernel};
use super::lock_file::LockFile;
use super::queue::Queue;
use super::{floor, open};
use crate::advice::Advice;
use crate::record::{self, Text};

/// Removes every lock file that has not been used for `older`, or only lists it
/// (`only_look`). `tell` gets each name, or why a file could not be removed.
///
/// Returns why the largest fencing token could not be stored in `.floor`. Files with a
/// token below the clock are removed anyway: the next token of the name is larger,
/// unless the clock is set back.
/// Errors: the directory cannot be read.
pub fn all(
    dir: &Dir,
    only_look: bool,
    older: Duration,
    mut tell: impl FnMut(Result<Vec<u8>>),
) -> Result<Option<Error>> {
    let names = dir.names().with_context(|| format!("cannot read the locks directory {}", dir.path().display()))?;
    let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    let mut pruning = Pruning { dir, kernel: Kernel::look(), only_look, older, forgotten: 0, problem: None };
    let kept = pruning.remove(names, &mut tell);
    // On a full disk, the removed files have made room.
    pruning.remember_forgotten();
    for file_name in pruning.remove(kept, &mut tell) {
        let shown = dir.path().join(file_name);
        tell(Err(anyhow!(
            "cannot remove {}: its fence is ahead of the clock, and must be remembered",
            shown.display()
        )));
    }
    Ok(pruning.problem)
}

struct Pruning<'a> {
    dir: &'a Dir,
    kernel: Kernel,
    only_look: bool,
    older: Duration,
    /// The largest fencing token of a removed file that is not stored yet.
    forgotten: u64,
    /// Why not.
    problem: Option<Error>,
}

impl Pruning<'_> {
    /// Returns the files that have to stay because of their fencing token.
    fn remove(&mut self, names: Vec<String>, tell: &mut impl FnMut(Result<Vec<u8>>)) -> Vec<String> {
        let mut kept = Vec::new();
        for file_name in names {
            let removed = match Unused::find(self.dir, &self.kernel, &file_name, self.only_look, self.older) {
                Ok(None) => continue,
                Ok(Some(unused)) if self.only_look => Ok(unused.name),
                Ok(Some(unused)) if !self.remember(unused.fence) => {
                    kept.push(file_name);
                    continue;
                }
                Ok(Some(unused)) => unused.remove(self.dir, &file_name),
                Err(error) => Err(error),
            };
            tell(removed.with_context(|| format!("cannot remove {}", self.dir.path().join(&file_name).display())));
        }
        kept
    }

    /// Whether a file with this fencing token may be removed.
    fn remember(&mut self, fence: u64) -> bool {
        if fence == 0 {
            return true;
        }
        if self.problem.is_none() {
            self.problem = floor::raise(self.dir, fence).err();
        }
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let may_go = self.problem.is_none() || u128::from(fence) < clock;
        if may_go && self.problem.is_some() {
            self.forgotten = self.forgotten.max(fence);
        }
        may_go
    }

    fn remember_forgotten(&mut self) {
        if self.problem.is_some() {
            self.problem = floor::raise(self.dir, self.forgotten).err();
        }
    }
}

/// An unused file. It stays unused while this lives, unless it was only looked at.
struct Unused {
    name: Vec<u8>,
    fence: u64,
    /// Closing it leaves the door.
    _queue: Queue,
    /// Closing it releases the lock.
    _lock: Option<File>,
}

impl Unused {
    /// `None`: in use, or not lockrun's.
    fn find(dir: &Dir, kernel: &Kernel, file_name: &str, only_look: bool, older: Duration) -> Result<Option<Self>> {
        let Some(file) = LockFile::parse(file_name) else { return Ok(None) };
        let Some(opened) = open::usable_lock_file(dir, file_name)? else { return Ok(None) };
        if !is_ours(&record::read(&opened.file)) {
            return Ok(None);
        }
        let lock = opened.file.try_clone()?;
        let id = kernel.id_of(&lock);
        let asked = only_look && kernel.is_complete() && id.is_some() && dir::network(&lock).is_none();
        let queue = Queue::on(opened.file);
        if id.is_some_and(|id| !kernel.lockers(id).is_empty()) {
            return Ok(None);
        }
        if !(asked || queue.try_enter_door()?) || queue.waiting(1)? > 0 {
            return Ok(None);
        }
        if !older.is_zero() && age(queue.file()) < older {
            return Ok(None);
        }
        // Read again: under the door it no longer changes.
        let text = record::read(queue.file());
        let fence = record::highest_fence(queue.file());
        let told = text.record().map(|record| record.name.into_bytes());
        let lock = match &file {
            LockFile::Named(_) if asked => Some(lock),
            LockFile::Named(_) => match take(lock)? {
                Some(lock) => Some(lock),
                None => return Ok(None),
            },
            LockFile::Gate(locked) => match look_behind(told.as_deref(), *locked)? {
                Behind::Held => return Ok(None),
                Behind::Free(lock) => lock,
            },
        };
        // flock(1) may have used it: a script's `9>` empties the file.
        if !is_ours(&record::read(queue.file())) || Identity::at(dir, file_name)? != Some(opened.identity) {
            return Ok(None);
        }
        let stem = file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem);
        let name = file.name().or(told).unwrap_or_else(|| stem.as_bytes().to_vec());
        Ok(Some(Self { name, fence, _queue: queue, _lock: lock }))
    }

    /// Returns the lock's name.
    fn remove(self, dir: &Dir, file_name: &str) -> Result<Vec<u8>> {
        unlinkat(dir, file_name, AtFlags::empty()).map_err(|e| match e {
            Errno::PERM | Errno::ACCESS => {
                anyhow!("it belongs to another user").context(Advice::new("ask that user or root to prune"))
            }
            e => e.into(),
        })?;
        Ok(self.name)
    }
}

/// Time since the last grant or end of a run wrote to the file.
fn age(file: &File) -> Duration {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default()
}

fn is_ours(text: &Text) -> bool {
    matches!(text, Text::Record(_) | Text::Damaged)
}

fn take(lock: File) -> Result<Option<File>> {
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e).context("cannot lock it"),
    }
}

/// State of the file that a queue belongs to.
enum Behind {
    Held,
    /// Free or gone. Locked by us if the kernel could not be asked.
    Free(Option<File>),
}

/// Removing the queue of a held file would not admit a second holder, but lose the
/// holder's record. Asking the kernel is enough: a process that was just granted the
/// lock went through the door before us, and is visible by now.
fn look_behind(path: Option<&[u8]>, identity: Identity) -> Result<Behind> {
    let path = path.map(|path| Path::new(OsStr::from_bytes(path)));
    let found = path.and_then(|path| open::file_named(path, identity));
    let kernel = Kernel::look_thoroughly();
    let id = found.as_ref().and_then(|found| kernel.id_of(found));
    let id = id.unwrap_or_else(|| FileId::of_device(identity.device, identity.inode));
    if !kernel.lockers(id).is_empty() {
        return Ok(Behind::Held);
    }
    match found {
        Some(found) if !kernel.shows_everybody() || dir::network(&found).is_some() => {
            let Ok(lock) = open::open_found(&found) else { return Ok(Behind::Held) };
            Ok(take(lock)?.map_or(Behind::Held, |lock| Behind::Free(Some(lock))))
        }
        _ => Ok(Behind::Free(None)),
    }
}
