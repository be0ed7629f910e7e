//! One lock of a request, from its files to its release: [`Files`], how far
//! we have come with [`Taking`] it, its [`Ledger`], and what is held around us.

use std::io;
use std::os::fd::RawFd;

use anyhow::{Context, Result};

use super::dir::Dir;
use super::files::Files;
use super::identity::Identity;
use super::ledger::{self, Ledger};
use super::nesting::{self, Marker, Nesting, Strength};
use super::standing::{self, Standing};
use super::taking::Taking;
use crate::lock::Target;
use crate::lock::{Grant, Mode, Patience, Refusal};
use crate::record::{self, Claim, Record, Script};

/// One lock of a request.
pub struct Contender {
    files: Files,
    taking: Taking,
    ledger: Ledger,
    /// Held by a lockrun around us, so that there is nothing to take.
    covered: bool,
    /// What lockruns around us hold of it.
    held_around: Vec<Marker>,
    /// We took it on our caller's description, where it would stay.
    must_undo: bool,
    /// It is locked on our caller's description, but by somebody who shares that.
    is_siblings: bool,
}

impl Contender {
    /// Opens a target's files.
    ///
    /// # Errors
    /// See [`Files::open`].
    pub fn open(dir: Option<&Dir>, target: &Target, mode: Mode) -> Result<Self> {
        Ok(Self {
            files: Files::open(dir, target, mode)?,
            taking: Taking::new(mode),
            ledger: Ledger::default(),
            covered: false,
            held_around: Vec::new(),
            must_undo: false,
            is_siblings: false,
        })
    }

    /// The same for a process that lives in our memory, whose own are only its
    /// descriptors.
    pub fn of_cohabitant(&self) -> Self {
        Self {
            files: self.files.of_cohabitant(),
            taking: self.taking.of_cohabitant(),
            ledger: self.ledger.of_cohabitant(),
            covered: self.covered,
            held_around: self.held_around.clone(),
            must_undo: self.must_undo,
            is_siblings: self.is_siblings,
        }
    }

    /// Nothing has to be taken: a lockrun around us holds it, by this grant.
    pub fn cover(&mut self, fence: u64, slot: Option<u32>) {
        self.covered = true;
        self.files.close_queue();
        self.taking.cover(slot);
        self.ledger.cover(fence);
    }

    /// Whether nobody else is to hold it beside us.
    pub fn is_exclusive(&self) -> bool {
        self.taking.mode() == Mode::Exclusive
    }

    /// Whether nothing has to be taken.
    pub fn is_covered(&self) -> bool {
        self.covered
    }

    /// Which file is locked, for the order in which several are taken.
    pub fn identity(&self) -> Identity {
        self.files.identity()
    }

    /// See [`Taking::enter_door`].
    pub fn enter_door(&mut self, patience: &Patience) -> Result<bool> {
        self.taking.enter_door(&self.files, patience)
    }

    /// See [`Taking::leave_door`].
    pub fn leave_door(&mut self) -> Result<()> {
        self.taking.leave_door(&self.files)
    }

    /// See [`Taking::take`].
    pub fn take(&mut self) -> Result<bool> {
        let taken = self.covered || self.taking.take(&mut self.files)?;
        if taken {
            self.remember_to_undo();
        }
        Ok(taken)
    }

    /// See [`Taking::wait`].
    pub fn wait(&mut self) -> io::Result<()> {
        self.taking.wait(&self.files)?;
        self.remember_to_undo();
        Ok(())
    }

    /// On our caller's description, flock(2) also succeeds if somebody who shares
    /// it has the lock. That is not ours to give back, and no grant to us.
    fn remember_to_undo(&mut self) {
        if self.files.are_callers() && !self.covered {
            self.must_undo = standing::is_locked_by_us(self.files.lock());
            self.is_siblings = !self.must_undo;
        }
    }

    /// Leaves what we took on our caller's description to our caller.
    pub fn leave_to_caller(&mut self) {
        self.must_undo = false;
    }

