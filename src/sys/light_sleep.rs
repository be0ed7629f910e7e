//! Sleeping without the memory of the program's own code.
//!
//! A lockrun sleeps nearly all its life. What it has mapped of its own file
//! meanwhile is of no use to it, counts as memory that is its own, and has to
//! be unmapped at the end, or when COMMAND is executed, while somebody waits
//! for that. So it is given back before the sleep; the kernel keeps it, and
//! maps the little again that is needed afterwards.

unsafe extern "C" {
    // Where the linker put the beginning and the end of the program's code.
    static __executable_start: u8;
    static etext: u8;
}

/// As much of a function stays: what is executed between giving the code back
/// and falling asleep is less.
const KEPT: usize = 1024;

/// Calls `sleep`, which sleeps in the system call made by the C library's
/// function `call`, with the program's code given back.
#[inline(never)]
pub fn lightly<T, F: FnOnce() -> T>(call: *const (), sleep: F) -> T {
    give_code_back([lightly::<T, F> as *const (), libc::syscall as *const (), call]);
    sleep()
}

/// All but what these functions need.
#[inline(always)]
fn give_code_back(mut kept: [*const (); 3]) {
    kept.sort_unstable();
    // SAFETY: a question without side effects, which never fails.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut from = (&raw const __executable_start).addr();
    for function in kept {
        unmap(from, function.addr() & !(page - 1));
        from = from.max((function.addr() + KEPT).next_multiple_of(page));
    }
    unmap(from, (&raw const etext).addr() & !(page - 1));
}

#[inline(always)]
fn unmap(from: usize, to: usize) {
    if from < to {
        // SAFETY: these pages are the program's file, which nobody writes to:
        // when they are mapped again they are what they were. Without effect
        // where it fails.
        unsafe { libc::syscall(libc::SYS_madvise, from, to - from, libc::MADV_DONTNEED) };
    }
}
