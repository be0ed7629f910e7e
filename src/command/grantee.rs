//! COMMAND made ready, and what it is told about the grant.

use anyhow::Result;

use super::engine::{FileHeld, FileQueued};
use super::environment;
use crate::lock::{Grant, Held};
use crate::record::Claim;
use crate::sys::Exec;

/// COMMAND, to be started under a lock. It owns all that it needs.
pub struct Grantee {
    /// COMMAND, ready to be executed.
    pub exec: Exec,
    claim: Claim,
    /// Whether COMMAND has been told all of the grant but its number.
    is_told: bool,
}

impl Grantee {
    /// For this command, which holds the lock as `claim` says.
    pub fn new(exec: Exec, claim: Claim) -> Self {
        Self { exec, claim, is_told: false }
    }

    /// COMMAND will know of the grant and inherit the lock. Returns the first
    /// lock's number.
    ///
    /// # Errors
    /// A NUL byte in what it is told.
    pub fn tell(&mut self, held: &impl Held) -> Result<u64> {
        let grants = held.grants();
        environment::tell(&mut self.exec, &grants)?;
        self.exec.inherit(held.descriptors());
        Ok(first_fence(&grants))
    }

    /// For a place in the queue of lock files: prepares the grant to come, its
    /// record and the environment, if all but the number is known. There is time
    /// now.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn foretell(&mut self, place: &mut FileQueued) -> Result<()> {
        if let Some(grants) = place.prepare(&self.claim) {
            environment::tell(&mut self.exec, &grants)?;
            self.is_told = true;
        }
        Ok(())
    }

    /// The foretold grant is there: it is numbered and recorded, and as
    /// [`tell`](Self::tell).
    ///
    /// # Errors
    /// As [`FileHeld::record`] and [`tell`](Self::tell).
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
