//! Timers, delivered as signals (timer_create(2)).

use std::io;
use std::time::Duration;

use super::clock::timespec;
use super::signal::timer_signal;

/// A one-shot timer on the clock that runs through suspend. When it fires,
/// [`next_signal`](super::next_signal) returns
/// [`Arrived::Timer`](super::Arrived::Timer).
pub struct Timer {
    timer: SignalTimer,
}

impl Timer {
    /// A timer that is not set. `EAGAIN`: no memory, or `RLIMIT_SIGPENDING` is used up.
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: SignalTimer::new(libc::CLOCK_BOOTTIME, timer_signal())? })
    }

    /// Fires once when [`suspend_aware_now`](super::suspend_aware_now) reaches `at`; at
    /// once if that is past.
    pub fn fire_at(&self, at: Duration) -> io::Result<()> {
        self.timer.set(libc::TIMER_ABSTIME, at, Duration::ZERO)
    }
}

/// A kernel timer that sends this process a signal. Dropping it deletes it.
pub(super) struct SignalTimer {
    id: libc::timer_t,
}

impl SignalTimer {
    /// A timer that is not set. `EAGAIN`: no memory, or `RLIMIT_SIGPENDING` is used up.
    pub fn new(clock: libc::clockid_t, signal: libc::c_int) -> io::Result<Self> {
        // SAFETY: sigevent is plain data; all zero is SIGEV_SIGNAL with signal 0, and
        // the fields that matter are set next.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        let mut id: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are to live locals of the right types.
        if unsafe { libc::timer_create(clock, &raw mut event, &raw mut id) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { id })
    }

    /// Fires at `first`, a time from now unless `flags` say otherwise, and then every
    /// `again` unless that is zero. Async-signal-safe.
    pub fn set(&self, flags: libc::c_int, first: Duration, again: Duration) -> io::Result<()> {
        set_by_id(self.id, flags, first, again)
    }

    /// For [`set_by_id`] in a signal handler.
    pub fn id(&self) -> libc::timer_t {
        self.id
    }
}

impl Drop for SignalTimer {
    fn drop(&mut self) {
        // SAFETY: made by timer_create in `new` and deleted once.
        unsafe { libc::timer_delete(self.id) };
    }
}

/// As [`SignalTimer::set`], for a timer that still exists.
pub(super) fn set_by_id(id: libc::timer_t, flags: libc::c_int, first: Duration, again: Duration) -> io::Result<()> {
    // A zero time would disarm it.
    let first = first.max(Duration::from_nanos(1));
    let spec = libc::itimerspec { it_interval: timespec(again), it_value: timespec(first) };
    // SAFETY: `id` is a live timer, `spec` a live local.
    if unsafe { libc::timer_settime(id, flags, &raw const spec, std::ptr::null_mut()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
