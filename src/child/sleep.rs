//! Where the supervisor sleeps: on signals, and on what the lock waits for.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::sys::{self, Arrived, SignalFd, Timer};

/// Where the supervisor sleeps.
#[derive(Default)]
pub struct Sleep {
    /// Only made if there is more than signals to wait for.
    signals: Option<SignalFd>,
    armed_for: Option<Duration>,
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

    /// Sleeps until a signal comes or the descriptor is readable, at most `limit`.
    /// Returns the signal, and whether the descriptor is readable.
    pub fn until(
        &mut self,
        descriptor: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> io::Result<(Arrived, bool)> {
        let Some(descriptor) = descriptor else { return Ok((sys::next_signal(limit), false)) };
        let signals = match self.signals.take() {
            Some(signals) => signals,
            None => SignalFd::of_all()?,
        };
        let signals = self.signals.insert(signals);
        let mut polled = [PollFd::new(&descriptor, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        sys::wait_until_ready(&mut polled, limit)?;
        let is_readable = !polled[0].revents().is_empty();
        Ok((sys::next_signal(Some(Duration::ZERO)), is_readable))
    }
}
