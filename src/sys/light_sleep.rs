//! Sleeping without the memory of the program's own code.
//!
//! A lockrun sleeps nearly all its life: as long as COMMAND runs. What it has
//! mapped of its own file meanwhile is of no use to it, counts as memory that
//! is its own, and has to be unmapped at the end, when somebody waits for
//! that. So it is given back before the sleep; the kernel still has it, and
//! maps again the little that is needed afterwards.

use std::ffi::c_long;

unsafe extern "C" {
    // Where the linker put the beginning and the end of the program's code.
    static __executable_start: u8;
    static etext: u8;
}

/// As much of a function as has to stay: what it executes between giving the
/// code back and falling asleep is less.
const KEPT: usize = 1024;

/// rt_sigtimedwait(2), with the code given back first.
///
/// # Safety
/// As of the system call: valid pointers, or null where it allows that.
#[inline(never)]
pub(super) unsafe fn sigtimedwait(
    set: *const libc::sigset_t,
    info: *mut libc::siginfo_t,
    limit: *const libc::timespec,
) -> c_long {
    /// In bytes; the C library's may be larger.
    const KERNEL_SIGSET: usize = 8;
    // SAFETY: a question without side effects, which never fails.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    // Ours and the one that makes the system calls.
    let mut kept = [sigtimedwait as *const () as usize, libc::syscall as *const () as usize];
    kept.sort_unstable();
    let mut from = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr();
    // SAFETY: these pages are the program's file, which nobody writes to; after
    // this they are what they were before. A failure changes nothing.
    let give_back = |from: usize, to: usize| unsafe {
        if from < to {
            libc::syscall(libc::SYS_madvise, from, to - from, libc::MADV_DONTNEED);
        }
    };
    for function in kept {
        give_back(from, function & !(page - 1));
        from = from.max((function + KEPT).next_multiple_of(page));
    }
    give_back(from, end & !(page - 1));
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, set, info, limit, KERNEL_SIGSET) }
}
