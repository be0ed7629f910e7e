//! The engine that grants the locks, chosen once. Nothing else outside of the
//! engines names one; dispatch is static.
//!
//! A new engine is one more arm in each `match` here, and the options that
//! choose it in [`AnyEngine::choose`] and [`AnyStore::choose`].

use std::fs::File;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use rustix::io::Errno;

use crate::lock::file::standing;
use crate::lock::file::{self, Dir, FileStore, descriptor};
use crate::lock::{
    Admission, Descriptor, Engine, Grant, Held, Holder, Loss, Note, Patience, Queued, Released, Rules, Seen, Store,
    Target, Terms, Waited, Wakes,
};
use crate::record::{Claim, Record};
use crate::token::Token;

/// Lock files have a child that waits in the queue and becomes COMMAND: see
/// `command/wait_in_child.rs`.
pub use crate::lock::file::standing::DescriptorGrant;
pub use crate::lock::file::{FileEngine, FileHeld, FileQueued};

/// Names the locks directory where `--dir` does not.
const DIR: &str = "LOCKRUN_DIR";

/// The directory of `--dir` or of the environment; `None`: the user's own.
fn given(dir: Option<PathBuf>) -> Option<PathBuf> {
    dir.or_else(|| std::env::var_os(DIR).map(PathBuf::from))
}

fn locks_directory(dir: Option<PathBuf>) -> Result<Dir> {
    match given(dir) {
        Some(dir) => Dir::given(&dir),
        None => Dir::default_of_user(),
    }
}

/// A request to an engine.
pub enum AnyEngine {
    /// Lock files on this machine.
    Files(FileEngine),
}

/// A place in the queue of an engine.
pub enum AnyQueued {
    /// See [`AnyEngine::Files`].
    Files(FileQueued),
}

/// A lock that an engine granted.
pub enum AnyHeld {
    /// See [`AnyEngine::Files`].
    Files(FileHeld),
}

/// Where locks are looked at that are not taken.
pub enum AnyStore {
    /// Lock files on this machine.
    Files(FileStore),
}

impl AnyEngine {
    /// A request for all of `targets`, in `--dir` or wherever locks are.
    ///
    /// # Errors
    /// That place cannot be used.
    pub fn choose(dir: Option<PathBuf>, targets: Vec<Target>, terms: Terms) -> Result<Self> {
        Ok(Self::Files(FileEngine::new(Some(locks_directory(dir)?), targets, terms)))
    }

    /// A request for a descriptor of our caller's, which has to be that of every
    /// lock of `beside`. Without a default locks directory that can be used, the
    /// lock has no queue but the kernel's, and the error says why.
    ///
    /// # Errors
    /// Another lock was named, or a directory that cannot be used.
    pub fn on_descriptor(
        dir: Option<PathBuf>,
        descriptor: Descriptor,
        beside: &[Target],
        terms: Terms,
    ) -> Result<(Self, Option<Error>)> {
        if descriptor.rules == Rules::Flocks && !descriptor::can_have_queue(descriptor.number) {
            return Ok((Self::Files(FileEngine::new(None, vec![Target::Descriptor(descriptor)], terms)), None));
        }
        let needs_directory = terms.replace || terms.max_waiters.is_some() || given(dir.clone()).is_some();
        let is_named = beside.iter().any(|target| matches!(target, Target::Name(_)));
        let (dir, why_not) = match locks_directory(dir) {
            Ok(dir) => (Some(dir), None),
            Err(error) if needs_directory || is_named => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let descriptor = descriptor::named_in(dir.as_ref(), descriptor)?;
        for target in beside {
            descriptor::require_of(dir.as_ref(), &descriptor, target)?;
        }
        Ok((Self::Files(FileEngine::new(dir, vec![Target::Descriptor(descriptor)], terms)), why_not))
    }

    /// The first lock's name.
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Files(files) => files.targets().first().map_or(&[], Target::name),
        }
    }

    /// Where the locks are, absolute, for a token.
    ///
    /// # Errors
    /// Our working directory has been removed.
    pub fn place(&self) -> Result<PathBuf> {
        match self {
            Self::Files(files) => {
                let dir = files.dir().context("a token needs a locks directory")?;
                std::path::absolute(dir.path()).context("cannot tell where we are")
            }
        }
    }
}

impl Engine for AnyEngine {
    type Queued = AnyQueued;
    type Held = AnyHeld;

    fn ask(&self, patience: &Patience) -> Result<Admission<AnyQueued, AnyHeld>> {
        Ok(match self {
            Self::Files(files) => match files.ask(patience)? {
                Admission::Granted(held) => Admission::Granted(AnyHeld::Files(held)),
                Admission::Queued(queued) => Admission::Queued(AnyQueued::Files(queued)),
                Admission::Not(not) => Admission::Not(not),
            },
        })
    }

    fn holders(&self) -> Vec<Holder> {
        match self {
            Self::Files(files) => files.holders(),
        }
    }

    fn places(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Files(files) => files.places(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        match self {
            Self::Files(files) => files.warnings(),
        }
    }
}

impl Queued for AnyQueued {
    type Held = AnyHeld;