    /// Before anything is taken, on our caller's description: why it cannot be
    /// asked for. What is held already need not be taken; what is held too weakly
    /// is given back, because a lock cannot be made stronger in place.
    pub fn judge_descriptor(&mut self) -> Result<Option<Refusal>> {
        if !self.files.are_callers() {
            return Ok(None);
        }
        let is_flocks = self.files.are_flocks();
        if self.files.is_removed() && !is_flocks {
            return Ok(Some(Refusal::Removed));
        }
        match standing::standing(&self.files, self.taking.mode()) {
            Standing::Unlocked => {}
            Standing::Sibling(pid) if !is_flocks => return Ok(Some(Refusal::SharedWith(pid))),
            // flock(1) makes it weaker, in place.
            _ if is_flocks && self.taking.make_weaker(&self.files)? => self.cover(0, None),
            Standing::Sibling(_) => self.cover(0, None),
            Standing::Held(fence) => self.cover(fence.unwrap_or_default(), None),
            Standing::Weaker => self.taking.release(&self.files)?,
        }
        Ok(None)
    }

    /// For whom we took it on our caller's description, as far as that is seen.
    pub fn script(&self) -> Option<Script> {
        (self.files.are_callers() && !self.covered).then(|| standing::script(self.files.lock())).flatten()
    }

    /// See [`Taking::draw_ticket`].
    pub fn draw_ticket(&mut self, will_replace: bool) -> Result<()> {
        self.taking.draw_ticket(&self.files, will_replace)
    }

    /// See [`Taking::give_ticket_back`].
    pub fn give_ticket_back(&mut self) {
        self.taking.give_ticket_back(&self.files);
    }

    /// See [`Taking::would_wait_with`].
    pub fn would_wait_with(&mut self, most: usize) -> Result<bool> {
        if self.covered { Ok(false) } else { self.taking.would_wait_with(&mut self.files, most) }
    }

    /// See [`Taking::end_rivals`].
    pub fn end_rivals(&self) -> Result<()> {
        self.taking.end_rivals(&self.files)
    }

    /// After a grant: whether it is worth anything, see [`Files::are_current`].
    pub fn is_current(&self) -> Result<bool> {
        if self.covered { Ok(true) } else { Ok(!self.is_siblings && self.files.are_current()?) }
    }

    /// See [`ledger::read_own_text`].
    pub fn require_own_text(&self) -> Result<()> {
        ledger::read_own_text(&self.files).map(drop)
    }

    /// Numbers the grant and writes who we are. The lock is held.
    pub fn settle(&mut self, dir: Option<&Dir>, claim: &Claim) -> Result<()> {
        if self.covered { Ok(()) } else { self.ledger.settle(&self.files, &self.taking, dir, claim) }
    }

    /// See [`Ledger::prepare`]. Returns the grant, if all but its number is
    /// known now.
    pub fn prepare(&mut self, dir: Option<&Dir>, claim: &Claim) -> Option<Grant> {
        if !self.covered {
            self.ledger.prepare(&self.files, &self.taking, dir, claim);
        }
        // Which slot of a pool it will be is not known.
        let is_foretold = self.taking.slot().is_some() || !matches!(self.taking.mode(), Mode::Slot { .. });
        self.grant().filter(|_| is_foretold)
    }

    /// The number of our grant.
    pub fn fence(&self) -> Option<u64> {
        self.ledger.fence()
    }

    /// What was granted to us.
    pub fn grant(&self) -> Option<Grant> {
        let fence = self.ledger.fence()?;
        let slot = self.taking.slot();
        let strength = Strength::of(self.taking.mode(), slot);
        Some(Grant {
            name: self.files.name().to_vec(),
            file: self.files.queue_name().to_owned(),
            fence,
            slot,
            marker: Marker { identity: self.files.identity(), fence, strength }.to_string(),
        })
    }

