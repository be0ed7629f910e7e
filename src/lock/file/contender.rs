//! One lock of a request, from opening to release: its [`Files`], [`Taking`] and
//! [`Ledger`], and the outer grants of it.

use std::io;
use std::os::fd::RawFd;

use anyhow::{Context, Result};
use rustix::process::{Pid, getpid};

use super::dir::Dir;
use super::files::Files;
use super::identity::Identity;
use super::ledger::{self, Ledger, Whose};
use super::nesting::{self, Marker, Nesting, Strength};
use super::standing::{self, Standing};
use super::taking::Taking;
use crate::lock::Target;
use crate::lock::{Grant, Mode, Patience, Refusal};
use crate::record::{self, Claim, Record, RunEnd, Script};

pub struct Contender {
    files: Files,
    taking: Taking,
    ledger: Ledger,
    /// Covered by an outer grant: nothing to take.
    covered: bool,
    held_around: Vec<Marker>,
    /// Taken on the caller's description, where it would outlive us.
    must_undo: bool,
    /// Locked on the caller's description by another process that shares it.
    is_siblings: bool,
}

impl Contender {
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

    /// For a process that shares our memory and has its own copies of our descriptors.
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

    pub fn cover(&mut self, fence: u64, slot: Option<u32>) {
        self.covered = true;
        self.files.close_queue();
        self.taking.cover(slot);
        self.ledger.cover(fence);
    }

    pub fn is_exclusive(&self) -> bool {
        self.taking.mode() == Mode::Exclusive
    }

    pub fn is_covered(&self) -> bool {
        self.covered
    }

    /// Identity of the locked file; several locks are taken in this order.
    pub fn identity(&self) -> Identity {
        self.files.identity()
    }

    pub fn enter_door(&mut self, patience: &Patience) -> Result<bool> {
        self.taking.enter_door(&self.files, patience)
    }

    pub fn leave_door(&mut self) -> Result<()> {
        self.taking.leave_door(&self.files)
    }

    pub fn take(&mut self) -> Result<bool> {
        let taken = self.covered || self.taking.take(&mut self.files)?;
        if taken {
            self.remember_to_undo();
        }
        Ok(taken)
    }

    pub fn wait(&mut self) -> io::Result<()> {
        self.taking.wait(&self.files)?;
        self.remember_to_undo();
        Ok(())
    }

    /// flock(2) on the caller's description also succeeds if another process that
    /// shares it has the lock. That is no grant to us, and not ours to release.
    fn remember_to_undo(&mut self) {
        if self.files.are_callers() && !self.covered {
            self.must_undo = standing::is_locked_by_us(self.files.lock());
            self.is_siblings = !self.must_undo;
        }
    }

    pub fn leave_to_caller(&mut self) {
        self.must_undo = false;
    }

