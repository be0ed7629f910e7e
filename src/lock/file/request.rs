//! One request for all its locks: granted, queued, or refused.

use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, anyhow};

use super::contender::Contender;
use super::dir::Dir;
use super::held::FileHeld;
use super::lock_file::LockFile;
use super::nesting::{self, Marker, Nesting};
use super::queued::FileQueued;
use super::survey::Survey;
use crate::advice::Advice;
use crate::lock::{Admission, Engine, Holder, Mode, NotGranted, Patience, Refusal, Target, Terms};
use crate::sys;

/// A request for lock files in one directory: all or none.
#[derive(Clone)]
pub struct FileEngine {
    /// `None`: only descriptors and paths, in the kernel's own queue.
    dir: Option<Dir>,
    targets: Vec<Target>,
    terms: Terms,
    pub(super) around: Vec<Marker>,
}

impl FileEngine {
    pub fn new(dir: Option<Dir>, targets: Vec<Target>, terms: Terms) -> Self {
        Self { dir, targets, terms, around: nesting::markers_around() }
    }

    pub fn dir(&self) -> Option<&Dir> {
        self.dir.as_ref()
    }

    /// The requested locks, in the order given.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Opens every target, ordered by the identity of the locked file. All requests use
    /// this order, which prevents deadlocks. Two spellings of one file become one.
    pub fn contenders(&self, dir: Option<&Dir>) -> Result<Vec<Contender>> {
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
        let mut request = Request { engine: self, dir: self.dir.clone(), covered: Vec::new(), failures: 0 };
        for _ in 0..MOST_TRIES {
            if let Some(admission) = request.ask_once(patience)? {
                return Ok(admission);
            }
            // What ends us does it here: asking itself hears nothing.
            sys::let_signals_in(&patience.mask.and(&sys::STOPPING));
            if patience.waits() && patience.is_over() {
                return Ok(Admission::Not(NotGranted::TimedOut));
            }
        }
        Err(anyhow!("the file at its path is a different one each time it is opened"))
            .context(Advice::new("check what replaces it, or its file system"))
    }

    fn holders(&self) -> Vec<Holder> {
        let survey = Survey::new(self.dir.as_ref());
        self.targets.iter().filter_map(|target| survey.of(target).ok()).flat_map(|seen| seen.holders).collect()
    }

    fn locations(&self) -> Vec<Vec<u8>> {
        let path = |target: &Target| match target {
            Target::Name(name) => {
                let file_name = LockFile::of_name(name).file_name();
                self.dir.as_ref().map_or_else(|| file_name.clone().into(), |dir| dir.path().join(&file_name))
            }
            Target::Path(path) => path.absolute().to_owned(),
            Target::Descriptor(descriptor) => descriptor.path.clone().unwrap_or_default(),
        };
        self.targets.iter().map(|target| path(target).into_os_string().into_vec()).collect()
    }

    fn warnings(&self) -> Vec<String> {
        self.dir.as_ref().map(Dir::warnings).unwrap_or_default()
    }
}

/// A file that is removed or replaced all the time is another one no more often in
/// a row. One that seems to be for good is on a file system that contradicts
/// itself.
const MOST_TRIES: u32 = 1000;

/// After that many, an error is not about a directory that was just replaced.
const MOST_FAILURES: u32 = 20;

/// State that is kept between two tries.
struct Request<'a> {
    engine: &'a FileEngine,
    dir: Option<Dir>,
    /// Grants of tokens and ancestors, which are found last.
    covered: Vec<Marker>,
    /// Tries whose directory was replaced before the files were open.
    failures: u32,
}

/// `None`: start again.
type Try<T> = Result<Option<T>>;

