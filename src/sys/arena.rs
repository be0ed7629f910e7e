//! Memory for a process that lives for a millisecond.
//!
//! What a call allocates before COMMAND runs is little and needed to the end,
//! so it is cut from one piece that the program brings with it: no system
//! call, no lists of free blocks, and pages that are touched once, in order.
//! Only the last block can be given back or grow in place. When the piece is
//! used up, as it is only by those who wait long and show much, the rest comes
//! from the system's allocator, which reuses what is freed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A run needs some 60 KiB; untouched pages cost nothing.
const SIZE: usize = 256 * 1024;

/// The allocator of the program.
pub struct Arena {
    memory: UnsafeCell<[u8; SIZE]>,
    used: AtomicUsize,
}

// SAFETY: every block is handed out once, by an atomic step of `used`.
unsafe impl Sync for Arena {}

impl Arena {
    /// An unused piece. For a static: it is all zeros and takes no room in
    /// the program's file.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { memory: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) }
    }

    fn start(&self) -> usize {
        self.memory.get().expose_provenance()
    }

    /// Where in the piece a block is, if it is there.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        block.addr().checked_sub(self.start()).filter(|offset| *offset < SIZE)
    }

    /// Moves the end of what is used, if it still is where it was seen.
    fn advance(&self, from: usize, to: usize) -> bool {
        to <= SIZE && self.used.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

// SAFETY: blocks of the piece are aligned, inside it, and overlap nobody:
// `used` only moves past what nobody has. All others are the system's, and go
// back to the system.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = self.used.load(Ordering::Relaxed);
        let begin = (self.start() + used).next_multiple_of(layout.align()) - self.start();
        if let Some(end) = begin.checked_add(layout.size())
            && self.advance(used, end)
        {
            // SAFETY: `begin..end` is inside the piece.
            return unsafe { self.memory.get().cast::<u8>().add(begin) };
        }
        // SAFETY: the caller's promise about the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) => {
                self.advance(offset + layout.size(), offset);
            }
            // SAFETY: not ours, so it was the system's.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: not ours, so it was the system's.
            return unsafe { System.realloc(block, layout, size) };
        };
        if size <= layout.size() || self.advance(offset + layout.size(), offset + size) {
            return block;
        }
        // SAFETY: the caller promises that this layout is valid; the new
        // block is another one and larger than what is copied.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size());
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a block and fills it, so that an overlap would show.
    fn take(arena: &Arena, size: usize, align: usize, fill: u8) -> (*mut u8, Layout) {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: a valid layout; the block has `size` bytes.
        let block = unsafe {
            let block = arena.alloc(layout);
            block.write_bytes(fill, size);
            block
        };
        assert!(!block.is_null() && block.addr().is_multiple_of(align));
        (block, layout)
    }

    fn holds(block: *mut u8, size: usize, fill: u8) -> bool {
        // SAFETY: blocks of these tests are alive and have `size` bytes.
        unsafe { std::slice::from_raw_parts(block, size) }.iter().all(|byte| *byte == fill)
    }

    #[test]
    fn blocks_do_not_overlap_also_where_the_piece_ends() {
        let arena = Box::new(Arena::new());
        let blocks: Vec<_> = (0..2000).map(|i| (take(&arena, 1 + i % 700, 1 << (i % 7), i as u8), i)).collect();
        assert!(blocks.iter().any(|((block, _), _)| arena.offset(*block).is_none()));
        assert!(blocks.iter().all(|((block, layout), i)| holds(*block, layout.size(), *i as u8)));
        for ((block, layout), _) in blocks {
            // SAFETY: allocated above with this layout, freed once.
            unsafe { arena.dealloc(block, layout) };
        }
    }

    #[test]
    fn the_last_block_grows_in_place_and_others_move() {
        let arena = Box::new(Arena::new());
        let (first, layout) = take(&arena, 100, 8, 1);
        // SAFETY: blocks of this arena, with their layouts.
        unsafe {
            assert_eq!(arena.realloc(first, layout, 200), first);
            let (last, _) = take(&arena, 100, 8, 2);
            let moved = arena.realloc(first, Layout::from_size_align(200, 8).unwrap(), 300);
            assert!(moved != first && holds(moved, 100, 1) && holds(last, 100, 2));
            let large = arena.realloc(moved, Layout::from_size_align(300, 8).unwrap(), 2 * SIZE);
            assert!(arena.offset(large).is_none() && holds(large, 100, 1));
            arena.dealloc(large, Layout::from_size_align(2 * SIZE, 8).unwrap());
        }
    }
}