    /// Why a request on the caller's description is refused, judged before anything is
    /// taken. A lock held strongly enough covers it; a weaker one is released, because
    /// flock(2) cannot upgrade it in place.
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
            // flock(1) downgrades it in place.
            _ if is_flocks && self.taking.make_weaker(&self.files)? => self.cover(0, None),
            Standing::Sibling(_) => self.cover(0, None),
            Standing::Held(fence) => self.cover(fence.unwrap_or_default(), None),
            Standing::Weaker => self.taking.release(&self.files)?,
        }
        Ok(None)
    }

    /// The script whose description we locked, if visible.
    pub fn script(&self) -> Option<Script> {
        (self.files.are_callers() && !self.covered).then(|| standing::script(self.files.lock())).flatten()
    }

    pub fn draw_ticket(&mut self, will_replace: bool) -> Result<()> {
        self.taking.draw_ticket(&self.files, will_replace)
    }

    pub fn give_ticket_back(&mut self) {
        self.taking.give_ticket_back(&self.files);
    }

    pub fn would_wait_with(&mut self, most: usize) -> Result<bool> {
        if self.covered { Ok(false) } else { self.taking.would_wait_with(&mut self.files, most) }
    }

    pub fn end_rivals(&self) -> Result<()> {
        self.taking.end_rivals(&self.files)
    }

    /// Whether the grant counts: see [`Files::are_current`].
    pub fn is_current(&self) -> Result<bool> {
        if self.covered { Ok(true) } else { Ok(!self.is_siblings && self.files.are_current()?) }
    }

    pub fn require_own_text(&self) -> Result<()> {
        ledger::read_own_text(&self.files).map(drop)
    }

    /// Draws the fencing token and writes the record. The lock is held.
    pub fn settle(&mut self, dir: Option<&Dir>, claim: &Claim) -> Result<()> {
        if self.covered { Ok(()) } else { self.ledger.settle(&self.files, &self.taking, dir, claim) }
    }

    /// See [`Ledger::prepare`]. Returns the grant, if all but its fencing token is
    /// known.
    pub fn prepare(&mut self, dir: Option<&Dir>, claim: &Claim) -> Option<Grant> {
        if !self.covered {
            self.ledger.prepare(&self.files, &self.taking, dir, claim);
        }
        // The slot is not known before the grant.
        let is_foretold = self.taking.slot().is_some() || !matches!(self.taking.mode(), Mode::Slot { .. });
        self.grant().filter(|_| is_foretold)
    }

    pub fn fence(&self) -> Option<u64> {
        self.ledger.fence()
    }

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

    pub fn judge_markers(&mut self, around: &[Marker], reentrant: bool) -> Nesting {
        if self.files.are_flocks() {
            return Nesting::Outside;
        }
        self.held_around = nesting::held_around(around, self.files.lock(), self.files.identity());
        nesting::judge(&self.held_around, self.taking.mode(), reentrant)
    }

    /// The effect of tokens. Only for locks that are shared or could not be taken: any
    /// other was free.
    pub fn judge_tokens(&self, reentrant: bool) -> Result<Nesting> {
        let Some(lock) = self.locked().filter(|_| !self.files.are_flocks()) else { return Ok(Nesting::Outside) };
        let held = nesting::held_by_tokens(lock).with_context(|| self.files.cannot_lock())?;
        if held.is_empty() {
            return Ok(Nesting::Outside);
        }
        let all = [&self.held_around[..], &held].concat();
        Ok(nesting::judge(&all, self.taking.mode(), reentrant))
    }

    /// The effect of ancestors, which is the slowest check. For a lock that could not
    /// be taken (`is_blocked`), and for those after it.
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

    /// Lets the next waiter move up.
    pub fn close_queue(&mut self) {
        match self.files.queue() {
            // If it fails, they end with this process.
            Some(queue) if self.ledger.is_token_announced() => {
                let _ = queue.leave_door().and_then(|()| queue.give_tickets_back());
            }
            _ => self.files.close_queue(),
        }
        self.taking.queue_closed();
    }

    /// The descriptor that COMMAND inherits.
    pub fn descriptor(&self) -> Option<RawFd> {
        (!self.covered).then(|| self.files.descriptor())
    }

    pub fn name(&self) -> &[u8] {
        self.files.name()
    }

    /// How the lock was lost, as a clause; `None`: it was not.
    pub fn lost(&self) -> Option<String> {
        (!self.covered && self.files.is_replaced()).then(|| self.files.how_replaced())
    }

    /// Releases the lock, also for processes that still have it open.
    pub fn release(&self) -> Result<()> {
        if self.covered {
            return Ok(());
        }
        self.ledger.withdraw_token(&self.files)?;
        self.taking.release(&self.files)
    }

    pub fn amend(&self, dir: Option<&Dir>, change: &dyn Fn(&mut Record)) {
        ledger::amend(&self.files, &self.taking, dir, &self.ledger.ours(), change);
    }

    /// Notes when the run expires. `command` as in [`conclude`](Self::conclude).
    pub fn expire(&self, dir: Option<&Dir>, command: Option<Pid>, at: Option<&str>) {
        if !self.covered {
            let change = |record: &mut Record| record.expires = at.map(str::to_owned);
            ledger::amend(&self.files, &self.taking, dir, &granted_to(command), &change);
        }
    }

    /// Notes the end of the run while the lock is still held. `command`: its process,
    /// which was granted the lock if it had to wait.
    pub fn conclude(&self, dir: Option<&Dir>, command: Option<Pid>, end: &RunEnd) {
        if self.covered {
            return;
        }
        ledger::amend(&self.files, &self.taking, dir, &granted_to(command), &|record| {
            record.drop_arguments();
            record.run = Some(end.clone());
        });
    }

    pub fn lock_failed(&self, error: io::Error) -> anyhow::Error {
        self.files.lock_failed(error)
    }
}

/// The grant to us, or to the child that waited and became COMMAND.
fn granted_to(command: Option<Pid>) -> Whose {
    let us = getpid();
    Whose::Processes([us, command.unwrap_or(us)].map(|pid| pid.as_raw_nonzero().get()))
}

impl Drop for Contender {
    fn drop(&mut self) {
        if self.must_undo {
            let _ = self.taking.release(&self.files);
        }
    }
}
