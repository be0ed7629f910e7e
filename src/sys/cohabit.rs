//! A child process that lives in our memory.
//!
//! Making a copy of our memory for a forked child costs time, and so does taking it
//! apart when the child executes COMMAND, during the hand-over. This child shares our
//! memory (clone(2) with `CLONE_VM`, without `CLONE_VFORK`), but has its own
//! descriptors, signals and end. It makes a hand-over 10 to 18 % faster than a fork
//! (November 2026).
//!
//! Only one of the two may run at a time, because the program has one thread and the C
//! library would share errno between them. The one that runs has the baton. The child
//! passes it only around a sleep ([`asleep`]), and keeps it once it is about to leave
//! ([`keep_the_baton`]). When it executes something else or ends, however that happens,
//! the kernel passes the baton back (set_tid_address(2)).
//!
//! A child that is stopped or hangs in slow storage keeps the baton. The parent waits
//! for it only a moment at a time ([`Cohabitant::take_the_baton`]), and meanwhile uses
//! nothing but raw system calls and atomics, to notice signals and deadlines. Then it
//! can end the child and go on ([`Cohabitant::end`]). That is sound because:
//!
//! - A killed child runs no more once it has ended, or sleeps in the kernel (state D)
//!   with a deadly signal pending.
//! - Wherever it was killed, it leaves nothing of ours half changed: it owns what it
//!   uses or shares atomics with us, and neither allocates from the parent's heap nor
//!   frees anything ([`heap`](super::heap)).
//! - In state D the kernel may still write to the child's memory. So that is never
//!   unmapped or reused, and no other child is started.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, getpid};
use rustix::thread::futex;

use super::heap;
use super::process::{end_child, end_with, exit_now, has_ended, nap};

/// Whether somebody runs in our memory. When the child leaves, the kernel writes
/// [`FREE`] and wakes a waiter.
static BATON: AtomicU32 = AtomicU32::new(TAKEN);
const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and the other one waits.
const WANTED: u32 = 2;

/// Whether the child keeps the baton until it is gone.
static IS_LEAVING: AtomicBool = AtomicBool::new(false);

/// Whether a killed child has not ended; no other may be started then.
static IS_ABANDONED: AtomicBool = AtomicBool::new(false);

/// futex(2) may fail, so both sides look again after this time.
const A_NAP: Duration = Duration::from_millis(10);
const A_NAP_OF_FUTEX: futex::Timespec = futex::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Whether the baton could be taken within `limit`. Allocates nothing and leaves errno
/// alone.
fn take_the_baton(limit: Option<Duration>) -> bool {
    if BATON.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return true;
    }
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    while BATON.swap(WANTED, Ordering::Acquire) != FREE {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return false;
        }
        match futex::wait(&BATON, futex::Flags::empty(), WANTED, Some(&A_NAP_OF_FUTEX)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
            // Some sandboxes refuse futex(2).
            Err(_) => nap(A_NAP),
        }
    }
    true
}

fn pass_the_baton() {
    if BATON.swap(FREE, Ordering::Release) == WANTED {
        let _ = futex::wake(&BATON, futex::Flags::empty(), 1);
    }
}

/// Calls `sleep`, which may block for long. In a child that lives in its parent's
/// memory, the parent may run meanwhile, so `sleep` touches only what it owns, and
/// nothing of the C library but errno, whose value may be the parent's.
pub fn asleep<T>(sleep: impl FnOnce() -> T) -> T {
    if !heap::is_childs() || IS_LEAVING.load(Ordering::Relaxed) {
        return sleep();
    }
    heap::use_childs(false);
    pass_the_baton();
    let result = sleep();
    take_the_baton(None);
    heap::use_childs(true);
    result
}

/// In the child: from now on the parent does not run before the child is gone or was
/// ended.
pub fn keep_the_baton() {
    IS_LEAVING.store(true, Ordering::Relaxed);
}

/// A child in our memory. Dropping this kills it unless it has executed something else.
/// It has to be reaped by the caller.
pub struct Cohabitant {
    pid: Pid,
    stack: ManuallyDrop<Stack>,
}

/// How long the parent waits for the baton between two looks at signals and deadlines.
const A_MOMENT: Duration = Duration::from_millis(30);