    fn wait(self, patience: &Patience) -> Result<Waited<AnyHeld>> {
        match self {
            Self::Files(queued) => Ok(queued.wait(patience)?.map(AnyHeld::Files)),
        }
    }
}

impl Held for AnyHeld {
    fn settle(&mut self, claim: &Claim) -> Result<()> {
        match self {
            Self::Files(held) => held.settle(claim),
        }
    }

    fn grants(&self) -> Vec<Grant> {
        match self {
            Self::Files(held) => held.grants(),
        }
    }

    fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Files(held) => held.descriptors(),
        }
    }

    fn wakes(&self) -> Wakes<'_> {
        match self {
            Self::Files(held) => held.wakes(),
        }
    }

    fn tend(&mut self) -> Option<Loss> {
        match self {
            Self::Files(held) => held.tend(),
        }
    }

    fn note(&mut self, note: &Note<'_>) {
        match self {
            Self::Files(held) => held.note(note),
        }
    }

    fn release(&mut self, limit: Duration) -> Result<Released> {
        match self {
            Self::Files(held) => held.release(limit),
        }
    }
}

impl AnyStore {
    /// The locks in `--dir`, or wherever they are.
    ///
    /// # Errors
    /// That place cannot be used.
    pub fn choose(dir: Option<PathBuf>) -> Result<Self> {
        Ok(Self::Files(FileStore::open(given(dir))?))
    }
}

impl Store for AnyStore {
    fn look(&self, targets: &[Target]) -> Result<Vec<Seen>> {
        match self {
            Self::Files(store) => store.look(targets),
        }
    }

    fn require_usable(&self, targets: &[Target]) -> Result<()> {
        match self {
            Self::Files(store) => store.require_usable(targets),
        }
    }

    fn names(&self) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::Files(store) => store.names(),
        }
    }

    fn would_wait_for_itself(&self, target: &Target, waits_forever: bool) -> Result<bool> {
        match self {
            Self::Files(store) => store.would_wait_for_itself(target, waits_forever),
        }
    }

    fn make_let_go(&self, seen: &Seen, kill_after: Duration) -> Result<bool> {
        match self {
            Self::Files(store) => store.make_let_go(seen, kill_after),
        }
    }

    fn prune(&self, only_look: bool, tell: &mut dyn FnMut(Result<Vec<u8>>)) -> Result<Option<Error>> {
        match self {
            Self::Files(store) => store.prune(only_look, tell),
        }
    }
}

/// Looks at a descriptor of our caller's. To be called before any other file is
/// opened: a number that is closed would be the next one's.
///
/// # Errors
/// It is closed, or cannot be a lock.
pub fn descriptor(number: RawFd) -> Result<Descriptor> {
    descriptor::look_at(number)
}

/// The same for whatever flock(1) locks.
///
/// # Errors
/// It is closed.
pub fn descriptor_of_any_kind(number: RawFd) -> Result<Descriptor> {
    descriptor::look_at_any(number)
}

/// Opens a file or directory as flock(1) does, and makes it if it is missing.
///
/// # Errors
/// No permission, a missing directory, no space.
pub fn open_user_file(path: &Path) -> Result<File, Errno> {
    descriptor::open_file(path)
}

/// Whether an open file is still what is at its path.
pub fn is_at(file: &File, path: &Path) -> bool {
    let now = rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino)) == now
}

/// The descriptor that a `--file /dev/fd/N` means.
pub fn descriptor_in(path: &Path) -> Option<RawFd> {
    descriptor::number_in(path)
}

/// What is locked on a descriptor of our caller's; `None`: nothing.
///
/// # Errors
/// It is closed.
pub fn descriptor_grant(descriptor: Descriptor) -> Result<(Descriptor, Option<DescriptorGrant>)> {
    // Without a directory, nothing is known of it but what the kernel shows.
    let dir = match given(None) {
        Some(path) => Dir::given_to_look(&path).ok(),
        None => Dir::default_of_user_if_any().unwrap_or_default(),
    };
    let descriptor = descriptor::named_in(dir.as_ref(), descriptor)?;
    let grant = standing::look(dir.as_ref(), &descriptor)?;
    Ok((descriptor, grant))
}

/// Unlocks a descriptor of our caller's.
///
/// # Errors
/// It is closed, or `ENOLCK`.
pub fn unlock_descriptor(number: RawFd) -> Result<()> {
    standing::release(number)
}

/// Makes the lock file of a name if it is missing. Returns its absolute path, and
/// what to tell about the directory.
///
/// # Errors
/// It cannot be made, or something else is there.
pub fn make_lock_file(dir: Option<PathBuf>, name: &[u8]) -> Result<(PathBuf, Vec<String>)> {
    let dir = locks_directory(dir)?;
    Ok((file::make_lock_file(&dir, name)?, dir.warnings()))
}

/// What is written about a token's grant, or about a later one of its lock.
pub fn record_of_grant(token: &Token) -> Option<Record> {
    let file = &token.grants.first()?.file;
    file::record_of_grant(token.dir(), file, token.fence(), token.slot)
}

/// Whether a process is behind a token and holds its lock: it belongs to whoever
/// has the token, wherever that was acquired.
pub fn is_token_keeper(pid: i32) -> bool {
    file::is_token_keeper(pid)
}
