//! Interrupting a system call that sleeps: by a deadline, or by a signal.

use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::getpid;

use super::let_go::LetGo;
use super::send::send;
use super::signal::{Arrived, Caught, Mask, arrived, block_all, handle, is_ignored, restore, unblock, wake_signal};
use super::timer::{SignalTimer, set_by_id};

/// While it lives, a blocked system call returns `EINTR` soon after a deadline, and
/// soon after one of its signals; other signals do what the caller of the program
/// wants.
///
/// It then fires repeatedly, because a signal that comes just before the call blocks
/// would otherwise be lost.
pub struct Interrupter {
    // Dropped in this order: the timer leaves no signal pending, and the caught signals
    // get their former action back while they are blocked.
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
        // Blocked again, it stays pending for COMMAND.
        if TERM_OF_COMMAND.swap(false, Ordering::SeqCst) {
            let _ = send(getpid(), libc::SIGTERM);
        }
    }
}

/// For the handler: the timer of the one interrupter that catches signals. A valid id
/// may be null.
static TIMER_OF_HANDLER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
/// Whether that is set.
static HANDLER_HAS_TIMER: AtomicBool = AtomicBool::new(false);

const AGAIN: Duration = Duration::from_millis(20);

impl Interrupter {
    /// Interrupts blocking calls from `after` on (`None`: not by time), and when one of
    /// `signals` comes or, unless that is empty, a request to let go: see
    /// [`take_caught`]. Only the signals of `mask` stay blocked.
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
        if interrupter.for_handlers {
            interrupter.caught_signals.push(catch_requests(mask));
        }
        // Last, so that pending signals reach the handlers, too.
        restore(mask);
        unblock(wake_signal());
        if interrupter.for_handlers {
            unblock(libc::SIGTERM);
        }
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

/// For a signal handler: fires at once, and repeatedly.
fn interrupt_from_now_on() {
    if HANDLER_HAS_TIMER.load(Ordering::SeqCst) {
        let _ = set_by_id(TIMER_OF_HANDLER.load(Ordering::SeqCst), 0, Duration::ZERO, AGAIN);
    }
}

/// The caught signal (0: none), its sender, and what it asked.
static CAUGHT: AtomicI32 = AtomicI32::new(0);
static SENDER: AtomicI32 = AtomicI32::new(0);
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// What interrupted us since the last call.
pub fn take_caught() -> Option<Arrived> {
    let number = Some(CAUGHT.swap(0, Ordering::SeqCst)).filter(|signal| *signal != 0)?;
    let sender = SENDER.load(Ordering::SeqCst);
    Some(match LetGo::of_value(ASKED.load(Ordering::SeqCst)) {
        Some(ask) => Arrived::LetGo { ask, sender },
        None => Arrived::Signal { number, from_kernel: false, sender },
    })
}

/// Whether there is a caught signal to take.
pub fn has_caught() -> bool {
    CAUGHT.load(Ordering::SeqCst) != 0
}

extern "C" fn remember(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid structure.
    let (asked, sender) = match arrived(unsafe { &*info }) {
        Arrived::LetGo { ask, sender } => (ask.value(), sender),
        Arrived::Signal { sender, .. } => (0, sender),
        _ => (0, 0),
    };
    ASKED.store(asked, Ordering::SeqCst);
    SENDER.store(sender, Ordering::SeqCst);
    CAUGHT.store(signal, Ordering::SeqCst);
    // The call that it should interrupt may not have begun yet.
    interrupt_from_now_on();
}

/// Lets a signal interrupt system calls instead of its default action, unless it is
/// ignored.
fn catch(signal: i32) -> Option<Caught> {
    (!is_ignored(signal)).then(|| handle(signal, remember, 0))
}

/// Whether a SIGTERM came that is for COMMAND, see [`catch_requests`].
static TERM_OF_COMMAND: AtomicBool = AtomicBool::new(false);

/// Lets requests to let go interrupt system calls, even if SIGTERM is ignored or
/// blocked by `mask`; any other SIGTERM is then for COMMAND.
fn catch_requests(mask: &Mask) -> Caught {
    extern "C" fn remember_requests(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel passes a valid structure.
        match arrived(unsafe { &*info }) {
            Arrived::LetGo { .. } => remember(signal, info, context),
            _ => TERM_OF_COMMAND.store(true, Ordering::SeqCst),
        }
    }
    let ends_us = !mask.has(libc::SIGTERM) && !is_ignored(libc::SIGTERM);
    handle(libc::SIGTERM, if ends_us { remember } else { remember_requests }, 0)
}

/// Lets [`wake_signal`] interrupt system calls, whatever the caller blocked or ignored.
fn catch_wake() -> Caught {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
    handle(wake_signal(), nothing, 0)
}
