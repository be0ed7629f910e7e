//! COMMAND, prepared to run under a lock.

use anyhow::Result;

use super::engine::{FileHeld, FileQueued};
use super::{environment, renewals};
use crate::lock::{Grant, Held};
use crate::record::Claim;
use crate::sys::Exec;

/// COMMAND, prepared to run under a lock. It owns everything that it uses.
pub struct Grantee {
    pub exec: Exec,
    claim: Claim,
    /// For `lockrun renew` and `lockrun check` in COMMAND: variables and their values.
    about: Vec<(&'static str, String)>,
    /// Whether the environment has the grant, except for its number.
    is_told: bool,
}

impl Grantee {
    /// `claim`: what is recorded about the holder. `renewals`: where COMMAND asks for
    /// renewals.
    pub fn new(exec: Exec, claim: Claim, renewals: Option<String>) -> Self {
        let about = renewals.map(|word| (renewals::VARIABLE, word)).into_iter().collect();
        Self { exec, claim, about, is_told: false }
    }

    /// The rows of the run on a server.
    pub fn set_rows(&mut self, rows: String) {
        self.about.push((environment::ROWS, rows));
    }

    /// Puts the grant into the environment and lets COMMAND inherit the lock. Returns
    /// the first lock's number.
    pub fn tell(&mut self, held: &impl Held) -> Result<u64> {
        let grants = held.grants();
        environment::tell(&mut self.exec, &grants, &self.about)?;
        self.exec.inherit(held.descriptors());
        Ok(first_fence(&grants))
    }

    /// Prepares record and environment while there is time, in the queue of lock files,
    /// if everything but the number is known.
    pub fn foretell(&mut self, place: &mut FileQueued) -> Result<()> {
        if let Some(grants) = place.prepare(&self.claim) {
            environment::tell(&mut self.exec, &grants, &self.about)?;
            self.is_told = true;
        }
        Ok(())
    }

    /// Completes what [`foretell`](Self::foretell) has prepared, or does all of it now;
    /// records the grant.
    pub fn settle(&mut self, held: &mut FileHeld) -> Result<u64> {
        held.record(&self.claim)?;
        let fences = held.fences();
        if !(self.is_told && environment::renumber(&mut self.exec, &fences)) {
            return self.tell(held);
        }
        self.exec.inherit(held.descriptors());
        Ok(fences.first().copied().unwrap_or(0))
    }
}

fn first_fence(grants: &[Grant]) -> u64 {
    grants.first().map_or(0, |grant| grant.fence)
}
