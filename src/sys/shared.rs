//! Memory that a process shares with the one it forked.

use std::ops::Deref;
use std::ptr::NonNull;

/// A value in an anonymous shared mapping: a fork sees and changes the same
/// one, not a copy. It lives until both are gone.
///
/// `T` must be plain data that all-zero bytes make valid and that may be
/// changed from two processes, so only types of atomics belong here.
pub struct Shared<T: Sync> {
    at: NonNull<T>,
}

impl<T: Sync> Shared<T> {
    /// Maps one value, all bytes zero.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn zeroed() -> std::io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice
        // touches no memory of ours.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        NonNull::new(at.cast()).map(|at| Self { at }).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
    }
}

impl<T: Sync> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped for `T`, page-aligned, zeroed by the kernel, and
        // unmapped only on drop; `T: Sync` makes shared access sound.
        unsafe { self.at.as_ref() }
    }
}

impl<T: Sync> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `zeroed`, and no reference
        // outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), size_of::<T>()) };
    }
}
