//! For tests: byte-range locks answered by a model instead of the kernel.

use std::cell::RefCell;
use std::io;

/// Answers a call of fcntl(2).
pub type Kernel = dyn FnMut(libc::c_int, &libc::flock) -> io::Result<libc::flock>;

thread_local! {
    static KERNEL: RefCell<Option<Box<Kernel>>> = const { RefCell::new(None) };
}

/// Answers every call that this thread makes in `act` by `kernel`.
pub fn with_model<T>(kernel: Box<Kernel>, act: impl FnOnce() -> T) -> T {
    KERNEL.set(Some(kernel));
    let result = act();
    KERNEL.set(None);
    result
}

pub(super) fn answer(command: libc::c_int, range: &libc::flock) -> Option<io::Result<libc::flock>> {
    KERNEL.with_borrow_mut(|kernel| kernel.as_mut().map(|kernel| kernel(command, range)))
}
