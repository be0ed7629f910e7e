//! Timers, delivered as signals (timer_create(2)), and the clock that runs
//! through suspend.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Duration;

use super::signal::{Caught, Mask, block_all, catch_wake, restore, timer_signal, unblock_wake, wake_signal};

/// Time since boot, including time spent suspended. Only for use within one
/// process family: time namespaces shift it.
pub fn suspend_aware_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Through libc, which has found the vDSO already.
    // SAFETY: writes to a live local; the clock exists on every Linux that
    // lockrun runs on.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// A one-shot timer on the clock that runs through suspend. When it fires,
/// [`next_signal`](super::next_signal) returns [`Arrived::Timer`](super::Arrived::Timer).
pub struct Timer {
    id: libc::timer_t,
}

impl Timer {
    /// A timer that does not fire yet.
    ///
    /// # Errors
    /// `EAGAIN`: no memory for a timer, or as many as are allowed
    /// (`RLIMIT_SIGPENDING`).
    pub fn new() -> io::Result<Self> {
        Ok(Self { id: create(libc::CLOCK_BOOTTIME, timer_signal())? })
    }

    /// Fires once when the clock of [`suspend_aware_now`] reaches `at`; at
    /// once if that is past.
    ///
    /// # Errors
    /// None that is known.
    pub fn fire_at(&self, at: Duration) -> io::Result<()> {
        // A zero time would disarm instead of fire.
        set(self.id, libc::TIMER_ABSTIME, at.max(Duration::from_nanos(1)), Duration::ZERO)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by timer_create in `new` and deleted once.
        unsafe { libc::timer_delete(self.id) };
    }
}

/// While it lives, a blocked system call returns `EINTR` soon after a
/// deadline, and soon after a signal for which it was made; others do what
/// the caller of the program wanted them to do.
///
/// It fires again and again then, because a signal that comes just before
/// the call blocks would otherwise be lost, and the caller with it.
pub struct Interrupter {
    id: libc::timer_t,
    /// Whether a handler may set the timer.
    for_handlers: bool,
    /// What was blocked before.
    mask: Mask,
    caught_signals: Vec<Caught>,
}

/// The timer of the one interrupter that catches signals, for its handler; the
/// first one of a process is null.
static TIMER_OF_HANDLER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
/// Whether there is one.
static HANDLER_HAS_TIMER: AtomicBool = AtomicBool::new(false);

const AGAIN: Duration = Duration::from_millis(20);

impl Interrupter {
    /// Interrupts blocking calls from `after` on (`None`: never for that), and
    /// when one of the `catch` signals comes, see
    /// [`take_caught`](super::take_caught). Only what `mask` has stays blocked.
    ///
    /// # Errors
    /// `EAGAIN`: no memory for a timer.
    pub fn new(after: Option<Duration>, catch: &[i32], mask: &Mask) -> io::Result<Self> {
        let wake = catch_wake();
        let id = create(libc::CLOCK_MONOTONIC, wake_signal())?;
        let for_handlers = !catch.is_empty();
        let mut interrupter = Self { id, for_handlers, mask: block_all(), caught_signals: vec![wake] };
        if let Some(after) = after {
            set(id, 0, after.max(Duration::from_nanos(1)), AGAIN)?;
        }
        if interrupter.for_handlers {
            TIMER_OF_HANDLER.store(id, Ordering::SeqCst);
            HANDLER_HAS_TIMER.store(true, Ordering::SeqCst);
        }
        interrupter.caught_signals.extend(catch.iter().filter_map(|signal| super::signal::catch(*signal)));
        // Only now: what is pending already is for the handlers, too.
        restore(mask);
        unblock_wake();
        Ok(interrupter)
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        if self.for_handlers {
            HANDLER_HAS_TIMER.store(false, Ordering::SeqCst);
        }
        // SAFETY: made by timer_create in `new` and deleted once; no handler
        // sets it any more.
        unsafe { libc::timer_delete(self.id) };
        // In this order: no signal of the timer may stay behind, pending, and
        // none that we catch may do before it is blocked what it did before.
        restore(&self.mask);
    }
}

/// For a signal handler: makes the interrupter fire at once.
pub(super) fn interrupt_from_now_on() {
    if HANDLER_HAS_TIMER.load(Ordering::SeqCst) {
        // timer_settime is async-signal-safe.
        let _ = set(TIMER_OF_HANDLER.load(Ordering::SeqCst), 0, Duration::from_nanos(1), AGAIN);
    }
}

fn create(clock: libc::clockid_t, signal: libc::c_int) -> io::Result<libc::timer_t> {
    // SAFETY: sigevent is plain data; all zero is SIGEV_SIGNAL with signal 0,
    // and the fields that matter are set next.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = signal;
    let mut id: libc::timer_t = std::ptr::null_mut();
    // SAFETY: both pointers are to live locals of the right types.
    if unsafe { libc::timer_create(clock, &raw mut event, &raw mut id) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(id)
}

fn set(id: libc::timer_t, flags: libc::c_int, first: Duration, again: Duration) -> io::Result<()> {
    let spec = libc::itimerspec { it_interval: timespec(again), it_value: timespec(first) };
    // SAFETY: `id` is a live timer, `spec` a live local.
    if unsafe { libc::timer_settime(id, flags, &raw const spec, std::ptr::null_mut()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A time that the kernel takes; what does not fit is longer than any machine
/// stays up.
pub(super) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX / 2).min(libc::time_t::MAX / 2),
        tv_nsec: time.subsec_nanos().into(),
    }
}
