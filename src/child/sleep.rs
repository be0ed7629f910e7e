//! Where the supervisor sleeps: on signals, on what the lock waits for, and on requests.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::renewals::Renewals;
use crate::sys::{self, Arrived, SignalFd, Timer};

#[derive(Default)]
pub struct Sleep {
    /// Only made if there is more than signals to wait for.
    signals: Option<SignalFd>,
    armed_for: Option<Duration>,
}

/// What ended a sleep.
pub struct Woken {
    pub signal: Arrived,
    /// The lock's descriptor is readable.
    pub by_lock: bool,
    /// Which descriptors of [`Renewals`] are.
    pub by_renewals: Vec<bool>,
}

impl Sleep {
    /// Sets the timer to `next`, a time since boot.
    pub fn arm(&mut self, timer: Option<&Timer>, next: Option<Duration>) -> io::Result<()> {
        if let (Some(timer), Some(at)) = (timer, next.filter(|_| next != self.armed_for)) {
            timer.fire_at(at)?;
            self.armed_for = next;
        }
        Ok(())
    }

    /// Sleeps until a signal comes, the lock's descriptor is readable, or a request
    /// comes, at most `limit`.
    pub fn until(
        &mut self,
        lock: Option<BorrowedFd<'_>>,
        renewals: Option<&dyn Renewals>,
        limit: Option<Duration>,
    ) -> io::Result<Woken> {
        if lock.is_none() && renewals.is_none() {
            return Ok(Woken { signal: sys::next_signal(limit), by_lock: false, by_renewals: Vec::new() });
        }
        let signals = match self.signals.take() {
            Some(signals) => signals,
            None => SignalFd::of_all()?,
        };
        let signals = self.signals.insert(signals);
        let renewals = renewals.map(Renewals::descriptors).unwrap_or_default();
        let sources = lock.iter().chain(&renewals).map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut polled: Vec<_> = sources.chain([PollFd::new(signals, PollFlags::IN)]).collect();
        sys::wait_until_ready(&mut polled, limit)?;
        let mut readable = polled.iter().map(|fd| !fd.revents().is_empty());
        let by_lock = lock.is_some() && readable.next() == Some(true);
        let by_renewals = readable.take(renewals.len()).collect();
        Ok(Woken { signal: sys::next_signal(Some(Duration::ZERO)), by_lock, by_renewals })
    }
}
