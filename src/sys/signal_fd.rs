//! Signals as something to poll(2) beside sockets.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::ready::is_readable;

/// Becomes readable when one of some blocked signals comes (signalfd(2)).
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// For these signals, which must be blocked.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is initialised before it is read; the descriptor is
        // new, and nobody else's.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(Self { fd: OwnedFd::from_raw_fd(fd) }) }
        }
    }

    /// For all signals, which must be blocked.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_all() -> io::Result<Self> {
        Self::new(&(1..=libc::SIGRTMAX()).collect::<Vec<_>>())
    }

    /// Sleeps until one comes, at most `limit`; perhaps a little less long.
    /// Touches nothing of the C library, not even errno.
    pub fn wait(&self, limit: Option<Duration>) {
        let _ = is_readable(&self.fd, limit);
    }

    /// A signal that has come, and who sent it.
    pub fn read(&self) -> Option<(i32, i32)> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes whole structures of this size or nothing,
        // and all bytes make a valid one.
        let info = unsafe {
            let read = libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
            (usize::try_from(read) == Ok(size)).then(|| info.assume_init())
        }?;
        Some((i32::try_from(info.ssi_signo).ok()?, i32::try_from(info.ssi_pid).ok()?))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