    /// What a request of this mode comes to, under these markers.
    pub fn judge_markers(&mut self, around: &[Marker], reentrant: bool) -> Nesting {
        if self.files.are_flocks() {
            return Nesting::Outside;
        }
        self.held_around = nesting::held_around(around, self.files.lock(), self.files.identity());
        nesting::judge(&self.held_around, self.taking.mode(), reentrant)
    }

    /// And under tokens. To be asked only of what could not be taken, or is
    /// shared: anything else that is taken was nobody's.
    pub fn judge_tokens(&self, reentrant: bool) -> Result<Nesting> {
        let Some(lock) = self.locked().filter(|_| !self.files.are_flocks()) else { return Ok(Nesting::Outside) };
        let held = nesting::held_by_tokens(lock).with_context(|| self.files.cannot_lock())?;
        if held.is_empty() {
            return Ok(Nesting::Outside);
        }
        let all = [&self.held_around[..], &held].concat();
        Ok(nesting::judge(&all, self.taking.mode(), reentrant))
    }

    /// And under ancestors that are seen to hold it, which takes longest. To be
    /// asked of what could not be taken (`is_blocked`), or will be asked for
    /// after that.
    pub fn judge_ancestors(&self, is_blocked: bool, reentrant: bool) -> Result<Nesting> {
        let queue = self.files.queue();
        let records = queue.map_or_else(Vec::new, |queue| record::all(queue.file()));
        let mut held = nesting::held_by_ancestors(self.files.lock(), self.files.identity(), &records);
        let mode = self.taking.mode();
        let shares = |held: &[Marker]| held.iter().all(|marker| marker.strength == Strength::Shared);
        let judge = |held: &[Marker], reentrant| match mode {
            Mode::Shared if !is_blocked && shares(held) => Nesting::Outside,
            _ => nesting::judge(held, mode, reentrant),
        };
        let nesting = judge(&held, reentrant);
        let Some(lock) = self.locked().filter(|_| nesting == Nesting::Outside) else { return Ok(nesting) };
        held.extend(nesting::held_by_tokens_of_others(lock).with_context(|| self.files.cannot_lock())?);
        Ok(judge(&held, false))
    }

    fn locked(&self) -> Option<nesting::Lock<'_>> {
        Some(nesting::Lock {
            file: self.files.lock(),
            identity: self.files.identity(),
            queue: self.files.queue()?,
            queue_identity: self.files.queue_identity()?,
        })
    }

    /// Lets the next in the queue come forward.
    pub fn close_queue(&mut self) {
        match self.files.queue() {
            // If it fails, they go with us.
            Some(queue) if self.ledger.is_token_announced() => {
                let _ = queue.leave_door().and_then(|()| queue.give_tickets_back());
            }
            _ => self.files.close_queue(),
        }
        self.taking.queue_closed();
    }

    /// What COMMAND inherits.
    pub fn descriptor(&self) -> Option<RawFd> {
        (!self.covered).then(|| self.files.descriptor())
    }

    /// The lock's name, as it was given.
    pub fn name(&self) -> &[u8] {
        self.files.name()
    }

    /// How it was lost, as a clause; `None`: it was not.
    pub fn lost(&self) -> Option<String> {
        (!self.covered && self.files.is_replaced()).then(|| self.files.how_replaced())
    }

    /// Gives the lock back, also from processes that still have it open.
    pub fn release(&self) -> Result<()> {
        if self.covered {
            return Ok(());
        }
        self.ledger.withdraw_token(&self.files)?;
        self.taking.release(&self.files)
    }

    /// See [`Ledger::amend`].
    pub fn amend(&self, dir: Option<&Dir>, change: &dyn Fn(&mut Record)) {
        self.ledger.amend(&self.files, self.taking.slot(), dir, change);
    }

    /// See [`Files::lock_failed`].
    pub fn lock_failed(&self, error: io::Error) -> anyhow::Error {
        self.files.lock_failed(error)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if self.must_undo {
            let _ = self.taking.release(&self.files);
        }
    }
}
