//! Sleeping without the memory of the program's own code.
//!
//! A lockrun sleeps nearly all its life. What it has mapped of its own file
//! meanwhile is of no use to it, counts as memory that is its own, and has to
//! be unmapped at the end. So it is given back before the sleep, but for what is
//! needed when COMMAND ends and somebody waits; the kernel keeps it, and maps it
//! again where it is needed.

use std::ops::Range;

use super::process::exit_now;

unsafe extern "C" {
    // Where the linker put the beginning and the end of the program's code.
    static __executable_start: u8;
    static etext: u8;
}

/// Gives back the program's code, but for what is executed from here to the
/// sleep, and after it until the lock is given back. `.cargo/order.ld` has put
/// that between this function and [`exit_now`]; in a program that was linked
/// without it they are farther apart, and all is given back.
#[inline(never)]
pub fn give_code_back() {
    let code = (&raw const __executable_start).addr()..(&raw const etext).addr();
    let awake = (give_code_back as *const ()).addr()..(exit_now as *const ()).addr();
    // SAFETY: a question without side effects, which the kernel answered when
    // the program began.
    let page = unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize;
    for Range { start, end } in dispensable(code, awake, page) {
        if start < end {
            // SAFETY: these pages are the program's file, which nobody writes
            // to: when they are mapped again they are what they were, also
            // those that are executed now. Without effect where it fails.
            unsafe { libc::syscall(libc::SYS_madvise, start, end - start, libc::MADV_DONTNEED) };
        }
    }
}

/// More is not kept.
const KEPT_AT_MOST: usize = 64 * 1024;

/// The whole pages of `code` that have nothing of `awake`, if that is together.
#[inline(always)]
fn dispensable(code: Range<usize>, awake: Range<usize>, page: usize) -> [Range<usize>; 2] {
    let down = |address: usize| address & !(page - 1);
    let end = down(code.end);
    let size = awake.end.wrapping_sub(awake.start);
    if size > KEPT_AT_MOST || awake.start < code.start || awake.end > end {
        return [code.start..end, 0..0];
    }
    [code.start..down(awake.start), down(awake.end) + page..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 0x1000;
    const CODE: Range<usize> = 0x20_0000..0x24_8123;

    fn given_back(awake: Range<usize>) -> Vec<(usize, usize)> {
        let gaps = dispensable(CODE, awake, PAGE);
        gaps.into_iter().filter(|gap| gap.start < gap.end).map(|gap| (gap.start, gap.end)).collect()
    }

    #[test]
    fn all_but_the_pages_of_what_is_needed() {
        assert_eq!(given_back(0x20_4010..0x20_5f00), [(0x20_0000, 0x20_4000), (0x20_6000, 0x24_8000)]);
        assert_eq!(given_back(0x20_4000..0x20_6000), [(0x20_0000, 0x20_4000), (0x20_7000, 0x24_8000)]);
        assert_eq!(given_back(0x20_0010..0x20_0020), [(0x20_1000, 0x24_8000)]);
        assert_eq!(given_back(0x24_7010..0x24_7fff), [(0x20_0000, 0x24_7000)]);
    }

    #[test]
    fn all_where_that_is_not_together_and_nothing_outside_of_the_program() {
        let apart = [(0x21_0000, 0x23_0000), (0x21_1000, 0x21_0000), (0x10_0000, 0x10_1000), (0x24_8000, 0x24_8001)];
        for (start, end) in apart {
            assert_eq!(given_back(start..end), [(0x20_0000, 0x24_8000)]);
        }
    }
}
