//! Waiting for the locks of a set, one after the other.

use std::io;

use anyhow::Result;

use super::contender::Contender;
use super::dir::Dir;
use super::held::FileHeld;
use crate::lock::{Grant, NotGranted, Patience, Queued, Waited};
use crate::record::Claim;

/// A place in the queue of one lock of a set. Earlier locks are held; later ones have
/// not been requested yet.
pub struct FileQueued {
    dir: Option<Dir>,
    contenders: Vec<Contender>,
    /// The lock that we are waiting for.
    at: usize,
    replace: bool,
}

impl FileQueued {
    pub(super) fn new(dir: Option<Dir>, contenders: Vec<Contender>, at: usize, replace: bool) -> Self {
        Self { dir, contenders, at, replace }
    }

    /// Whether it is for one exclusive lock: then nothing else is waited for after the
    /// grant.
    pub fn is_for_one_lock_alone(&self) -> bool {
        matches!(&self.contenders[..], [only] if only.is_exclusive())
    }

    /// As [`Queued::wait`], with the result in [`into_held`](Self::into_held). Runs in
    /// a child that is killed to give up, or under an interrupting timer.
    pub fn wait_for_turn(&mut self, patience: &Patience) -> Result<Waited<()>> {
        loop {
            let this = &mut self.contenders[self.at];
            match this.wait() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    if patience.is_over() {
                        return Ok(Err(NotGranted::TimedOut));
                    }
                    continue;
                }
                Err(e) => return Err(this.lock_failed(e)),
            }
            // Takes the later ones as a new request would.
            loop {
                let is_last = self.at + 1 == self.contenders.len();
                // After the last one, all are checked: the first may have been replaced
                // during the wait.
                let first = if is_last { 0 } else { self.at };
                if is_last && !self.enter_doors(patience)? {
                    return Ok(Err(NotGranted::TimedOut));
                }
                for contender in &self.contenders[first..=self.at] {
                    if !contender.is_current()? {
                        return Ok(Err(NotGranted::Again));
                    }
                }
                self.at += 1;
                if is_last {
                    return Ok(Ok(()));
                }
                self.contenders[self.at - 1].give_ticket_back();
                let next = &mut self.contenders[self.at];
                if !next.enter_door(patience)? {
                    return Ok(Err(NotGranted::TimedOut));
                }
                let taken = next.take()?;
                if !taken {
                    next.draw_ticket(self.replace)?;
                }
                next.leave_door()?;
                if !taken {
                    if self.replace {
                        next.end_rivals()?;
                    }
                    break;
                }
            }
        }
    }

    /// Two who share a lock might read the same last number, so they number and
    /// record their grants under the door. `false`: the wait is over first.
    fn enter_doors(&mut self, patience: &Patience) -> Result<bool> {
        for contender in self.contenders.iter_mut().filter(|contender| !contender.is_exclusive()) {
            if !contender.is_covered() && !contender.enter_door(patience)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Prepares the grant while still waiting, because work done after it delays the
    /// whole queue. Returns the grants, if everything but their fencing tokens is
    /// known.
    pub fn prepare(&mut self, claim: &Claim) -> Option<Vec<Grant>> {
        let grants: Vec<_> =
            self.contenders.iter_mut().map(|contender| contender.prepare(self.dir.as_ref(), claim)).collect();
        grants.into_iter().collect()
    }

    /// For a process that shares our memory and has its own copies of our descriptors.
    pub fn of_cohabitant(&self) -> Self {
        let contenders = self.contenders.iter().map(Contender::of_cohabitant).collect();
        Self { dir: self.dir.clone(), contenders, ..*self }
    }

    /// Leaves the place to the child: it ends with that process.
    pub fn leave_to_child(&mut self) {
        self.contenders.iter_mut().for_each(Contender::close_queue);
    }

    /// The granted set, in both processes.
    pub fn into_held(self) -> FileHeld {
        FileHeld::new(self.dir, self.contenders)
    }
}

impl Queued for FileQueued {
    type Held = FileHeld;

    fn wait(mut self, patience: &Patience) -> Result<Waited<FileHeld>> {
        let turn = self.wait_for_turn(patience)?;
        Ok(turn.map(|()| self.into_held()))
    }
}
