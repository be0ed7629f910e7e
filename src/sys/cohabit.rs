//! A child process that lives in our memory.
//!
//! A forked child has a copy of our memory. Making it costs, and so does taking
//! it apart again, which the kernel does when the child executes COMMAND, while
//! somebody waits for that. This child has our memory itself (clone(2) with
//! `CLONE_VM`, without `CLONE_VFORK`); all else is its own: its descriptors, its
//! signals, its end.
//!
//! The program has one thread, and nothing in it, from the allocator to errno,
//! is made for two that are awake at once. So one of the two has the floor, and
//! the other one sleeps or waits for it: it is given away only around a sleep
//! ([`asleep`]), and the child, once it is to leave, keeps it
//! ([`keep_the_floor`]). When the child has executed something else, or has
//! ended, by whatever hand, the kernel gives the floor back
//! (`CLONE_CHILD_CLEARTID`).
//!
//! One that is stopped by SIGSTOP in a moment in which it has the floor keeps it
//! until somebody continues it, and the other one is deaf until then, but for
//! SIGKILL. What a terminal sends to stop a job is blocked, and does not stop a
//! child that leaves ([`Exec::exec_without_a_stop`](super::Exec)).

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, waitid};
use rustix::thread::futex;

use super::process::{end_with, exit_now};

/// Who is awake in our memory. The kernel writes [`FREE`] and wakes one who
/// waits when the child leaves.
static FLOOR: AtomicU32 = AtomicU32::new(TAKEN);
const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and the other one waits for it.
const WANTED: u32 = 2;

/// Whether there is anybody to give the floor to.
static IS_SHARED: AtomicBool = AtomicBool::new(false);

/// Whether the child gives the floor away no more.
static IS_LEAVING: AtomicBool = AtomicBool::new(false);

fn take_the_floor() {
    if FLOOR.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return;
    }
    while FLOOR.swap(WANTED, Ordering::Acquire) != FREE {
        let _ = futex::wait(&FLOOR, futex::Flags::empty(), WANTED, None);
    }
}

fn give_the_floor() {
    if FLOOR.swap(FREE, Ordering::Release) == WANTED {
        let _ = futex::wake(&FLOOR, futex::Flags::empty(), 1);
    }
}

/// Calls `sleep`, which may be held up for long. If another process lives in
/// our memory, it may be awake meanwhile: `sleep` touches nothing but what is
/// its own, and nothing of the C library but errno where it fails: that may be
/// the other one's then.
pub fn asleep<T>(sleep: impl FnOnce() -> T) -> T {
    if !IS_SHARED.load(Ordering::Relaxed) || IS_LEAVING.load(Ordering::Relaxed) {
        return sleep();
    }
    give_the_floor();
    let result = sleep();
    take_the_floor();
    result
}

/// In the child: from now on the parent is not awake before we are gone.
pub fn keep_the_floor() {
    IS_LEAVING.store(true, Ordering::Relaxed);
}

/// A child in our memory. When this is dropped, the child is gone from it: if
/// it has not executed anything else by then, it is killed. It stays ours to
/// wait for.
pub struct Cohabitant {
    pid: Pid,
    _stack: Stack,
}

