//! Sleeping without the memory of the program's own code.
//!
//! A lockrun sleeps nearly all its life. What it has mapped of its own file
//! meanwhile is of no use to it, counts as memory that is its own, and has to
//! be unmapped at the end, or when COMMAND is executed, while somebody waits
//! for that. So it is given back before the sleep, but for the little that is
//! needed afterwards; the kernel keeps it, and maps it again where we are
//! wrong.

use std::ops::Range;

use super::process::exit_now;

unsafe extern "C" {
    // Where the linker put the beginning and the end of the program's code.
    static __executable_start: u8;
    static etext: u8;
}

/// The kernel maps code in aligned pieces of this size; no machine has larger
/// pages.
const WINDOW: usize = 64 * 1024;

/// Gives back the program's code, but for the window that has what is executed
/// from here to the sleep and from the sleep to COMMAND or the release.
/// `.cargo/order.ld` has put that between this function and [`exit_now`]; in a
/// program that was linked without it, they are anywhere.
#[inline(never)]
pub fn give_code_back() {
    let code = (&raw const __executable_start).addr()..(&raw const etext).addr();
    let awake = (give_code_back as *const ()).addr()..(exit_now as *const ()).addr();
    for Range { start, end } in dispensable(code, awake) {
        if start < end {
            // SAFETY: these pages are the program's file, which nobody writes
            // to: when they are mapped again they are what they were, also
            // those that are executed now. Without effect where it fails.
            unsafe { libc::syscall(libc::SYS_madvise, start, end - start, libc::MADV_DONTNEED) };
        }
    }
}

/// The whole windows of `code`, but for the one that has `awake`, if one has.
#[inline(always)]
fn dispensable(code: Range<usize>, awake: Range<usize>) -> [Range<usize>; 2] {
    let window = |address: usize| address / WINDOW * WINDOW;
    let (start, end) = (window(code.start + WINDOW - 1), window(code.end));
    let kept = window(awake.start);
    if kept != window(awake.end) || !(start..end).contains(&kept) {
        return [start..end, 0..0];
    }
    [start..kept, kept + WINDOW..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: Range<usize> = 0x20_0000..0x24_8123;

    fn given_back(awake: Range<usize>) -> Vec<(usize, usize)> {
        let gaps = dispensable(CODE, awake);
        gaps.into_iter().filter(|gap| gap.start < gap.end).map(|gap| (gap.start, gap.end)).collect()
    }

    #[test]
    fn all_but_the_window_of_what_is_needed() {
        assert_eq!(given_back(0x22_0010..0x22_ff00), [(0x20_0000, 0x22_0000), (0x23_0000, 0x24_0000)]);
        assert_eq!(given_back(0x20_0010..0x20_0020), [(0x21_0000, 0x24_0000)]);
        assert_eq!(given_back(0x23_0000..0x23_0001), [(0x20_0000, 0x23_0000)]);
        assert_eq!(dispensable(0x20_1000..0x24_8123, 0x22_0010..0x22_ff00)[0], 0x21_0000..0x22_0000);
    }

    #[test]
    fn all_where_that_is_not_together_and_nothing_outside_of_the_program() {
        let apart = [(0x22_f000, 0x23_0010), (0x23_0000, 0x21_0000), (0x10_0000, 0x10_1000), (0x24_0000, 0x24_0001)];
        for (start, end) in apart {
            assert_eq!(given_back(start..end), [(0x20_0000, 0x24_0000)]);
        }
    }
}
