//! Signals without handlers: everything is blocked, and read one by one.
//!
//! No handler means no code that runs at odd moments, nothing for a child to
//! inherit but a mask that it restores, and the same behaviour as PID 1. Where
//! a process sleeps in the kernel itself, a handler interrupts the sleep.
//!
//! No process is ever sent a signal that only lockrun understands: it may have
//! executed COMMAND by the time it comes.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use super::clock::timespec;
use super::let_go::LetGo;

/// By this signal a [`Timer`](super::Timer) reports.
pub fn timer_signal() -> i32 {
    libc::SIGRTMAX() - 2
}

/// By this signal an [`Interrupter`](super::Interrupter) interrupts.
pub(super) fn wake_signal() -> i32 {
    libc::SIGRTMAX() - 3
}

/// A set of blocked signals.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

/// What Ctrl-Z and a terminal send to stop a job.
pub const STOPPING: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Why [`next_signal`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The time was over, or nothing that matters came.
    Nothing,
    /// A child ended, stopped or went on: see wait(2). One that ended is
    /// told at once, if the kernel did not put the news of several together.
    Child {
        /// Its process, and its exit code or signal.
        ended: Option<(i32, Result<u8, i32>)>,
    },
    /// A [`Timer`](super::Timer) of ours fired.
    Timer,
    /// Another lockrun asks us to let go.
    LetGo {
        /// For what.
        ask: LetGo,
        /// Its process, 0 if that is in another pid namespace.
        sender: i32,
    },
    /// A signal that somebody sent.
    Signal {
        /// Its number.
        number: i32,
        /// Sent by the kernel, that is, by the terminal to its whole
        /// foreground group, or by an alarm.
        from_kernel: bool,
        /// Who sent it, 0 for the kernel or another pid namespace.
        sender: i32,
    },
}

/// Blocks every signal and returns what was blocked before.
pub fn block_all() -> Mask {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: sigfillset and sigprocmask write whole sets into the two
    // locals; with these arguments neither can fail.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        Mask(before.assume_init())
    }
}

/// Sets the mask that [`block_all`] returned, and returns the present one.
pub fn restore(mask: &Mask) -> Mask {
    let mut before = MaybeUninit::uninit();
    // SAFETY: reads a set that sigprocmask made, writes one into the local.
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask.0, before.as_mut_ptr());
        Mask(before.assume_init())
    }
}

/// Lets the pending signals do what they do that are not in `mask`.
pub fn let_signals_in(mask: &Mask) {
    let before = restore(mask);
    restore(&before);
}

/// Waits for the next signal, at most `limit`; without end if `None`.
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
    // SAFETY: the parts are read only where the code says that they are set.
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
        // Left over from an interrupter that has done its work.
        n if n == wake_signal() && code == libc::SI_TIMER => Arrived::Nothing,
        n if n == timer_signal() && code == libc::SI_TIMER => Arrived::Timer,
        number => Arrived::Signal { number, from_kernel: code > 0, sender },
    }
}

/// Takes a blocked signal back that a call of ours has brought upon us.
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

/// For commands that only look at locks: should somebody take one of them for
/// a holder, the request does not end it. Any other SIGTERM does.
pub fn ignore_requests() {
    extern "C" fn end_unless_asked(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel passes a valid structure. The two calls may be
        // made in handlers; what is raised here comes when the handler returns.
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

/// The signals that have come and not been read.
pub fn pending() -> Mask {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigpending writes a whole set into the local, and cannot fail.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        Mask(set.assume_init())
    }
}

impl Mask {
    /// Lets those of `signals` through again that are not in the set: what a
    /// caller had blocked stays so.
    pub fn unblock(&self, signals: &[i32]) {
        signals.iter().filter(|signal| !self.has(**signal)).for_each(|signal| unblock(*signal));
    }

    /// The set with these as well.
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

/// Makes ended children wait for us to read their status, also when the
/// caller had SIGCHLD ignored. Returns whether it had: COMMAND gets it back.
pub fn default_on_child_death() -> bool {
    let was_ignored = is_ignored(libc::SIGCHLD);
    if was_ignored {
        set_action(libc::SIGCHLD, libc::SIG_DFL);
    }
    was_ignored
}

/// Ends this process by a signal, as if it had never been blocked. Returns
/// only if that is impossible: as PID 1, or for a signal that ends nobody.
///
/// No core file is written: it would show lockrun where COMMAND failed.
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

/// Stops this process by a signal, as if it had never been blocked, until
/// somebody continues it. The terminal's signals do not stop where no shell
/// could continue us (an orphaned process group): then this returns at once.
pub fn stop_by(signal: i32) {
    let before = block_all();
    do_by_default(signal);
    restore(&before);
}

/// What a signal did before it was caught; does it again when dropped.
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

/// What would have stopped a child of ours in our memory on its way to COMMAND.
static MISSED_STOP: AtomicI32 = AtomicI32::new(0);

/// In a child that somebody waits for who cannot be woken meanwhile: the
/// signals of [`STOPPING`] do not stop this process before it executes
/// something. What is ignored stays so, and handlers end with the exec.
pub(super) fn do_not_stop_before_exec() {
    extern "C" fn remember(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
        MISSED_STOP.store(signal, Ordering::SeqCst);
    }
    for signal in STOPPING {
        let caught = handle(signal, remember, 0);
        if caught.before.sa_sigaction != libc::SIG_IGN {
            // COMMAND finds the default.
            std::mem::forget(caught);
        }
    }
}

/// The signal that did not stop our child on its way to COMMAND, if one came:
/// COMMAND has not got it.
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

/// A handler, to which the kernel passes what it knows about the signal.
pub(super) type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void);

/// Calls `handler` when the signal comes, until what this returns is dropped.
/// Without `SA_RESTART` among the flags, it is there to interrupt.
pub(super) fn handle(signal: i32, handler: Handler, flags: libc::c_int) -> Caught {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroed is an empty mask. Our handlers store atomics, set a timer
    // and raise a signal, which handlers may do.
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
    // SAFETY: with a null new action only the local is written, which was
    // zeroed and is valid even if the signal's number is not.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

pub(super) fn set_action(signal: i32, handler: libc::sighandler_t) {
    // SAFETY: zeroed is an empty mask and no flags; we pass SIG_DFL and
    // SIG_IGN.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}
