//! Sleeping without the memory of the program's own code.
//!
//! A lockrun sleeps nearly all its life. What it has mapped of its own file
//! meanwhile is of no use to it, counts as memory that is its own, and has to
//! be unmapped at the end, or when COMMAND is executed, while somebody waits
//! for that. So it is given back before the sleep; the kernel keeps it, and
//! maps the little again that is needed afterwards.

use std::ops::Range;

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
    let code = (&raw const __executable_start).addr()..(&raw const etext).addr();
    // SAFETY: a question without side effects, which never fails.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let kept = [lightly::<T, F> as *const (), libc::syscall as *const (), call];
    for Range { start, end } in dispensable(code, kept.map(|function| function.addr()), page) {
        if start < end {
            // SAFETY: these pages are the program's file, which nobody writes
            // to: when they are mapped again they are what they were. Without
            // effect where it fails.
            unsafe { libc::syscall(libc::SYS_madvise, start, end - start, libc::MADV_DONTNEED) };
        }
    }
    sleep()
}

/// Whole pages of `code` that these functions do not need. Those that are not
/// in it, because the C library is loaded dynamically, need nothing of it.
#[inline(always)]
fn dispensable(code: Range<usize>, mut kept: [usize; 3], page: usize) -> [Range<usize>; 4] {
    kept.sort_unstable();
    let mut gaps = [0..0, 0..0, 0..0, 0..0];
    let mut from = code.start;
    for (gap, function) in gaps.iter_mut().zip(kept.into_iter().filter(|function| code.contains(function))) {
        *gap = from..function & !(page - 1);
        from = from.max((function + KEPT).next_multiple_of(page));
    }
    gaps[3] = from..code.end & !(page - 1);
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 0x1000;

    fn given_back(kept: [usize; 3]) -> Vec<(usize, usize)> {
        let gaps = dispensable(0x20_0000..0x20_8123, kept, PAGE);
        gaps.into_iter().filter(|gap| !gap.is_empty()).map(|gap| (gap.start, gap.end)).collect()
    }

    #[test]
    fn all_but_the_pages_of_what_is_needed_in_any_order() {
        let gaps = [(0x20_0000, 0x20_1000), (0x20_3000, 0x20_4000), (0x20_6000, 0x20_8000)];
        assert_eq!(given_back([0x20_4010, 0x20_1f00, 0x20_4f00]), gaps);
    }

    #[test]
    fn nothing_outside_of_the_program() {
        let inside = 0x20_2000;
        for outside in [0x7f00_0000_1000, 0x1000] {
            assert_eq!(given_back([outside, inside, outside]), [(0x20_0000, inside), (0x20_3000, 0x20_8000)]);
            assert_eq!(given_back([outside; 3]), [(0x20_0000, 0x20_8000)]);
        }
        assert_eq!(given_back([0x20_8122; 3]), [(0x20_0000, 0x20_8000)]);
    }
}
