//! A granted set of locks, until it is given back.

use std::os::fd::RawFd;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Pid;

use super::contender::Contender;
use super::dir::Dir;
use crate::lock::{Grant, Held, Loss, LossKind, Lost, Note, Released};
use crate::record::{Claim, Record, RunEnd, Script};

/// A granted set of locks. The kernel keeps it without renewal.
pub struct FileHeld {
    dir: Option<Dir>,
    contenders: Vec<Contender>,
    command: Option<Pid>,
}

impl FileHeld {
    pub(super) fn new(dir: Option<Dir>, contenders: Vec<Contender>) -> Self {
        Self { dir, contenders, command: None }
    }

    /// Draws the fencing tokens and writes the records, as [`settle`](Held::settle)
    /// does, but leaves the queue open for execve of COMMAND to close, which is faster.
    pub fn record(&mut self, claim: &Claim) -> Result<()> {
        self.contenders.iter_mut().try_for_each(|contender| contender.settle(self.dir.as_ref(), claim))
    }

    /// The fencing tokens of the [`grants`](Held::grants), in their order.
    pub fn fences(&self) -> Vec<u64> {
        self.contenders.iter().filter_map(Contender::fence).collect()
    }
}

impl FileHeld {
    /// The script whose descriptor we locked, if visible.
    pub fn script(&self) -> Option<Script> {
        self.contenders.iter().find_map(Contender::script)
    }

    /// Leaves locks on the caller's description to the caller. Dropping without this
    /// releases them.
    pub fn leave_to_caller(mut self) {
        self.contenders.iter_mut().for_each(Contender::leave_to_caller);
    }
}

impl Held for FileHeld {
    fn settle(&mut self, claim: &Claim) -> Result<()> {
        self.record(claim)?;
        self.contenders.iter_mut().for_each(Contender::close_queue);
        Ok(())
    }

    fn grants(&self) -> Vec<Grant> {
        self.contenders.iter().filter_map(Contender::grant).collect()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.contenders.iter().filter_map(Contender::descriptor).collect()
    }

    /// Lost if the file at a lock's path is another one by now.
    fn tend(&mut self) -> Option<Loss> {
        let lost = |contender: &Contender| {
            Some(Lost { name: contender.name().to_vec(), kind: LossKind::Gone, how: contender.lost()? })
        };
        self.contenders.iter().find_map(lost).map(|lost| Loss { lost, kill_at: None })
    }

    fn started(&mut self, command: Pid) {
        self.command = Some(command);
    }

    fn note(&mut self, note: &Note<'_>) {
        let dir = self.dir.as_ref();
        for contender in &self.contenders {
            match note {
                Note::Expires(at) => contender.expire(dir, self.command, *at),
                Note::Ended(how) => contender.amend(dir, &|record: &mut Record| {
                    record.drop_arguments();
                    record.ended = Some((*how).to_owned());
                }),
            }
        }
    }

    fn ended(&mut self, command: Option<Pid>, end: &RunEnd) {
        self.contenders.iter().for_each(|contender| contender.conclude(self.dir.as_ref(), command, end));
    }

    /// Unlocking takes no time.
    fn release(&mut self, _limit: Duration) -> Result<Released> {
        self.contenders.iter().rev().try_for_each(Contender::release)?;
        Ok(Released::Done)
    }
}
