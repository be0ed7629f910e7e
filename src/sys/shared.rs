//! Memory that a process shares with the one it forked.

use std::ops::Deref;
use std::ptr::NonNull;

/// A value in an anonymous shared mapping, which a fork shares instead of copying.
///
/// `T` must be plain data that all-zero bytes make valid and that two processes may
/// change, so only types of atomics belong here.
pub struct Shared<T: Sync> {
    at: NonNull<T>,
}

impl<T: Sync> Shared<T> {
    /// Maps a value of zero bytes.
    pub fn zeroed() -> std::io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no
        // memory of ours.
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
        // SAFETY: mapped for `T`, page-aligned, zeroed by the kernel, and unmapped only
        // on drop; `T: Sync` makes shared access sound.
        unsafe { self.at.as_ref() }
    }
}

impl<T: Sync> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `zeroed`; no reference outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), size_of::<T>()) };
    }
}
