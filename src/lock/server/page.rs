//! The page of memory that the keeper and its wrapper share, so that the clock of the
//! lease needs no message.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::pause::Pause;
use crate::sys::{Shared, suspend_aware_now};

#[derive(Default)]
pub struct Page {
    valid_until: AtomicU64,
    ttl: AtomicU64,
    alive_at: AtomicU64,
    pause_from: AtomicU64,
    pause_until: AtomicU64,
    lease: AtomicU64,
    attempt: AtomicU32,
}

impl Page {
    pub fn new() -> std::io::Result<Shared<Self>> {
        let page = Shared::<Self>::zeroed()?;
        page.show_alive();
        Ok(page)
    }

    /// Until when the locks are ours, since boot; zero before the grant.
    pub fn valid_until(&self) -> Duration {
        Duration::from_nanos(self.valid_until.load(Ordering::SeqCst))
    }

    pub fn set_valid_until(&self, at: Duration) {
        self.valid_until.store(nanos(at), Ordering::SeqCst);
    }

    /// The lease's length, see [`Tenure::ttl`](super::request::Tenure::ttl).
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl.load(Ordering::SeqCst))
    }

    pub fn set_ttl(&self, ttl: Duration) {
        self.ttl.store(nanos(ttl), Ordering::SeqCst);
    }

    pub fn alive_at(&self) -> Duration {
        Duration::from_nanos(self.alive_at.load(Ordering::SeqCst))
    }

    pub fn show_alive(&self) {
        self.alive_at.store(nanos(suspend_aware_now()), Ordering::SeqCst);
    }

    pub fn pause(&self) -> Pause {
        let time = |word: &AtomicU64| Duration::from_nanos(word.load(Ordering::SeqCst));
        Pause { from: time(&self.pause_from), until: time(&self.pause_until) }
    }

    pub fn set_pause(&self, pause: Pause) {
        self.pause_from.store(nanos(pause.from), Ordering::SeqCst);
        self.pause_until.store(nanos(pause.until), Ordering::SeqCst);
    }

    pub fn lease(&self) -> u64 {
        self.lease.load(Ordering::SeqCst)
    }

    pub fn set_lease(&self, lease: u64) {
        self.lease.store(lease, Ordering::SeqCst);
    }

    /// How many places in the queue were lost before this one.
    pub fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::SeqCst)
    }

    pub fn set_attempt(&self, attempt: u32) {
        self.attempt.store(attempt, Ordering::SeqCst);
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}
