//! The allocator: the system's, except in a child that lives in its parent's memory
//! ([`Cohabitant`](super::Cohabitant)).
//!
//! That child may be killed in the middle of an allocation while the parent goes on. So
//! it never touches the parent's heap: it takes its few allocations from memory that it
//! maps itself, and frees nothing. That memory stays mapped, because anything that a
//! process makes only once may be in it.
//!
//! Allocations inside of the C library, such as opendir(3)'s, bypass this; the child
//! makes none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::process::exit_now;

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// Whether the child runs, and so allocates from its own memory.
static IS_CHILDS: AtomicBool = AtomicBool::new(false);

/// The rest of the child's last piece of memory. Only one process runs at a time.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Mapped at once, or more if one allocation needs it.
const PIECE: usize = 64 * 1024;

/// Whether we are the child: of the two, the one that runs.
pub(super) fn is_childs() -> bool {
    IS_CHILDS.load(Ordering::Relaxed)
}

/// Sets whether the child runs from now on.
pub(super) fn use_childs(childs: bool) {
    IS_CHILDS.store(childs, Ordering::Relaxed);
}

// SAFETY: `alloc_for_child` returns memory that nobody else has and that is never
// freed. All else is the system's allocator, which gets back only its own, because the
// parent frees nothing of the child's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        or_end(if is_childs() { alloc_for_child(layout) } else { unsafe { System.alloc(layout) } })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // New mappings are zero. SAFETY: the caller's promise.
        or_end(if is_childs() { alloc_for_child(layout) } else { unsafe { System.alloc_zeroed(layout) } })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !is_childs() {
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(memory, layout) };
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_childs() {
            // SAFETY: the caller's promise.
            return or_end(unsafe { System.realloc(memory, layout, size) });
        }
        // SAFETY: the caller promises that it is valid with this alignment.
        let new = or_end(alloc_for_child(unsafe { Layout::from_size_align_unchecked(size, layout.align()) }));
        // SAFETY: both allocations are at least this long.
        unsafe { ptr::copy_nonoverlapping(memory, new, layout.size().min(size)) };
        new
    }
}

/// Without memory, lockrun fails as with any other error. Rust would abort, and
/// leave a core file.
#[inline(always)]
fn or_end(memory: *mut u8) -> *mut u8 {
    if memory.is_null() { out_of_memory() } else { memory }
}

#[cold]
fn out_of_memory() -> ! {
    let _ = rustix::io::write(rustix::stdio::stderr(), b"lockrun: out of memory\n");
    exit_now(125)
}

#[cold]
fn alloc_for_child(layout: Layout) -> *mut u8 {
    loop {
        let start = NEXT.load(Ordering::Relaxed).next_multiple_of(layout.align());
        let end = start.saturating_add(layout.size());
        if start != 0 && end <= END.load(Ordering::Relaxed) {
            NEXT.store(end, Ordering::Relaxed);
            return ptr::with_exposed_provenance_mut(start);
        }
        let Some(size) = layout.size().checked_add(layout.align()) else { return ptr::null_mut() };
        let size = size.next_multiple_of(PIECE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory
        // of ours.
        let piece = unsafe {
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(ptr::null_mut(), size, access, kind, -1, 0)
        };
        if piece == libc::MAP_FAILED {
            return ptr::null_mut();
        }
        let start = piece.expose_provenance();
        NEXT.store(start, Ordering::Relaxed);
        END.store(start + size, Ordering::Relaxed);
    }
}
