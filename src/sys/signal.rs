//! Signals without handlers: all are blocked, and read one by one.
//!
//! So no code runs at odd moments, a child inherits nothing but a mask that it
//! restores, and PID 1 behaves like any other process. Only a process that sleeps in
//! the kernel has handlers, to interrupt the sleep.
//!
//! No process is ever sent a signal that only lockrun understands, because it may have
//! become COMMAND by then.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use super::clock::timespec;
use super::let_go::LetGo;

/// The signal of a [`Timer`](super::Timer).
pub fn timer_signal() -> i32 {
    libc::SIGRTMAX() - 2
}

/// The signal of an [`Interrupter`](super::Interrupter).
pub(super) fn wake_signal() -> i32 {
    libc::SIGRTMAX() - 3
}

/// A set of signals, usually the blocked ones.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

/// What a terminal sends to stop a job, as by Ctrl-Z.
pub const STOPPING: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Why [`next_signal`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The time was over, or nothing that matters came.
    Nothing,
    /// A child ended, stopped or was continued: see wait(2).
    Child {
        /// Its process id, and its exit code or signal, unless the kernel merged
        /// several.
        ended: Option<(i32, Result<u8, i32>)>,
    },
    /// A [`Timer`](super::Timer) fired.
    Timer,
    /// Another lockrun asks us to let go.
    LetGo {
        /// Why.
        ask: LetGo,
        /// Its process id, 0 in another pid namespace.
        sender: i32,
    },
    /// Any other signal.
    Signal {
        /// Its number.
        number: i32,
        /// Sent by the kernel: by the terminal to its whole foreground group, or by an
        /// alarm.
        from_kernel: bool,
        /// The sender's process id, 0 for the kernel or another pid namespace.
        sender: i32,
    },
}

/// Blocks every signal and returns what was blocked before.
pub fn block_all() -> Mask {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: sigfillset and sigprocmask write whole sets into the two locals; with
    // these arguments neither can fail.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        Mask(before.assume_init())
    }
}

/// Sets the mask that [`block_all`] returned, and returns the current one.
pub fn restore(mask: &Mask) -> Mask {
    let mut before = MaybeUninit::uninit();
    // SAFETY: reads a set that sigprocmask made, writes one into the local.
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask.0, before.as_mut_ptr());
        Mask(before.assume_init())
    }
}

/// Delivers the pending signals that are not in `mask`.
pub fn let_signals_in(mask: &Mask) {
    let before = restore(mask);
    restore(&before);
}

/// Waits for the next signal, at most `limit` (`None`: forever).
pub fn next_signal(limit: Option<Duration>) -> Arrived {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let limit = limit.map(timespec);
    loop {
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let mut all = MaybeUninit::uninit();
        // SAFETY: a full set and live locals; a null time means no limit.
        let number = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigtimedwait(all.as_ptr(), info.as_mut_ptr(), limit)
        };
        match number {
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
            -1 => return Arrived::Nothing,
            _ => break,
        }
    }
    // SAFETY: sigtimedwait returned a signal, so it filled the structure.
    arrived(unsafe { info.assume_init_ref() })
}

pub(super) fn arrived(info: &libc::siginfo_t) -> Arrived {
    let (number, code) = (info.si_signo, info.si_code);
    let is_child = number == libc::SIGCHLD && code > 0;
    let has_sender = is_child || matches!(code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL);
    // SAFETY: a part is read only where the code says that it is set.
    let (sender, status, value) = unsafe {
        let sender = if has_sender { info.si_pid() } else { 0 };
        let value = if code == libc::SI_QUEUE { info.si_value().sival_ptr.addr() } else { 0 };
        (sender, if is_child { info.si_status() } else { 0 }, value)
    };
    if let Some(ask) = LetGo::of_signal(number, code, value) {
        return Arrived::LetGo { ask, sender };
    }
    match number {
        libc::SIGCHLD => Arrived::Child {
            ended: match code {
                libc::CLD_EXITED => Some((sender, Ok(status as u8))),
                libc::CLD_KILLED | libc::CLD_DUMPED => Some((sender, Err(status))),
                _ => None,
            },
        },
        // Left over from an interrupter that is gone.
        n if n == wake_signal() && code == libc::SI_TIMER => Arrived::Nothing,
        n if n == timer_signal() && code == libc::SI_TIMER => Arrived::Timer,
        number => Arrived::Signal { number, from_kernel: code > 0, sender },
    }
}

/// Removes a pending blocked signal that our own call has raised.
pub fn discard(signal: i32) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut only = MaybeUninit::uninit();
    // SAFETY: the set is initialised before it is read; nothing is written.
    unsafe {
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), signal);
        libc::sigtimedwait(only.as_ptr(), std::ptr::null_mut(), &raw const now);
    }
}

