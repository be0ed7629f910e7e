//! The lock files of a directory, for commands that take no lock.

use std::cell::OnceCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::dir::Dir;
use super::identity::Identity;
use super::lock_file::LockFile;
use super::nesting::Nesting;
use super::request::FileEngine;
use super::survey::Survey;
use super::{descriptor, open, prune, rivals};
use crate::lock::{self, Seen, Store, Target, Terms};
use crate::record::{self, Record, Text};
use crate::sys;

/// The lock files of a directory, which may not exist yet.
pub struct FileStore {
    given: Option<PathBuf>,
    dir: OnceCell<Dir>,
}

impl FileStore {
    pub fn open(given: Option<PathBuf>) -> Result<Self> {
        let store = Self { given, dir: OnceCell::new() };
        store.dir()?;
        Ok(store)
    }

    /// Its path, also if it does not exist.
    fn path(&self) -> PathBuf {
        match self.dir.get() {
            Some(dir) => dir.path().to_owned(),
            None => self.given.clone().or_else(|| Dir::default_path().ok()).unwrap_or_default(),
        }
    }

    /// The directory, if it exists by now. Without it no named lock exists.
    fn dir(&self) -> Result<Option<&Dir>> {
        if self.dir.get().is_none() {
            let dir = match &self.given {
                Some(path) => Some(Dir::given_to_look(path)?),
                None => Dir::default_of_user_if_any()?,
            };
            if let Some(dir) = dir {
                let _ = self.dir.set(dir);
            }
        }
        Ok(self.dir.get())
    }
}

impl Store for FileStore {
    fn location(&self) -> String {
        self.path().display().to_string()
    }

    fn look(&self, targets: &[Target]) -> Result<Vec<Seen>> {
        let survey = Survey::new(self.dir()?);
        if targets.is_empty() {
            return survey.all();
        }
        targets.iter().map(|target| survey.of(target)).collect()
    }

    fn require_usable(&self, targets: &[Target]) -> Result<()> {
        let survey = Survey::new(self.dir()?);
        targets.iter().try_for_each(|target| survey.require_usable(target))
    }

    fn names(&self) -> Result<Vec<Vec<u8>>> {
        self.dir()?.map_or_else(|| Ok(Vec::new()), Survey::names_in)
    }

    fn would_wait_for_itself(&self, target: &Target, waits_forever: bool) -> Result<bool> {
        let Some(dir) = self.dir()? else { return Ok(false) };
        let mode = lock::Mode::Exclusive;
        let terms = Terms { mode, max_waiters: None, replace: false, reentrant: false, waits_forever };
        let engine = FileEngine::new(Some(dir.clone()), vec![target.clone()], terms);
        for mut contender in engine.contenders(Some(dir))? {
            let nestings = [contender.judge_markers(&engine.around, false), contender.judge_tokens(false)?];
            let is_deadlock = nestings.contains(&Nesting::Deadlock)
                || waits_forever && contender.judge_ancestors(true, false)? == Nesting::Deadlock;
            if is_deadlock {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn make_let_go(&self, target: &Target, kill_after: Duration) -> Result<bool> {
        let dir = self.dir()?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let lock = match (target, dir) {
            (Target::Name(name), Some(dir)) => {
                openat(dir, LockFile::of_name(name).file_name(), flags | OFlags::NOFOLLOW, Mode::empty())
            }
            (Target::Path(path), _) => openat(CWD, path.given(), flags, Mode::empty()),
            (Target::Name(_), None) | (Target::Descriptor(_), _) => return Ok(false),
        };
        let lock = lock.and_then(sys::above_stdio);
        if lock.as_ref().is_err_and(|error| *error == Errno::NOENT) {
            // Pruned: the holder has released it.
            return Ok(true);
        }
        let lock = lock.context("cannot open its file")?.into();
        let records = || dir.map_or_else(Vec::new, |dir| records_of(dir, &lock));
        rivals::break_lock(&lock, &records, kill_after)
    }

    fn prune(&self, only_look: bool, older: Duration, tell: &mut dyn FnMut(Result<Vec<u8>>)) -> Result<Option<Error>> {
        self.dir()?.map_or(Ok(None), |dir| prune::all(dir, only_look, older, tell))
    }
}

fn records_of(dir: &Dir, lock: &File) -> Vec<(Option<u32>, Record)> {
    let Ok(stat) = fstat(lock) else { return Vec::new() };
    let queue = descriptor::queue_of(dir, lock, Identity::from(&stat)).file_name();
    open::lock_file_to_look_at(dir, &queue).map_or_else(|_| Vec::new(), |(text, _)| record::all(&text))
}

/// Creates the lock file of a name if it is missing. Returns its absolute path.
pub fn make_lock_file(dir: &Dir, name: &[u8]) -> Result<PathBuf> {
    let file_name = LockFile::of_name(name).file_name();
    let opened = open::lock_file(dir, &file_name)?;
    let path = dir.path_of(&file_name);
    if record::read(&opened.file) == Text::Foreign {
        bail!("{}: its content is not lockrun's", path.display());
    }
    Ok(path)
}

/// The record of a token's grant, or of a later one. In a pool, each slot has its own
/// record.
pub fn record_of_grant(dir: &Path, file_name: &str, fence: u64, slot: Option<u32>) -> Option<Record> {
    // A forged token can name any path.
    let file = open::plain_file(&dir.join(file_name))?;
    let of_slot = slot.and_then(|slot| record::read_at(&file, record::offset_of_slot(slot)).record());
    of_slot.filter(|record| record.fence == fence).or_else(|| record::read(&file).record())
}