impl Cohabitant {
    /// Starts a child that calls `act` on a stack of `stack` bytes and then ends. It
    /// first runs in [`let_live`](Self::let_live). All signals must be blocked, and
    /// there may be one child at a time. It dies with us, unless it cancels that
    /// (prctl(2)).
    pub fn start<F: FnOnce() + 'static>(stack: usize, act: F) -> io::Result<Self> {
        struct Plan<F> {
            act: ManuallyDrop<F>,
            parent: Pid,
        }
        extern "C" fn live<F: FnOnce()>(plan: *mut c_void) -> libc::c_int {
            let plan = plan.cast::<Plan<F>>();
            // SAFETY: the kernel will write to BATON, an aligned word that lives as
            // long as the program. Not by a flag of clone(2), which musl's clone
            // refuses.
            if unsafe { libc::syscall(libc::SYS_set_tid_address, BATON.as_ptr()) } == -1 {
                exit_now(125);
            }
            // SAFETY: nobody changes the plan after the clone.
            end_with(unsafe { (*plan).parent });
            take_the_baton(None);
            heap::use_childs(true);
            // SAFETY: made by `Box::into_raw` for this call alone.
            let plan = unsafe { Box::from_raw(plan) };
            ManuallyDrop::into_inner(plan.act)();
            exit_now(0)
        }
        // Never dropped here: it owns descriptors of the child, whose numbers belong to
        // others in this process.
        let act = ManuallyDrop::new(act);
        if !Self::may_start() {
            return Err(Errno::BUSY.into());
        }
        let stack = ManuallyDrop::new(Stack::new(stack)?);
        let plan = Box::into_raw(Box::new(Plan { act, parent: getpid() })).cast::<c_void>();
        BATON.store(TAKEN, Ordering::Relaxed);
        IS_LEAVING.store(false, Ordering::Relaxed);
        // SAFETY: the child runs on its own stack, which lives until it is gone. It
        // owns everything else that it uses (`'static`), or shares it by the baton, as
        // a thread does with itself. All signals are blocked; the only handlers, right
        // before an exec, store an atomic.
        let pid = unsafe { libc::clone(live::<F>, stack.top(), libc::CLONE_VM | libc::SIGCHLD, plan) };
        let error = io::Error::last_os_error();
        match Pid::from_raw(pid.max(0)) {
            Some(pid) => Ok(Self { pid, stack }),
            None => {
                let _ = ManuallyDrop::into_inner(stack);
                Err(error)
            }
        }
    }

    /// `false` while an earlier child hangs in state D.
    pub fn may_start() -> bool {
        !IS_ABANDONED.load(Ordering::Relaxed)
    }

    /// The child.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Calls `sleep`, which makes only raw system calls, while the child may run.
    /// Returns whether we have the baton again; if not, see
    /// [`take_the_baton`](Self::take_the_baton).
    #[must_use]
    pub fn let_live(&self, sleep: impl FnOnce()) -> bool {
        pass_the_baton();
        sleep();
        self.take_the_baton()
    }

    /// Waits a moment for the baton. After `false`, the caller may use nothing but
    /// atomics and raw system calls until a retry succeeds or [`end`](Self::end)
    /// returns.
    #[must_use]
    pub fn take_the_baton(&self) -> bool {
        // Some sandboxes ignore set_tid_address(2); the child's end counts as well.
        let is_ours = take_the_baton(Some(A_MOMENT)) || has_ended(self.pid);
        if is_ours {
            heap::use_childs(false);
        }
        is_ours
    }

    /// Kills the child if it has not ended, with or without the baton, and takes the
    /// baton. Returns whether it has ended; `false`: it will when the kernel lets it.
    pub fn end(&self) -> bool {
        let has_ended = end_child(self.pid);
        heap::use_childs(false);
        IS_ABANDONED.fetch_or(!has_ended, Ordering::Relaxed);
        has_ended
    }
}

impl Drop for Cohabitant {
    fn drop(&mut self) {
        // We run, so it is gone, asleep, or was ended.
        let is_gone = IS_LEAVING.load(Ordering::Relaxed) || self.end();
        if is_gone && Self::may_start() {
            // SAFETY: dropped once, and nobody runs on it.
            unsafe { ManuallyDrop::drop(&mut self.stack) };
        }
    }
}

/// A file of the cohabitant, which only the cohabitant may use or close: the number of
/// `file`, which must be open when it is started, in the child's own table.
pub fn descriptor_of_cohabitant(file: &File) -> File {
    // SAFETY: in the child's table nobody else owns the number: the child never uses or
    // drops what it was cloned from.
    unsafe { File::from_raw_fd(file.as_raw_fd()) }
}

/// A stack that grows down to a guard page.
struct Stack {
    start: *mut c_void,
    size: usize,
}