/// For commands that only inspect locks: if another lockrun takes one for a holder, its
/// request does not end it. Any other SIGTERM does.
pub fn ignore_requests() {
    extern "C" fn end_unless_asked(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel passes a valid structure. Handlers may make the two calls;
        // what is raised here comes when the handler returns.
        unsafe {
            if !matches!(arrived(&*info), Arrived::LetGo { .. }) {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }
    if !is_ignored(libc::SIGTERM) {
        std::mem::forget(handle(libc::SIGTERM, end_unless_asked, libc::SA_RESTART));
    }
}

/// The pending signals.
pub fn pending() -> Mask {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigpending writes a whole set into the local, and cannot fail.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        Mask(set.assume_init())
    }
}

impl Mask {
    /// Unblocks `signals` but for those in this set, which a caller had blocked.
    pub fn unblock(&self, signals: &[i32]) {
        signals.iter().filter(|signal| !self.has(**signal)).for_each(|signal| unblock(*signal));
    }

    /// The set with these added.
    pub fn and(mut self, signals: &[i32]) -> Self {
        for signal in signals {
            // SAFETY: changes a set that the kernel filled.
            unsafe { libc::sigaddset(&raw mut self.0, *signal) };
        }
        self
    }

    /// The signals of the set.
    pub fn iter(&self) -> impl Iterator<Item = i32> {
        (1..=libc::SIGRTMAX()).filter(|signal| self.has(*signal))
    }

    /// Whether a signal is in the set.
    pub fn has(&self, signal: i32) -> bool {
        // SAFETY: reads a set that the kernel filled.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }
}

/// Whether this process ignores a signal, as nohup(1) makes it ignore HUP.
pub fn is_ignored(signal: i32) -> bool {
    action(signal) == libc::SIG_IGN
}

/// Makes ended children wait to be reaped, even if the caller ignored SIGCHLD. Returns
/// whether it did, for COMMAND.
pub fn default_on_child_death() -> bool {
    let was_ignored = is_ignored(libc::SIGCHLD);
    if was_ignored {
        set_action(libc::SIGCHLD, libc::SIG_DFL);
    }
    was_ignored
}

/// Ends this process by a signal, even a blocked one. Returns only if that is
/// impossible: as PID 1, or for a signal that ends nobody.
///
/// Writes no core file, which would show lockrun instead of the COMMAND that failed.
pub fn end_by(signal: i32) {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    do_by_default(signal);
}

fn do_by_default(signal: i32) {
    set_action(signal, libc::SIG_DFL);
    // SAFETY: raise has no memory effects.
    unsafe { libc::raise(signal) };
    unblock(signal);
}

/// Stops this process by a signal, even a blocked one, until it is continued. Returns
/// at once for a terminal's signal in an orphaned process group, where no shell could
/// continue us.
pub fn stop_by(signal: i32) {
    let before = block_all();
    do_by_default(signal);
    restore(&before);
}

/// The former action of a caught signal; dropping this restores it.
pub(super) struct Caught {
    signal: i32,
    before: libc::sigaction,
}

impl Drop for Caught {
    fn drop(&mut self) {
        // SAFETY: the action that sigaction returned for this signal.
        unsafe { libc::sigaction(self.signal, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// A stop signal for a child in our memory on its way to COMMAND.
static MISSED_STOP: AtomicI32 = AtomicI32::new(0);

/// For a child that somebody waits for uninterruptibly: the signals of [`STOPPING`] do
/// not stop it before the exec, which resets handlers. Ignored ones stay so.
pub(super) fn do_not_stop_before_exec() {
    extern "C" fn remember(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
        MISSED_STOP.store(signal, Ordering::SeqCst);
    }
    for signal in STOPPING {
        let caught = handle(signal, remember, 0);
        if caught.before.sa_sigaction != libc::SIG_IGN {
            // Not restored: the exec sets the default for COMMAND.
            std::mem::forget(caught);
        }
    }
}

/// The signal that did not stop our child on its way to COMMAND, which has not got it.
pub fn take_missed_stop() -> Option<i32> {
    Some(MISSED_STOP.swap(0, Ordering::SeqCst)).filter(|signal| *signal != 0)
}

pub(super) fn unblock(signal: i32) {
    let mut only = MaybeUninit::uninit();
    // SAFETY: the set is initialised before it is read.
    unsafe {
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, only.as_ptr(), std::ptr::null_mut());
    }
}

/// A handler that gets what the kernel knows about the signal.
pub(super) type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void);

/// Calls `handler` for the signal, until the result is dropped. Without `SA_RESTART` in
/// `flags` it interrupts system calls.
pub(super) fn handle(signal: i32, handler: Handler, flags: libc::c_int) -> Caught {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroed is an empty mask. Our handlers store atomics, set a timer and
    // raise a signal, which handlers may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | flags;
        libc::sigaction(signal, &raw const action, before.as_mut_ptr());
        Caught { signal, before: before.assume_init() }
    }
}

fn action(signal: i32) -> libc::sighandler_t {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action only the local is written, which was zeroed and is
    // valid even if the signal's number is not.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

pub(super) fn set_action(signal: i32, handler: libc::sighandler_t) {
    // SAFETY: zeroed is an empty mask and no flags; we pass SIG_DFL and SIG_IGN.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}
