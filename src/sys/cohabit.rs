//! A child process that lives in our memory.
//!
//! A forked child has a copy of our memory. Making it costs, and so does taking
//! it apart again, which the kernel does when the child executes COMMAND, while
//! somebody waits for that. This child has our memory itself (clone(2) with
//! `CLONE_VM`, without `CLONE_VFORK`); all else is its own: its descriptors, its
//! signals, its end. It makes a hand-over 10 to 18 % faster than a fork
//! (November 2026).
//!
//! The program has one thread, and the C library is not made for two that are
//! awake at once (they would share errno). So one of the two has the floor, and
//! the other one sleeps or waits for it. The child gives it away only around a
//! sleep ([`asleep`]) and, once it is to leave, not at all
//! ([`keep_the_floor`]). When the child has executed something else, or has
//! ended, by whatever hand, the kernel gives the floor back
//! (set_tid_address(2)).
//!
//! A child that is stopped, or hangs in slow storage, while it has the floor
//! keeps it. The parent waits for the floor only for a moment at a time
//! ([`Cohabitant::take_the_floor`]), and meanwhile does nothing but raw system
//! calls and atomic operations, so that signals and deadlines are noticed. Then
//! it can end the child and go on ([`Cohabitant::end`]). That is sound because:
//!
//! - A child that was killed runs no more once it has ended, or sleeps in the
//!   kernel (state D) with a deadly signal pending.
//! - It was killed at any point, but leaves nothing half changed that is ours: it
//!   owns what it uses, or shares atomics with us; and it neither allocates from
//!   the parent's heap nor frees anything ([`heap`](super::heap)).
//! - In state D, the kernel may still write to its memory. So that is never
//!   unmapped or used again, and there is no other child after it.

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

/// Who is awake in our memory. The kernel writes [`FREE`] and wakes one who
/// waits when the child leaves.
static FLOOR: AtomicU32 = AtomicU32::new(TAKEN);
const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and the other one waits for it.
const WANTED: u32 = 2;

/// Whether the child gives the floor away no more.
static IS_LEAVING: AtomicBool = AtomicBool::new(false);

/// A killed child has not ended: no other one may be started.
static IS_ABANDONED: AtomicBool = AtomicBool::new(false);

/// A wake-up that does not come, because futex(2) fails, is made up for after
/// this time.
const A_NAP: Duration = Duration::from_millis(10);
const A_NAP_OF_FUTEX: futex::Timespec = futex::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Returns whether the floor could be taken within `limit`. Allocates nothing
/// and leaves errno alone.
fn take_the_floor(limit: Option<Duration>) -> bool {
    if FLOOR.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return true;
    }
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    while FLOOR.swap(WANTED, Ordering::Acquire) != FREE {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return false;
        }
        match futex::wait(&FLOOR, futex::Flags::empty(), WANTED, Some(&A_NAP_OF_FUTEX)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
            // Not possible here: some sandboxes refuse it.
            Err(_) => nap(A_NAP),
        }
    }
    true
}

fn give_the_floor() {
    if FLOOR.swap(FREE, Ordering::Release) == WANTED {
        let _ = futex::wake(&FLOOR, futex::Flags::empty(), 1);
    }
}

/// Calls `sleep`, which may be held up for long. In a child that lives in its
/// parent's memory, the parent may be awake meanwhile: `sleep` touches nothing
/// but what is its own, and nothing of the C library but errno where it fails:
/// that may be the parent's then.
pub fn asleep<T>(sleep: impl FnOnce() -> T) -> T {
    if !heap::is_childs() || IS_LEAVING.load(Ordering::Relaxed) {
        return sleep();
    }
    heap::use_childs(false);
    give_the_floor();
    let result = sleep();
    take_the_floor(None);
    heap::use_childs(true);
    result
}

/// In the child: from now on the parent is not awake before we are gone, or it
/// has ended us.
pub fn keep_the_floor() {
    IS_LEAVING.store(true, Ordering::Relaxed);
}

/// A child in our memory. When this is dropped, the child is gone from it: if
/// it has not executed anything else by then, it is killed. It stays ours to
/// wait for.
pub struct Cohabitant {
    pid: Pid,
    stack: ManuallyDrop<Stack>,
}

/// The parent does not wait longer than this for the floor without looking at
/// its signals and its deadline.
const A_MOMENT: Duration = Duration::from_millis(30);