/// At least one page on every machine.
const GUARD: usize = 64 * 1024;

impl Stack {
    fn new(size: usize) -> io::Result<Self> {
        let size = size.next_multiple_of(GUARD) + GUARD;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory
        // of ours, and the guard is part of it.
        unsafe {
            let start = libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK,
                -1,
                0,
            );
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self { start, size };
            match libc::mprotect(start, GUARD, libc::PROT_NONE) {
                0 => Ok(stack),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    fn top(&self) -> *mut c_void {
        self.start.wrapping_byte_add(self.size)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, on which nobody runs any more.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Forked, block_all, fork};
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

    static IS_AWAKE: AtomicBool = AtomicBool::new(false);
    static BOTH_AWAKE: AtomicU32 = AtomicU32::new(0);

    fn be_awake() {
        if IS_AWAKE.swap(true, Ordering::SeqCst) {
            BOTH_AWAKE.fetch_add(1, Ordering::SeqCst);
        }
        (0..100).for_each(|_| std::hint::spin_loop());
        IS_AWAKE.store(false, Ordering::SeqCst);
    }

    /// In a process of its own, because the test program has threads.
    fn in_a_process(act: impl FnOnce() -> bool) -> bool {
        let Forked::Parent(process) = fork().unwrap() else {
            block_all();
            exit_now(i32::from(!act()))
        };
        waitpid(Some(process), WaitOptions::empty()).unwrap().unwrap().1.exit_status() == Some(0)
    }

    /// Does not reap it.
    fn wait_for_end(pid: Pid) {
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    }

    fn spin() {
        loop {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn only_one_is_awake_until_the_child_has_ended() {
        const SLEEPS: usize = 20_000;
        assert!(in_a_process(|| {
            let child = Cohabitant::start(64 * 1024, move || {
                for _ in 0..SLEEPS {
                    be_awake();
                    asleep(std::thread::yield_now);
                }
                keep_the_baton();
                be_awake();
            });
            let child = child.unwrap();
            for _ in 0..SLEEPS {
                be_awake();
                while !child.let_live(std::thread::yield_now) {}
            }
            while !child.let_live(|| wait_for_end(child.pid())) {}
            BOTH_AWAKE.load(Ordering::SeqCst) == 0
        }));
    }

    #[test]
    fn a_child_that_sleeps_is_ended_with_its_place() {
        assert!(in_a_process(|| {
            let forever = || asleep(|| futex::wait(&BOTH_AWAKE, futex::Flags::empty(), 0, None));
            let child = Cohabitant::start(64 * 1024, move || forever().unwrap_or(())).unwrap();
            while !child.let_live(std::thread::yield_now) {}
            let pid = child.pid();
            drop(child);
            has_ended(pid)
        }));
    }

    #[test]
    fn a_child_that_is_killed_passes_the_baton_back() {
        assert!(in_a_process(|| {
            let child = Cohabitant::start(64 * 1024, spin).unwrap();
            let kill = || {
                let _ = super::super::send(child.pid(), libc::SIGKILL);
                wait_for_end(child.pid());
            };
            // It runs and keeps the baton for ever, or is killed before.
            child.let_live(kill)
        }));
    }

    #[test]
    fn a_child_that_keeps_the_baton_is_ended() {
        assert!(in_a_process(|| {
            let child = Cohabitant::start(64 * 1024, spin).unwrap();
            while child.let_live(std::thread::yield_now) {}
            child.end() && has_ended(child.pid())
        }));
    }

    #[test]
    fn a_child_frees_nothing_and_takes_nothing_from_our_heap() {
        assert!(in_a_process(|| {
            let ours = vec![7_u8; 1000];
            let start = ours.as_ptr();
            let child = Cohabitant::start(64 * 1024, move || {
                let mut grown = ours;
                grown.extend_from_slice(&[8; 100_000]);
                let is_elsewhere = grown.as_ptr() != start && grown[..1000] == [7; 1000];
                drop(grown);
                exit_now(if is_elsewhere { 3 } else { 4 });
            });
            let child = child.unwrap();
            while !child.let_live(|| wait_for_end(child.pid())) {}
            // SAFETY: nobody freed what the child was given.
            let untouched = unsafe { std::slice::from_raw_parts(start, 1000) } == [7; 1000];
            let status = waitpid(Some(child.pid()), WaitOptions::empty()).unwrap().unwrap().1;
            untouched && status.exit_status() == Some(3)
        }));
    }
}