impl Cohabitant {
    /// Starts a child that calls `act`, and ends where that returns. It has a
    /// stack of `stack` bytes, and is awake for the first time when we sleep.
    /// All signals must be blocked, and there is one at a time. If we are
    /// killed, so is the child, unless it has asked not to be (prctl(2)).
    ///
    /// # Errors
    /// `EAGAIN` (process limit), `ENOMEM`.
    pub fn start<F: FnOnce() + 'static>(stack: usize, act: F) -> io::Result<Self> {
        struct Plan<F> {
            act: ManuallyDrop<F>,
            parent: Pid,
        }
        extern "C" fn live<F: FnOnce()>(plan: *mut c_void) -> libc::c_int {
            // SAFETY: made by `Box::into_raw` for this call alone.
            let plan = unsafe { Box::from_raw(plan.cast::<Plan<F>>()) };
            // First of all: a parent that is killed does not give the floor.
            end_with(plan.parent);
            take_the_floor();
            ManuallyDrop::into_inner(plan.act)();
            exit_now(0)
        }
        // What it owns is never dropped here: its descriptors are to be the
        // child's, and in this process they are somebody else's.
        let act = ManuallyDrop::new(act);
        let stack = Stack::new(stack)?;
        let plan = Box::into_raw(Box::new(Plan { act, parent: getpid() })).cast::<c_void>();
        FLOOR.store(TAKEN, Ordering::Relaxed);
        IS_LEAVING.store(false, Ordering::Relaxed);
        IS_SHARED.store(true, Ordering::Relaxed);
        let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        let nothing = ptr::null_mut::<c_void>();
        // SAFETY: the child runs on a stack of its own, which lives until it is
        // gone; what it uses beside that it owns (`'static`), or shares with us
        // as one thread does with itself, by the floor. No handler runs in it,
        // because all signals are blocked, but one that stores an atomic right
        // before an exec. The kernel writes to FLOOR, an aligned word that lives
        // as long as the program.
        let pid = unsafe { libc::clone(live::<F>, stack.top(), flags, plan, nothing, nothing, FLOOR.as_ptr()) };
        match Pid::from_raw(pid) {
            Some(pid) if pid.as_raw_nonzero().get() > 0 => Ok(Self { pid, _stack: stack }),
            _ => {
                let error = io::Error::last_os_error();
                IS_SHARED.store(false, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// The child.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

/// The descriptor that a cohabitant has of a file that is open now, when it is
/// started, for what it is to own: to be used and closed by the cohabitant
/// alone. The number is the same, in a table of its own.
pub fn descriptor_of_cohabitant(file: &File) -> File {
    // SAFETY: in the child's table nobody else owns the number: the child never
    // uses or drops what it was cloned from.
    unsafe { File::from_raw_fd(file.as_raw_fd()) }
}

impl Drop for Cohabitant {
    fn drop(&mut self) {
        // We are awake, so it is gone, or asleep.
        if !IS_LEAVING.load(Ordering::Relaxed) {
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            // Already waited for: then its id may be somebody else's.
            if let Ok(None) = waitid(WaitId::Pid(self.pid), ended | WaitIdOptions::NOHANG) {
                let _ = super::send(self.pid, libc::SIGKILL);
                let _ = waitid(WaitId::Pid(self.pid), ended);
            }
        }
        IS_SHARED.store(false, Ordering::Relaxed);
    }
}

/// Memory that grows down to a page that nobody may touch.
struct Stack {
    start: *mut c_void,
    size: usize,
}

/// No page is larger.
const GUARD: usize = 64 * 1024;

impl Stack {
    fn new(size: usize) -> io::Result<Self> {
        let size = size.next_multiple_of(GUARD) + GUARD;
        // SAFETY: a new mapping at an address of the kernel's choice touches no
        // memory of ours, and the guard is a part of it.
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
        // SAFETY: the mapping made in `new`, on which nobody lives any more.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Forked, block_all, fork};
    use super::*;
    use rustix::process::{WaitOptions, waitpid};

    static IS_AWAKE: AtomicBool = AtomicBool::new(false);
    static BOTH_AWAKE: AtomicU32 = AtomicU32::new(0);

    fn be_awake() {
        if IS_AWAKE.swap(true, Ordering::SeqCst) {
            BOTH_AWAKE.fetch_add(1, Ordering::SeqCst);
        }
        (0..100).for_each(|_| std::hint::spin_loop());
        IS_AWAKE.store(false, Ordering::SeqCst);
    }

    /// In a process of its own: the test program has threads.
    fn in_a_process(act: impl FnOnce() -> bool) -> bool {
        let Forked::Parent(process) = fork().unwrap() else {
            block_all();
            exit_now(i32::from(!act()))
        };
        waitpid(Some(process), WaitOptions::empty()).unwrap().unwrap().1.exit_status() == Some(0)
    }

    fn has_ended(pid: Pid) -> bool {
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).is_ok()
    }

    #[test]
    fn only_one_is_awake_until_the_child_has_ended() {
        const SLEEPS: usize = 20_000;
        let live = || {
            for _ in 0..SLEEPS {
                be_awake();
                asleep(std::thread::yield_now);
            }
        };
        assert!(in_a_process(|| {
            let child = Cohabitant::start(64 * 1024, move || {
                live();
                keep_the_floor();
                be_awake();
            });
            let child = child.unwrap();
            live();
            asleep(|| has_ended(child.pid())) && BOTH_AWAKE.load(Ordering::SeqCst) == 0
        }));
    }

    #[test]
    fn a_child_that_sleeps_is_ended_with_its_place() {
        assert!(in_a_process(|| {
            let forever = || asleep(|| futex::wait(&BOTH_AWAKE, futex::Flags::empty(), 0, None));
            let child = Cohabitant::start(64 * 1024, move || forever().unwrap_or(())).unwrap();
            asleep(std::thread::yield_now);
            let pid = child.pid();
            drop(child);
            has_ended(pid)
        }));
    }

    #[test]
    fn a_child_that_is_killed_gives_the_floor_back() {
        assert!(in_a_process(|| {
            let spin = || loop {
                std::hint::spin_loop();
            };
            let child = Cohabitant::start(64 * 1024, spin).unwrap();
            // Awake, it has the floor for ever; or it is killed before that.
            asleep(|| super::super::send(child.pid(), libc::SIGKILL).is_ok() && has_ended(child.pid()))
        }));
    }
}
