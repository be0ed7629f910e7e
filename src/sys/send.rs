//! Sending signals to processes.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::Pid;

use super::let_go::LetGo;

/// Sends a signal, named or real-time. `ESRCH`: no such process; `EPERM`: another
/// user's.
pub fn send(pid: Pid, signal: i32) -> rustix::io::Result<()> {
    // SAFETY: kill has no memory effects; a `Pid` is never 0 or negative, which would
    // mean a group.
    errno(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }.into())
}

/// As [`send`], through a pidfd.
pub fn send_by_pidfd(process: &OwnedFd, signal: i32) -> rustix::io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open; a null siginfo means that of kill(2).
    errno(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, info, 0) })
}

/// Asks a lockrun to let go; to any other process it is a plain SIGTERM.
pub fn ask_to_let_go(process: &OwnedFd, ask: LetGo) -> rustix::io::Result<()> {
    /// The part of siginfo_t(3type) for a signal that a process queued.
    #[repr(C)]
    struct Queued {
        signal_error_code: [libc::c_int; 3],
        sender: Sender,
    }
    #[repr(C)]
    struct Sender {
        pid: libc::pid_t,
        uid: libc::uid_t,
        value: libc::sigval,
    }
    #[repr(C)]
    union Info {
        queued: ManuallyDrop<Queued>,
        whole: libc::siginfo_t,
    }
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(ask.value()) };
    // SAFETY: getpid and getuid have no preconditions.
    let sender = unsafe { Sender { pid: libc::getpid(), uid: libc::getuid(), value } };
    // SAFETY: all zero is a valid siginfo_t.
    let mut info = Info { whole: unsafe { std::mem::zeroed() } };
    let signal_error_code = [libc::SIGTERM, 0, libc::SI_QUEUE];
    info.queued = ManuallyDrop::new(Queued { signal_error_code, sender });
    // SAFETY: the descriptor is open; `info` is as large as a siginfo_t.
    errno(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGTERM, &raw const info, 0) })
}

fn errno(result: libc::c_long) -> rustix::io::Result<()> {
    if result == -1 {
        let errno = io::Error::last_os_error();
        return Err(rustix::io::Errno::from_io_error(&errno).unwrap_or(rustix::io::Errno::INVAL));
    }
    Ok(())
}
