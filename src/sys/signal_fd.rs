//! Signals as a descriptor for poll(2).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::let_go::LetGo;
use super::ready::wait_until_ready;
use super::signal::{Arrived, timer_signal};

/// Readable when one of its signals is pending (signalfd(2)). They must be blocked.
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// For these signals.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is initialised before it is read; nobody else has the new
        // descriptor.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(Self { fd: OwnedFd::from_raw_fd(fd) }) }
        }
    }

    /// For all signals.
    pub fn of_all() -> io::Result<Self> {
        Self::new(&(1..=libc::SIGRTMAX()).collect::<Vec<_>>())
    }

    /// Sleeps until a signal comes or one of the others is readable, at most `limit`.
    /// Uses nothing of the C library, not even errno.
    pub fn wait_beside(&self, one: &impl AsFd, other: Option<BorrowedFd<'_>>, limit: Option<Duration>) {
        let fds = [self.fd.as_fd(), one.as_fd(), other.unwrap_or(one.as_fd())];
        let _ = wait_until_ready(&mut fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)), limit);
    }

    /// Reads a signal that has come.
    pub fn read(&self) -> Option<Arrived> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes whole structures of this size or nothing, and all
        // bytes make a valid one.
        let info = unsafe {
            let read = libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
            (usize::try_from(read) == Ok(size)).then(|| info.assume_init())
        }?;
        let number = i32::try_from(info.ssi_signo).ok()?;
        let sender = i32::try_from(info.ssi_pid).ok()?;
        Some(match LetGo::of_signal(number, info.ssi_code, usize::try_from(info.ssi_ptr).unwrap_or(0)) {
            Some(ask) => Arrived::LetGo { ask, sender },
            None if number == timer_signal() && info.ssi_code == libc::SI_TIMER => Arrived::Timer,
            None => Arrived::Signal { number, from_kernel: info.ssi_code > 0, sender },
        })
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
