//! Locks that are already on the caller's own description, and their owners.
//!
//! Processes that share a description share its lock: flock(2) succeeds for each. So we
//! check who called flock(2) before and after we take it.

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

/// The lock on the caller's description, compared with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    Unlocked,
    /// At least as strong as requested; the fencing token, if known.
    Held(Option<u64>),
    /// Shared, but requested exclusively.
    Weaker,
    /// Held by another living process that shares the description and is not our
    /// ancestor.
    Sibling(i32),
}

/// Inspects the lock on the caller's description.
///
/// `Unlocked` where the kernel does not show it (Linux before 4.1, no /proc): there
/// flock(2) succeeds at once if the description has the lock.
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

#[derive(Debug)]
pub struct DescriptorGrant {
    pub name: Vec<u8>,
    /// The fencing token, if lockrun granted the lock.
    pub fence: Option<u64>,
    /// Whether the file is no longer at its path.
    pub removed: bool,
    /// Another living process that holds it, shares the description, and is not our
    /// ancestor.
    pub sibling: Option<i32>,
}

/// The lock on a caller's description, if it has one. `dir` may have the record, if it
/// is not in the file itself.
/// Errors: the descriptor is closed.
pub fn look(dir: Option<&Dir>, descriptor: &Descriptor) -> Result<Option<DescriptorGrant>> {
    let opened = descriptor::open(descriptor.number)?;
    let Some(locker) = kernel::locker_of(&opened.file) else { return Ok(None) };
    // A lock file in any directory, or the file with its queue.
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

/// Releases the lock on a caller's description.
/// Errors: the descriptor is closed; `ENOLCK`.
pub fn release(number: RawFd) -> Result<()> {
    let file = descriptor::open(number)?.file;
    // Fails harmlessly without slots, such as on a directory.
    let _ = Slots::of(&file).give_back();
    flock(&file, FlockOperation::Unlock).with_context(|| format!("cannot unlock descriptor {number}"))
}

/// Whether this process took the lock, and not another one that shares the description.
pub fn is_locked_by_us(file: &File) -> bool {
    // Our number in the pid namespace of /proc.
    let us = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse::<i32>().ok());
    match (kernel::locker_of(file), us) {
        (Some(locker), Some(us)) => locker.pid == us,
        // Not visible.
        _ => true,
    }
}

/// Whether the script is alive and has the locked description open.
pub fn has_it(script: &Script, lock: &File) -> bool {
    let Some(lock) = FileId::of(lock) else { return false };
    let is_it = |line: &KernelLock| matches!(line, KernelLock::Flock(file, _) if *file == lock);
    is_alive(script) && has_a_descriptor(script.pid, is_it)
}

pub fn is_alive(script: &Script) -> bool {
    process::incarnation(script.pid) == Some((script.start, script.id))
}

fn is_ours(script: &Script) -> bool {
    let us = getpid().as_raw_nonzero().get();
    is_alive(script) && process::ancestors(us).any(|ancestor| ancestor == script.pid)
}

/// The nearest ancestor that has the description which we just locked: the script.
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