impl Cohabitant {
    /// Starts a child that calls `act`, and ends where that returns. It has a
    /// stack of `stack` bytes, and is awake for the first time in
    /// [`let_live`](Self::let_live). All signals must be blocked, and there is
    /// one at a time. If we are killed, so is the child, unless it has asked not
    /// to be (prctl(2)).
    ///
    /// # Errors
    /// `EAGAIN` (process limit), `ENOMEM`.
    pub fn start<F: FnOnce() + 'static>(stack: usize, act: F) -> io::Result<Self> {
        struct Plan<F> {
            act: ManuallyDrop<F>,
            parent: Pid,
        }
        extern "C" fn live<F: FnOnce()>(plan: *mut c_void) -> libc::c_int {
            let plan = plan.cast::<Plan<F>>();
            // SAFETY: the kernel will write to FLOOR, an aligned word that lives as
            // long as the program. Clone(2) could ask for the same, but not musl's.
            if unsafe { libc::syscall(libc::SYS_set_tid_address, FLOOR.as_ptr()) } == -1 {
                exit_now(125);
            }
            // SAFETY: nobody changes the plan after the clone.
            end_with(unsafe { (*plan).parent });
            take_the_floor(None);
            heap::use_childs(true);
            // SAFETY: made by `Box::into_raw` for this call alone.
            let plan = unsafe { Box::from_raw(plan) };
            ManuallyDrop::into_inner(plan.act)();
            exit_now(0)
        }
        // What it owns is never dropped here: its descriptors are to be the
        // child's, and in this process they are somebody else's.
        let act = ManuallyDrop::new(act);
        if !Self::may_start() {
            return Err(Errno::BUSY.into());
        }
        let stack = ManuallyDrop::new(Stack::new(stack)?);
        let plan = Box::into_raw(Box::new(Plan { act, parent: getpid() })).cast::<c_void>();
        FLOOR.store(TAKEN, Ordering::Relaxed);
        IS_LEAVING.store(false, Ordering::Relaxed);
        // SAFETY: the child runs on a stack of its own, which lives until it is
        // gone; what it uses beside that it owns (`'static`), or shares with us
        // as one thread does with itself, by the floor. No handler runs in it,
        // because all signals are blocked, but one that stores an atomic right
        // before an exec.
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

    /// Whether there is no other one in our memory, in state D.
    pub fn may_start() -> bool {
        !IS_ABANDONED.load(Ordering::Relaxed)
    }

    /// The child.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Calls `sleep` while the child may be awake: raw system calls, nothing else.
    /// Returns whether the floor is ours again;
    /// if not, see [`take_the_floor`](Self::take_the_floor).
    #[must_use]
    pub fn let_live(&self, sleep: impl FnOnce()) -> bool {
        give_the_floor();
        sleep();
        self.take_the_floor()
    }

    /// Waits a moment for the floor. If this returns `false`, the child still has
    /// it, and the caller may touch nothing but atomics and raw system calls
    /// before another try succeeds, or [`end`](Self::end) returns.
    #[must_use]
    pub fn take_the_floor(&self) -> bool {
        // Where set_tid_address(2) only seemed to work, its end is as good.
        let is_ours = take_the_floor(Some(A_MOMENT)) || has_ended(self.pid);
        if is_ours {
            heap::use_childs(false);
        }
        is_ours
    }

    /// Kills the child, whoever has the floor, if it has not ended. Afterwards
    /// the floor is ours. Returns whether it has ended; `false`: it will when the
    /// kernel lets it.
    pub fn end(&self) -> bool {
        let has_ended = end_child(self.pid);
        heap::use_childs(false);
        IS_ABANDONED.fetch_or(!has_ended, Ordering::Relaxed);
        has_ended
    }
}

impl Drop for Cohabitant {
    fn drop(&mut self) {
        // We are awake, so it is gone, or asleep, or was ended.
        let is_gone = IS_LEAVING.load(Ordering::Relaxed) || self.end();
        if is_gone && Self::may_start() {
            // SAFETY: dropped once, and nobody lives on it.
            unsafe { ManuallyDrop::drop(&mut self.stack) };
        }
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

    /// In a process of its own: the test program has threads.
    fn in_a_process(act: impl FnOnce() -> bool) -> bool {
        let Forked::Parent(process) = fork().unwrap() else {
            block_all();
            exit_now(i32::from(!act()))
        };
        waitpid(Some(process), WaitOptions::empty()).unwrap().unwrap().1.exit_status() == Some(0)
    }

    /// Leaves it to be waited for.
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
                keep_the_floor();
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
    fn a_child_that_is_killed_gives_the_floor_back() {
        assert!(in_a_process(|| {
            let child = Cohabitant::start(64 * 1024, spin).unwrap();
            let kill = || {
                let _ = super::super::send(child.pid(), libc::SIGKILL);
                wait_for_end(child.pid());
            };
            // Awake, it has the floor for ever; or it is killed before that.
            child.let_live(kill)
        }));
    }

    #[test]
    fn a_child_that_keeps_the_floor_is_ended() {
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
            // SAFETY: what the child was given was freed by nobody.
            let untouched = unsafe { std::slice::from_raw_parts(start, 1000) } == [7; 1000];
            let status = waitpid(Some(child.pid()), WaitOptions::empty()).unwrap().unwrap().1;
            untouched && status.exit_status() == Some(3)
        }));
    }
}
