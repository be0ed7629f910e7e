//! Open-file-description locks on byte ranges (`F_OFD_SETLK`, fcntl(2)).
//!
//! Like flock(2) locks they belong to the open file description and vanish with it, so
//! no crash leaves one behind. Unlike those, they can be queried without being taken.
//! The two kinds conflict only on network file systems.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cohabit::asleep;

/// Whether a lock also excludes readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Compatible with other `Read` locks on the same bytes.
    Read,
    /// Compatible with nothing. Needs a descriptor open for writing.
    Write,
}

/// A conflicting lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// First byte.
    pub start: i64,
    /// Number of bytes.
    pub len: i64,
}

impl Found {
    /// The first byte after it.
    pub fn end(&self) -> i64 {
        self.start + self.len
    }
}

/// Byte-range locks of one open file description.
#[derive(Clone, Copy)]
pub struct ByteLock<'fd> {
    fd: BorrowedFd<'fd>,
}

impl<'fd> ByteLock<'fd> {
    /// The locks that belong to the description behind `fd`.
    pub fn on(fd: BorrowedFd<'fd>) -> Self {
        Self { fd }
    }

    /// Locks `len` bytes from `start`; `false` if another description has a conflicting
    /// lock. `EBADF`: not open for writing.
    pub fn try_lock(self, kind: Kind, start: i64, len: i64) -> io::Result<bool> {
        match self.call(libc::F_OFD_SETLK, kind.raw(), start, len) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Locks `len` bytes from `start`, asleep in the kernel until it can. `EINTR` if a
    /// signal handler ran.
    pub fn lock(self, kind: Kind, start: i64, len: i64) -> io::Result<()> {
        asleep(|| self.call(libc::F_OFD_SETLKW, kind.raw(), start, len)).map(drop)
    }

    /// Unlocks `len` bytes from `start`, whether locked or not. `ENOLCK` if a range has
    /// to be split and there is no memory.
    pub fn unlock(self, start: i64, len: i64) -> io::Result<()> {
        self.call(libc::F_OFD_SETLK, libc::F_UNLCK, start, len).map(drop)
    }

    /// A lock of another description that conflicts with this kind.
    pub fn conflict(self, kind: Kind, start: i64, len: i64) -> io::Result<Option<Found>> {
        let found = self.call(libc::F_OFD_GETLK, kind.raw(), start, len)?;
        // Other programs' locks may have no end.
        let len = if found.l_len == 0 { i64::MAX - found.l_start } else { found.l_len };
        Ok((i32::from(found.l_type) != libc::F_UNLCK).then_some(Found { start: found.l_start, len }))
    }

    fn call(self, command: libc::c_int, kind: libc::c_int, start: i64, len: i64) -> io::Result<libc::flock> {
        // To fcntl(2) zero means everything from `start`, and a negative length the
        // bytes before it. Here both mean nothing.
        if len <= 0 {
            let nothing = libc::F_UNLCK as _;
            return Ok(libc::flock { l_type: nothing, l_whence: 0, l_start: start, l_len: 0, l_pid: 0 });
        }
        // 0, 1 and 2 on Linux, whatever the type of l_type.
        let mut range =
            libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: start, l_len: len, l_pid: 0 };
        #[cfg(test)]
        if let Some(answer) = super::byte_lock_model::answer(command, &range) {
            return answer;
        }
        // SAFETY: the descriptor is open, because it is borrowed; `range` outlives the
        // call and has the type that these commands read and write.
        let result = unsafe { libc::fcntl(self.fd.as_raw_fd(), command, &raw mut range) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(range) }
    }
}

impl Kind {
    fn raw(self) -> libc::c_int {
        match self {
            Kind::Read => libc::F_RDLCK,
            Kind::Write => libc::F_WRLCK,
        }
    }
}
