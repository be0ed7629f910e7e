//! Interrupting a system call that sleeps: by a deadline, or by a signal.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::time::Duration;

use super::signal::{Caught, Mask, block_all, handle, is_ignored, restore, unblock, wake_signal};
use super::timer::{SignalTimer, set_by_id};

/// While it lives, a blocked system call returns `EINTR` soon after a
/// deadline, and soon after a signal for which it was made; others do what
/// the caller of the program wanted them to do.
///
/// It fires again and again then, because a signal that comes just before
/// the call blocks would otherwise be lost, and the caller with it.
pub struct Interrupter {
    // Dropped in this order: the timer leaves no signal behind, pending; and none
    // of the caught signals does what it did before until it is blocked.
    timer: SignalTimer,
    _mask: RestoredMask,
    caught_signals: Vec<Caught>,
    /// Whether a handler may set the timer.
    for_handlers: bool,
}

/// What was blocked before.
struct RestoredMask(Mask);

impl Drop for RestoredMask {
    fn drop(&mut self) {
        restore(&self.0);
    }
}

/// The timer of the one interrupter that catches signals, for its handler; the
/// first one of a process is null.
static TIMER_OF_HANDLER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
/// Whether there is one.
static HANDLER_HAS_TIMER: AtomicBool = AtomicBool::new(false);

const AGAIN: Duration = Duration::from_millis(20);

impl Interrupter {
    /// Interrupts blocking calls from `after` on (`None`: never for that), and
    /// when one of the `signals` comes, see
    /// [`take_caught`](super::take_caught). Only what `mask` has stays blocked.
    ///
    /// # Errors
    /// `EAGAIN`: no memory for a timer.
    pub fn new(after: Option<Duration>, signals: &[i32], mask: &Mask) -> io::Result<Self> {
        let wake = catch_wake();
        let timer = SignalTimer::new(libc::CLOCK_MONOTONIC, wake_signal())?;
        let for_handlers = !signals.is_empty();
        let mask_before = RestoredMask(block_all());
        let mut interrupter = Self { timer, _mask: mask_before, caught_signals: vec![wake], for_handlers };
        if let Some(after) = after {
            interrupter.timer.set(0, after, AGAIN)?;
        }
        if interrupter.for_handlers {
            TIMER_OF_HANDLER.store(interrupter.timer.id(), Ordering::SeqCst);
            HANDLER_HAS_TIMER.store(true, Ordering::SeqCst);
        }
        interrupter.caught_signals.extend(signals.iter().filter_map(|signal| catch(*signal)));
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
    }
}

/// For a signal handler: makes the interrupter fire at once.
fn interrupt_from_now_on() {
    if HANDLER_HAS_TIMER.load(Ordering::SeqCst) {
        let _ = set_by_id(TIMER_OF_HANDLER.load(Ordering::SeqCst), 0, Duration::ZERO, AGAIN);
    }
}

/// The signal that was caught by [`catch`], 0 if none was.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// The signal that interrupted us since the last call, if one did.
pub fn take_caught() -> Option<i32> {
    Some(CAUGHT.swap(0, Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// Whether a signal has been caught that nobody has taken.
pub fn has_caught() -> bool {
    CAUGHT.load(Ordering::SeqCst) != 0
}

/// Lets a signal interrupt system calls instead of doing what it would do by
/// default; one that is ignored stays so.
fn catch(signal: i32) -> Option<Caught> {
    extern "C" fn remember(signal: libc::c_int) {
        CAUGHT.store(signal, Ordering::SeqCst);
        // It may have come just before the call that it should interrupt.
        interrupt_from_now_on();
    }
    (!is_ignored(signal)).then(|| handle(signal, remember))
}

/// Lets [`wake_signal`] interrupt system calls, whatever the caller blocked or
/// ignored. To be unblocked by whoever waits: [`unblock_wake`].
fn catch_wake() -> Caught {
    extern "C" fn nothing(_: libc::c_int) {}
    handle(wake_signal(), nothing)
}

/// See [`catch_wake`]. The mask that was there before comes back with
/// [`restore`].
fn unblock_wake() {
    unblock(wake_signal());
}
