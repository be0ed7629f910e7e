//! Removing lock files that nobody uses.
//!
//! Safe against those who come meanwhile: under the door nobody is granted
//! anything, nobody waits (there is no ticket) and nobody holds (the lock is
//! ours for the moment). A process that opened the file before it goes finds
//! after its grant that another one is at the path, and starts over.
//!
//! Only flock(1) and its like do not look again. So only files with lockrun's
//! text go: an empty file may be one that a script has open and will lock.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// Removes every lock file that nobody uses, or only says which
/// (`only_look`). `tell` gets the name of each, and what went wrong with
/// those that should have been removed but could not be.
///
/// Returns why the largest fence could not be remembered, if it could not.
/// Files whose fence the clock has passed are removed all the same: the next
/// fence of their name is larger, unless somebody sets the clock back.
///
/// # Errors
/// The directory cannot be read.
pub fn all(dir: &Dir, only_look: bool, mut tell: impl FnMut(Result<Vec<u8>>)) -> Result<Option<Error>> {
    let names = dir.names().with_context(|| format!("cannot read the locks directory {}", dir.path().display()))?;
    let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    let mut pruning = Pruning { dir, kernel: Kernel::look(), only_look, forgotten: 0, problem: None };
    let kept = pruning.remove(names, &mut tell);
    // On a full disk, the files that went have made room.
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
    /// The largest fence of a removed file that could not be remembered.
    forgotten: u64,
    /// Why not.
    problem: Option<Error>,
}

impl Pruning<'_> {
    /// Returns those that have to stay because of their fence.
    fn remove(&mut self, names: Vec<String>, tell: &mut impl FnMut(Result<Vec<u8>>)) -> Vec<String> {
        let mut kept = Vec::new();
        for file_name in names {
            let removed = match Unused::find(self.dir, &self.kernel, &file_name, self.only_look) {
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

    /// Whether a file with this fence may go.
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

/// A file that nobody uses, and that nobody can begin to use as long as this
/// lives, unless it was only looked at.
struct Unused {
    name: Vec<u8>,
    fence: u64,
    /// Gives the door back when it is closed.
    _queue: Queue,
    /// Gives the lock back.
    _lock: Option<File>,
}

impl Unused {
    /// `None`: it is used, or not lockrun's.
    fn find(dir: &Dir, kernel: &Kernel, file_name: &str, only_look: bool) -> Result<Option<Self>> {
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
        // Read anew: nobody writes it now who comes through the door.
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
        // Also flock(1) may have been here: a script's `9>` empties the file.
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

/// How it stands with the file that a queue belongs to.
enum Behind {
    Held,
    /// Or there is no such file any more. Locked by us, where the kernel could
    /// not be asked.
    Free(Option<File>),
}

/// Removing the queue of a file that is held would not let two in; but it has
/// the record of the holder. So the kernel is asked, and that is enough: who
/// has just been granted the lock came through the door before us, and is
/// shown by now.
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
