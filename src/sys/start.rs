//! What std's start-up would do for us if `main` were not our own.

use std::os::fd::OwnedFd;

use rustix::io::fcntl_dupfd_cloexec;

/// The same description under a number above 2.
///
/// A caller may start us with stdin, stdout or stderr closed. The next open
/// would then land there, and a message meant for stderr would be written
/// into a lock file.
///
/// # Errors
/// `EMFILE` when the process has no descriptor left.
pub fn above_stdio(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(fd, 3) }
}
