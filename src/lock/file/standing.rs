//! What is locked already on the caller's own description, and by whom.
//!
//! All who have it from one open share one lock: flock(2) lets each of them
//! through. So before and after we take it, we look at who did.

use std::fs::{self, File};
use std::os::fd::RawFd;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::process::getpid;

use super::dir::Dir;
use super::files::Files;
use super::kernel::{self, FileId, KernelLock};
use super::lock_file::LockFile;
use super::slots::Slots;
use super::{descriptor, ledger, open};
use crate::lock::{Descriptor, Mode};
use crate::process;
use crate::record::{self, Script};

/// What is locked already on the caller's description, for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Unlocked,
    /// At least what is asked for; the grant's number, if it is known.
    Held(Option<u64>),
    /// It is shared, and the whole lock is asked for.
    Weaker,
    /// Another living process has it, which shares the description and is not
    /// above us.
    Sibling(i32),
}

/// Looks at what is locked on the caller's description.
///
/// Where the kernel does not tell (Linux before 4.1, no /proc), nothing is: then
/// flock(2) on it succeeds at once if it has the lock.
pub fn standing(files: &Files, mode: Mode) -> Standing {
    let Some(locker) = kernel::locker_of(files.lock()) else { return Standing::Unlocked };
    let record = files.read_text().record().filter(|record| ledger::is_about(record, locker));
    if let Some(script) = record.as_ref().and_then(|record| record.script)
        && !is_ours(&script)
        && has_it(&script, files.lock())
    {
        return Standing::Sibling(script.pid);
    }
    if locker.shared && mode != Mode::Shared {
        Standing::Weaker
    } else {
        Standing::Held(record.map(|record| record.fence))
    }
}

/// A lock that is held by a descriptor.
#[derive(Debug)]
pub struct DescriptorGrant {
    /// What it is called.
    pub name: Vec<u8>,
    /// Its number, if we gave it one.
    pub fence: Option<u64>,
    /// The file is not at its path any more.
    pub removed: bool,
    /// It is another living process's, which shares the description and is not
    /// above us.
    pub sibling: Option<i32>,
}

/// What is locked on a caller's description; `None`: nothing. `dir` may have the
/// record, if it is not in the file itself.
///
/// # Errors
/// The descriptor is closed.
pub fn look(dir: Option<&Dir>, descriptor: &Descriptor) -> Result<Option<DescriptorGrant>> {
    let opened = descriptor::open(descriptor.number)?;
    let Some(locker) = kernel::locker_of(&opened.file) else { return Ok(None) };
    // The lock file of a name, in whatever directory, or that with its queue.
    let parent = descriptor.path.as_deref().and_then(|path| Dir::given_to_look(path.parent()?).ok());
    let own = parent.and_then(|dir| Some((descriptor::own_lock_file(&dir, &opened.file, opened.identity)?, dir)));
    let beside = || Some((LockFile::Gate(opened.identity), dir?.clone()));
    let record = own.or_else(beside).and_then(|(file, dir)| {
        let (text, _) = open::lock_file_to_look_at(&dir, &file.file_name()).ok()?;
        record::read(&text).record().filter(|record| ledger::is_about(record, locker))
    });
    let script = record.as_ref().and_then(|record| record.script);
    let is_siblings = |script: &Script| !is_ours(script) && has_it(script, &opened.file);
    Ok(Some(DescriptorGrant {
        name: record.as_ref().map_or_else(|| descriptor.name.clone(), |record| record.name.clone().into_bytes()),
        fence: record.as_ref().map(|record| record.fence),
        removed: descriptor::is_removed(&opened, record.as_ref().map(|record| Path::new(&record.name)))
            || descriptor::is_removed(&opened, descriptor.path.as_deref()),
        sibling: script.filter(is_siblings).map(|script| script.pid),
    }))
}

/// Gives back what is locked on a caller's description.
///
/// # Errors
/// It is closed, or `ENOLCK`.
pub fn release(number: RawFd) -> Result<()> {
    let file = descriptor::open(number)?.file;
    // Where it has no slots, there is nothing to give back; a directory has none.
    let _ = Slots::of(&file).give_back();
    flock(&file, FlockOperation::Unlock).with_context(|| format!("cannot unlock descriptor {number}"))
}

/// Whether what is locked on the caller's description was locked by this
/// process, and not by another one that shares it.
pub fn is_locked_by_us(file: &File) -> bool {
    // As /proc numbers us.
    let us = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse::<i32>().ok());
    match (kernel::locker_of(file), us) {
        (Some(locker), Some(us)) => locker.pid == us,
        // It cannot be seen.
        _ => true,
    }
}

/// Whether the script is still there, and has the locked description open.
pub fn has_it(script: &Script, lock: &File) -> bool {
    let Some(lock) = FileId::of(lock) else { return false };
    let is_it = |line: &KernelLock| matches!(line, KernelLock::Flock(file, _) if *file == lock);
    is_alive(script) && has_a_descriptor(script.pid, is_it)
}

/// Whether the script has not ended.
pub fn is_alive(script: &Script) -> bool {
    process::incarnation(script.pid) == Some((script.start, script.id))
}

/// Whether it is one of our ancestors.
fn is_ours(script: &Script) -> bool {
    let us = getpid().as_raw_nonzero().get();
    is_alive(script) && process::ancestors(us).any(|ancestor| ancestor == script.pid)
}

/// The nearest of our ancestors that has the description on which we have just
/// taken the lock: the script.
pub fn script(lock: &File) -> Option<Script> {
    let lock = FileId::of(lock)?;
    let us = getpid().as_raw_nonzero().get();
    let is_it =
        |line: &KernelLock| matches!(line, KernelLock::Flock(file, locker) if *file == lock && locker.pid == us);
    let pid = process::ancestors(us).find(|pid| has_a_descriptor(*pid, is_it))?;
    let (start, id) = process::incarnation(pid)?;
    Some(Script { pid, start, id })
}

/// Whether a process has a description open with such a lock on it.
fn has_a_descriptor(pid: i32, is_it: impl Fn(&KernelLock) -> bool) -> bool {
    let descriptors = kernel::descriptors_of(pid).unwrap_or_default();
    descriptors.iter().any(|descriptor| descriptor.locks.iter().any(&is_it))
}
