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
mod floor;
mod held;
mod kernel;
mod nesting;
mod open;
pub mod prune;
mod queue;
mod queued;
mod rivals;
mod slots;
mod survey;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use contender::Contender;
pub use dir::{Advice, Dir};
pub use held::FileHeld;
use nesting::{Marker, Nesting};
pub use nesting::{VARIABLE as HELD_VARIABLE, renumber as renumber_held};
pub use queue::MAX_SLOTS;
pub use queued::FileQueued;
pub use survey::Survey;

use super::{Admission, Grant, Holder, Mode, Patience, Refusal, Store};
use crate::name;
use crate::sys;

/// Which lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `DIR/NAME.lock`.
    Name(Vec<u8>),
    /// Exactly this file or directory.
    Path(PathBuf),
}

impl Target {
    /// As the user gave it.
    pub fn name(&self) -> &[u8] {
        use std::os::unix::ffi::OsStrExt;
        match self {
            Target::Name(name) => name,
            Target::Path(path) => path.as_os_str().as_bytes(),
        }
    }
}

/// What is asked of all locks of a request.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Who may hold them beside us.
    pub mode: Mode,
    /// Fail if so many wait already, instead of waiting with them.
    pub max_waiters: Option<u32>,
    /// End who holds them.
    pub replace: bool,
    /// Take what a lockrun around us holds for held.
    pub reentrant: bool,
}

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
        Self { dir, targets, terms, around: nesting::markers() }
    }

    /// The value of [`HELD_VARIABLE`] for a command under these grants.
    pub fn held_variable(&self, grants: &[Grant]) -> String {
        nesting::for_command(&self.around, grants.iter().map(|grant| grant.marker.clone()))
    }

    /// The locks directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Which locks, in the order given.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The files that are locked.
    pub fn paths(&self) -> Vec<PathBuf> {
        let path = |target: &Target| match target {
            Target::Name(name) => self.dir.path().join(name::stem(name) + ".lock"),
            Target::Path(path) => path.clone(),
        };
        self.targets.iter().map(path).collect()
    }

    /// Whether a lockrun or a token around us holds one of them, so that it is
    /// not free before we end.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn would_wait_for_itself(&self) -> Result<bool> {
        for mut contender in self.contenders(&self.dir)? {
            let nestings = [contender.judge_markers(&self.around, false), contender.judge_tokens(false)?];
            if nestings.contains(&Nesting::Deadlock) {
                return Ok(true);
            }
        }
        Ok(false)
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

impl Store for FileEngine {
    type Place = FileQueued;
    type Held = FileHeld;

    fn request(&self, patience: &Patience) -> Result<Admission<FileQueued, FileHeld>> {
        // By tokens, which are asked for last.
        let mut covered: Vec<Marker> = Vec::new();
        let mut dir = self.dir.clone();
        'reopen: loop {
            let mut contenders = match self.contenders(&dir) {
                Err(_) if !dir.is_current() => {
                    dir = dir.reopen()?;
                    continue;
                }
                other => other?,
            };
            for contender in &mut contenders {
                match contender.judge_markers(&self.around, self.terms.reentrant) {
                    Nesting::Outside => {}
                    Nesting::Covered(marker) => contender.cover(marker.fence, marker.slot()),
                    Nesting::Deadlock => return Ok(Admission::Refused(Refusal::Deadlock)),
                }
                if let Some(marker) = covered.iter().find(|marker: &&Marker| marker.identity == contender.identity()) {
                    contender.cover(marker.fence, marker.slot());
                }
            }
            for contender in &mut contenders {
                if !contender.enter_door(patience)? {
                    return Ok(if patience.queue { Admission::TimedOut } else { Admission::Refused(Refusal::Busy) });
                }
            }
            // Every door is ours: whatever is decided now, nobody sees half
            // of it.
            let mut blocked = None;
            for (position, contender) in contenders.iter_mut().enumerate() {
                if !contender.take()? {
                    blocked = Some(position);
                    break;
                }
            }
            for contender in &contenders {
                if !contender.is_current()? {
                    dir = dir.reopen()?;
                    continue 'reopen;
                }
            }
            let suspects = match (self.terms.mode, blocked) {
                // Sharing with one's own token would be granted, too.
                (Mode::Shared, _) => &contenders[..],
                // Also what would have to be waited for later.
                (_, Some(blocked)) => &contenders[blocked..],
                (_, None) => &[],
            };
            for contender in suspects.iter().filter(|contender| !contender.is_covered()) {
                match contender.judge_tokens(self.terms.reentrant)? {
                    Nesting::Outside => {}
                    Nesting::Covered(marker) => {
                        covered.push(marker);
                        continue 'reopen;
                    }
                    Nesting::Deadlock => return Ok(Admission::Refused(Refusal::Deadlock)),
                }
            }
            let Some(blocked) = blocked else {
                return Ok(Admission::Granted(FileHeld::new(dir, contenders)));
            };
            if !patience.queue {
                return Ok(Admission::Refused(Refusal::Busy));
            }
            if let Some(most) = self.terms.max_waiters.filter(|_| !self.terms.replace) {
                for contender in &mut contenders[blocked..] {
                    if contender.would_wait_with(most as usize)? {
                        return Ok(Admission::Refused(Refusal::QueueFull));
                    }
                }
            }
            let contender = &mut contenders[blocked];
            // Told now and not after a long wait.
            contender.read_own_text()?;
            contender.draw_ticket(self.terms.replace)?;
            for contender in &mut contenders {
                contender.leave_door()?;
            }
            if self.terms.replace {
                contenders[blocked].end_rivals()?;
            }
            return Ok(Admission::Queued(FileQueued::new(dir, contenders, blocked, self.terms.replace)));
        }
    }

    fn holders(&self) -> Vec<Holder> {
        let survey = Survey::new(Some(&self.dir));
        self.targets.iter().filter_map(|target| survey.of(target).ok()).flat_map(|seen| seen.holders).collect()
    }
}

/// Makes whoever holds a lock let go. Returns whether anybody was seen to
/// hold it.
///
/// # Errors
/// See `rivals::break_lock`; or the lock's file cannot be opened.
pub fn break_lock(path: &Path, kill_after: Duration) -> Result<bool> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let lock = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).and_then(sys::above_stdio);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    rivals::break_lock(&lock.into(), kill_after)
}