impl Request<'_> {
    fn ask_once(&mut self, patience: &Patience) -> Try<Admission<FileQueued, FileHeld>> {
        let Some(mut contenders) = self.open()? else { return Ok(None) };
        if self.judge_markers(&mut contenders) == Nesting::Deadlock {
            return Ok(Some(self.deadlock(contenders)?));
        }
        for contender in &mut contenders {
            if !contender.enter_door(patience)? {
                let busy = refused(Refusal::Busy);
                return Ok(Some(if patience.waits() { Admission::Not(NotGranted::TimedOut) } else { busy }));
            }
        }
        // All doors are ours, so the decision is atomic. Locks taken through the door
        // have their record by now.
        for contender in &mut contenders {
            if let Some(refusal) = contender.judge_descriptor()? {
                return Ok(Some(refused(refusal)));
            }
        }
        let blocked = take_all(&mut contenders)?;
        for contender in &contenders {
            if !contender.is_current()? {
                self.reopen_dir()?;
                return Ok(None);
            }
        }
        match self.judge_tokens(&contenders, blocked)? {
            Nesting::Outside => {}
            Nesting::Covered(marker) => {
                self.covered.push(marker);
                return Ok(None);
            }
            Nesting::Deadlock => return Ok(Some(self.deadlock(contenders)?)),
        }
        match blocked {
            None => Ok(Some(Admission::Granted(FileHeld::new(self.dir.clone(), contenders)))),
            Some(blocked) => self.queue(contenders, blocked, patience),
        }
    }

    /// Refuses, and finds out whether `--reentrant` would have helped.
    fn deadlock(&self, mut contenders: Vec<Contender>) -> Result<Admission<FileQueued, FileHeld>> {
        let mut reentrant_helps = !self.engine.terms.reentrant;
        for contender in &mut contenders {
            let nestings = [
                contender.judge_markers(&self.engine.around, true),
                contender.judge_tokens(true)?,
                contender.judge_ancestors(false, true)?,
            ];
            reentrant_helps &= !nestings.contains(&Nesting::Deadlock);
        }
        Ok(refused(Refusal::Deadlock { reentrant_helps }))
    }

    /// `None`: the directory was replaced.
    fn open(&mut self) -> Try<Vec<Contender>> {
        match self.engine.contenders(self.dir.as_ref()) {
            Err(_) if self.failures < MOST_FAILURES && self.dir.as_ref().is_some_and(|dir| !dir.is_current()) => {
                self.failures += 1;
                self.reopen_dir()?;
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn reopen_dir(&mut self) -> Result<()> {
        self.dir = self.dir.as_ref().map(Dir::reopen).transpose()?;
        Ok(())
    }

    /// Before anything is taken: grants of outer lockruns.
    fn judge_markers(&self, contenders: &mut [Contender]) -> Nesting {
        for contender in contenders {
            match contender.judge_markers(&self.engine.around, self.engine.terms.reentrant) {
                Nesting::Outside => {}
                Nesting::Covered(marker) => contender.cover(marker.fence, marker.slot()),
                Nesting::Deadlock => return Nesting::Deadlock,
            }
            let covered = self.covered.iter().find(|marker| marker.identity == contender.identity());
            if let Some(marker) = covered {
                contender.cover(marker.fence, marker.slot());
            }
        }
        Nesting::Outside
    }

    /// Afterwards: grants of tokens, on the locks that were not free.
    fn judge_tokens(&self, contenders: &[Contender], blocked: Option<usize>) -> Result<Nesting> {
        let suspects = match (self.engine.terms.mode, blocked) {
            // A shared lock is granted next to one's own token as well.
            (Mode::Shared, _) => contenders,
            // The later ones would have to be waited for, too.
            (_, Some(blocked)) => &contenders[blocked..],
            (_, None) => &[],
        };
        for contender in suspects.iter().filter(|contender| !contender.is_covered()) {
            match contender.judge_tokens(self.engine.terms.reentrant)? {
                Nesting::Outside => {}
                nesting => return Ok(nesting),
            }
        }
        Ok(Nesting::Outside)
    }

    /// Then: locks of ancestors, whatever the environment says.
    fn judge_ancestors(&self, contenders: &[Contender], blocked: usize) -> Result<Nesting> {
        for (position, contender) in contenders.iter().enumerate().skip(blocked) {
            if contender.is_covered() {
                continue;
            }
            match contender.judge_ancestors(position == blocked, self.engine.terms.reentrant)? {
                Nesting::Outside => {}
                nesting => return Ok(nesting),
            }
        }
        Ok(Nesting::Outside)
    }

    /// Joins the queue of the blocked lock, and leaves every door.
    fn queue(
        &mut self,
        mut contenders: Vec<Contender>,
        blocked: usize,
        patience: &Patience,
    ) -> Try<Admission<FileQueued, FileHeld>> {
        let terms = self.engine.terms;
        if terms.reentrant
            && let Nesting::Covered(marker) = self.judge_ancestors(&contenders, blocked)?
        {
            self.covered.push(marker);
            return Ok(None);
        }
        if !patience.waits() {
            return Ok(Some(refused(Refusal::Busy)));
        }
        if let Some(most) = terms.max_waiters.filter(|_| !terms.replace) {
            for contender in &mut contenders[blocked..] {
                if contender.would_wait_with(most as usize)? {
                    return Ok(Some(refused(Refusal::QueueFull)));
                }
            }
        }
        // Reports a bad file now rather than after a long wait.
        contenders[blocked].require_own_text()?;
        contenders[blocked].draw_ticket(terms.replace)?;
        for contender in &mut contenders {
            contender.leave_door()?;
        }
        // Only now, because it takes too long to do under a door. --replace never ends
        // our own ancestor.
        if (terms.waits_forever || terms.replace) && self.judge_ancestors(&contenders, blocked)? == Nesting::Deadlock {
            return Ok(Some(self.deadlock(contenders)?));
        }
        if terms.replace {
            contenders[blocked].end_rivals()?;
        }
        Ok(Some(Admission::Queued(FileQueued::new(self.dir.clone(), contenders, blocked, terms.replace))))
    }
}

/// Takes the locks in order. Returns the first that is not free.
fn take_all(contenders: &mut [Contender]) -> Result<Option<usize>> {
    for (position, contender) in contenders.iter_mut().enumerate() {
        if !contender.take()? {
            return Ok(Some(position));
        }
    }
    Ok(None)
}

fn refused(refusal: Refusal) -> Admission<FileQueued, FileHeld> {
    Admission::Not(NotGranted::Refused(refusal))
}
