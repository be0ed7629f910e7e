//! The engine of lock files: flock(2) on a file is the truth, byte-range
//! locks on the same file are the queue before it.
//!
//! One file per lock, `DIR/NAME.lock`, locked in four ways that never meet:
//!
//! | what | how | held |
//! |---|---|---|
//! | the lock | flock(2), exclusive or shared | while COMMAND lives |
//! | the door | one byte, write | for microseconds, never while waiting |
//! | a ticket | a byte range, numbered in order of arrival | while waiting |
//! | a ticket's wait byte | by the next in the queue | in passing |
//!
//! All four vanish with the process that held them, so no crash leaves
//! anything to clean up, and nothing has to be written to wait. The rules:
//!
//! - Under the door, a lock is taken only if no ticket conflicts and
//!   flock(2) succeeds at once; otherwise a ticket is drawn. So nobody who
//!   comes later passes anybody who waits.
//! - A waiter sleeps on the ticket before its own. Without one before it, it
//!   is at the head and sleeps on the lock itself. So one release wakes one
//!   process, whatever the depth of the queue.
//! - A ticket is given back only after the grant, so the next one comes to
//!   the lock after us.
//! - After each grant, the file behind the descriptor is compared with the
//!   one at the path. Who holds the lock of a removed file starts over.
//!
//! For `--file PATH` the lock is on PATH, which is never written to; door,
//! tickets and text are on a file in DIR that is named by PATH's identity.

mod contender;
mod dir;
mod files;
mod floor;
mod held;
mod identity;
mod kernel;
mod ledger;
mod lock_file;
mod lockruns;
mod nesting;
mod open;
mod prune;
mod queue;
mod queued;
mod request;
mod rivals;
mod slots;
mod store;
mod survey;
mod taking;

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use contender::Contender;
pub use dir::Dir;
pub use held::FileHeld;
use lock_file::LockFile;
pub use lockruns::is_token_keeper;
use nesting::Marker;
pub use queued::FileQueued;
pub use store::FileStore;
use survey::Survey;

use super::{Admission, Engine, Holder, Patience, Target, Terms};
use crate::record::{self, Record, Text};

/// Lock files in one directory: all or none of some targets.
#[derive(Clone)]
pub struct FileEngine {
    dir: Dir,
    targets: Vec<Target>,
    terms: Terms,
    /// What lockruns around us hold.
    around: Vec<Marker>,
}

impl FileEngine {
    /// A request for all of `targets`.
    pub fn new(dir: Dir, targets: Vec<Target>, terms: Terms) -> Self {
        Self { dir, targets, terms, around: nesting::markers_around() }
    }

    /// The locks directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Which locks, in the order given.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Opens every target, in the one order in which everybody takes them:
    /// by the identity of the locked file, which is the same for every
    /// spelling. Two spellings of one file become one.
    fn contenders(&self, dir: &Dir) -> Result<Vec<Contender>> {
        let mut contenders = self
            .targets
            .iter()
            .map(|target| Contender::open(dir, target, self.terms.mode))
            .collect::<Result<Vec<_>>>()?;
        contenders.sort_by_key(Contender::identity);
        contenders.dedup_by_key(|contender| contender.identity());
        Ok(contenders)
    }
}

impl Engine for FileEngine {
    type Queued = FileQueued;
    type Held = FileHeld;

    fn ask(&self, patience: &Patience) -> Result<Admission<FileQueued, FileHeld>> {
        request::ask(self, patience)
    }

    fn holders(&self) -> Vec<Holder> {
        let survey = Survey::new(Some(&self.dir));
        self.targets.iter().filter_map(|target| survey.of(target).ok()).flat_map(|seen| seen.holders).collect()
    }

    fn places(&self) -> Vec<Vec<u8>> {
        let path = |target: &Target| match target {
            Target::Name(name) => self.dir.path().join(LockFile::of_name(name).file_name()),
            Target::Path(path) => path.absolute().to_owned(),
        };
        self.targets.iter().map(|target| path(target).into_os_string().into_vec()).collect()
    }

    fn warnings(&self) -> Vec<String> {
        self.dir.warnings()
    }
}

/// Makes the lock file of a name if it is missing. Returns its path, from any
/// working directory.
///
/// # Errors
/// See [`open::lock_file`]; or its content is not lockrun's.
pub fn make_lock_file(dir: &Dir, name: &[u8]) -> Result<PathBuf> {
    let file_name = LockFile::of_name(name).file_name();
    let opened = open::lock_file(dir, &file_name)?;
    let path = dir.path_of(&file_name);
    if record::read(&opened.file) == Text::Foreign {
        bail!("{}: its content is not lockrun's", path.display());
    }
    Ok(path)
}

/// What a lock file says about a token's grant, or about a later one. Of a
/// pool, each slot remembers its own last grant.
pub fn record_of_grant(dir: &Path, file_name: &str, fence: u64, slot: Option<u32>) -> Option<Record> {
    // A forged token can name anything.
    let file = open::plain_file(&dir.join(file_name))?;
    let of_slot = slot.and_then(|slot| record::read_at(&file, record::offset_of_slot(slot)).record());
    of_slot.filter(|record| record.fence == fence).or_else(|| record::read(&file).record())
}
