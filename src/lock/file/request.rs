//! Asking for all locks of a request at once: granted, queued, or refused.

use anyhow::Result;

use super::contender::Contender;
use super::nesting::{Marker, Nesting};
use super::{Dir, FileEngine, FileHeld, FileQueued};
use crate::lock::{Admission, Mode, NotGranted, Patience, Refusal};

/// Asks for all locks of `engine`; see [`Engine::ask`](crate::lock::Engine::ask).
pub fn ask(engine: &FileEngine, patience: &Patience) -> Result<Admission<FileQueued, FileHeld>> {
    let mut request = Request { engine, dir: engine.dir.clone(), covered_by_tokens: Vec::new() };
    loop {
        if let Some(admission) = request.ask_once(patience)? {
            return Ok(admission);
        }
    }
}

/// What is kept between two tries.
struct Request<'a> {
    engine: &'a FileEngine,
    dir: Dir,
    /// Found last, when the doors are ours already.
    covered_by_tokens: Vec<Marker>,
}

/// What asks for a new start, as `None` of a whole try.
type Try<T> = Result<Option<T>>;

impl Request<'_> {
    fn ask_once(&mut self, patience: &Patience) -> Try<Admission<FileQueued, FileHeld>> {
        let Some(mut contenders) = self.open()? else { return Ok(None) };
        if self.judge_markers(&mut contenders) == Nesting::Deadlock {
            return Ok(Some(refused(Refusal::Deadlock)));
        }
        for contender in &mut contenders {
            if !contender.enter_door(patience)? {
                let busy = refused(Refusal::Busy);
                return Ok(Some(if patience.waits() { Admission::Not(NotGranted::TimedOut) } else { busy }));
            }
        }
        // Every door is ours: whatever is decided now, nobody sees half of it.
        let blocked = take_all(&mut contenders)?;
        for contender in &contenders {
            if !contender.is_current()? {
                self.dir = self.dir.reopen()?;
                return Ok(None);
            }
        }
        match self.judge_tokens(&contenders, blocked)? {
            Nesting::Outside => {}
            Nesting::Covered(marker) => {
                self.covered_by_tokens.push(marker);
                return Ok(None);
            }
            Nesting::Deadlock => return Ok(Some(refused(Refusal::Deadlock))),
        }
        Ok(Some(match blocked {
            None => Admission::Granted(FileHeld::new(self.dir.clone(), contenders)),
            Some(blocked) => self.queue(contenders, blocked, patience)?,
        }))
    }

    /// `None`: the directory was replaced.
    fn open(&mut self) -> Try<Vec<Contender>> {
        match self.engine.contenders(&self.dir) {
            Err(_) if !self.dir.is_current() => {
                self.dir = self.dir.reopen()?;
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Before anything is taken: what lockruns around us hold.
    fn judge_markers(&self, contenders: &mut [Contender]) -> Nesting {
        for contender in contenders {
            match contender.judge_markers(&self.engine.around, self.engine.terms.reentrant) {
                Nesting::Outside => {}
                Nesting::Covered(marker) => contender.cover(marker.fence, marker.slot()),
                Nesting::Deadlock => return Nesting::Deadlock,
            }
            let covered = self.covered_by_tokens.iter().find(|marker| marker.identity == contender.identity());
            if let Some(marker) = covered {
                contender.cover(marker.fence, marker.slot());
            }
        }
        Nesting::Outside
    }

    /// Afterwards: what tokens around us hold of the locks that others have.
    fn judge_tokens(&self, contenders: &[Contender], blocked: Option<usize>) -> Result<Nesting> {
        let suspects = match (self.engine.terms.mode, blocked) {
            // Sharing with one's own token would be granted, too.
            (Mode::Shared, _) => contenders,
            // Also what would have to be waited for later.
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

    /// Joins the queue of the lock that others have, and leaves every door.
    fn queue(
        &self,
        mut contenders: Vec<Contender>,
        blocked: usize,
        patience: &Patience,
    ) -> Result<Admission<FileQueued, FileHeld>> {
        let terms = self.engine.terms;
        if !patience.waits() {
            return Ok(refused(Refusal::Busy));
        }
        if let Some(most) = terms.max_waiters.filter(|_| !terms.replace) {
            for contender in &mut contenders[blocked..] {
                if contender.would_wait_with(most as usize)? {
                    return Ok(refused(Refusal::QueueFull));
                }
            }
        }
        // What is wrong with the file is told now, and not after a long wait.
        contenders[blocked].require_own_text()?;
        contenders[blocked].draw_ticket(terms.replace)?;
        for contender in &mut contenders {
            contender.leave_door()?;
        }
        if terms.replace {
            contenders[blocked].end_rivals()?;
        }
        Ok(Admission::Queued(FileQueued::new(self.dir.clone(), contenders, blocked, terms.replace)))
    }
}

/// Takes one after the other; the first one that others have.
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
