//! A held lock of any engine.

use std::os::fd::RawFd;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Pid;

use super::AnyHeld;
use crate::lock::{Grant, Held, Holder, Loss, Note, Released, Wakes};
use crate::record::{Claim, RunEnd};
#[cfg(feature = "net")]
use crate::token::AnyToken;

impl AnyHeld {
    /// What `check` in COMMAND needs to find the locks on a server, which are called
    /// `name`.
    #[cfg_attr(not(feature = "net"), allow(unused_variables))]
    pub fn rows(&self, name: &str) -> Option<String> {
        match self {
            Self::Files(_) => None,
            #[cfg(feature = "net")]
            Self::Server(held) => Some(AnyToken::Server(held.token(name)).to_word()),
        }
    }
}

impl Held for AnyHeld {
    fn settle(&mut self, claim: &Claim) -> Result<()> {
        match self {
            Self::Files(held) => held.settle(claim),
            #[cfg(feature = "net")]
            Self::Server(held) => held.settle(claim),
        }
    }

    fn grants(&self) -> Vec<Grant> {
        match self {
            Self::Files(held) => held.grants(),
            #[cfg(feature = "net")]
            Self::Server(held) => held.grants(),
        }
    }

    fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Files(held) => held.descriptors(),
            #[cfg(feature = "net")]
            Self::Server(held) => held.descriptors(),
        }
    }

    fn started(&mut self, command: Pid) {
        match self {
            Self::Files(held) => held.started(command),
            #[cfg(feature = "net")]
            Self::Server(held) => held.started(command),
        }
    }

    fn wakes(&self) -> Wakes<'_> {
        match self {
            Self::Files(held) => held.wakes(),
            #[cfg(feature = "net")]
            Self::Server(held) => held.wakes(),
        }
    }

    fn tend(&mut self) -> Option<Loss> {
        match self {
            Self::Files(held) => held.tend(),
            #[cfg(feature = "net")]
            Self::Server(held) => held.tend(),
        }
    }

    fn successors(&mut self, limit: Duration) -> Option<Vec<Holder>> {
        match self {
            Self::Files(held) => held.successors(limit),
            #[cfg(feature = "net")]
            Self::Server(held) => held.successors(limit),
        }
    }

    fn note(&mut self, note: &Note<'_>) {
        match self {
            Self::Files(held) => held.note(note),
            #[cfg(feature = "net")]
            Self::Server(held) => held.note(note),
        }
    }

    fn ended(&mut self, command: Option<Pid>, end: &RunEnd) {
        match self {
            Self::Files(held) => held.ended(command, end),
            #[cfg(feature = "net")]
            Self::Server(held) => held.ended(command, end),
        }
    }

    fn release(&mut self, limit: Duration) -> Result<Released> {
        match self {
            Self::Files(held) => held.release(limit),
            #[cfg(feature = "net")]
            Self::Server(held) => held.release(limit),
        }
    }
}
