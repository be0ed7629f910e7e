//! A granted set of locks, until it is given back.

use std::os::fd::RawFd;

use anyhow::Result;

use super::Dir;
use super::contender::Contender;
use crate::lock::{Grant, Held, Lost};
use crate::record::{Claim, Record};

/// A granted set of locks.
pub struct FileHeld {
    dir: Dir,
    contenders: Vec<Contender>,
}

impl FileHeld {
    pub(super) fn new(dir: Dir, contenders: Vec<Contender>) -> Self {
        Self { dir, contenders }
    }
}

impl Held for FileHeld {
    fn settle(&mut self, claim: &Claim) -> Result<()> {
        self.contenders.iter_mut().try_for_each(|contender| contender.settle(&self.dir, claim))
    }

    fn grants(&self) -> Vec<Grant> {
        self.contenders.iter().filter_map(Contender::grant).collect()
    }

    fn fences(&self) -> Vec<u64> {
        self.contenders.iter().filter_map(Contender::fence).collect()
    }

    fn step_aside(&mut self) {
        self.contenders.iter_mut().for_each(Contender::close_queue);
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.contenders.iter().filter_map(Contender::descriptor).collect()
    }

    fn amend(&self, change: &dyn Fn(&mut Record)) {
        for contender in &self.contenders {
            contender.amend(&self.dir, change);
        }
    }

    fn lost(&self) -> Option<Lost> {
        let lost = |contender: &Contender| Some(Lost { name: contender.name().to_vec(), how: contender.lost()? });
        self.contenders.iter().find_map(lost)
    }

    fn release(&mut self) -> Result<()> {
        self.contenders.iter().rev().try_for_each(Contender::release)
    }
}
