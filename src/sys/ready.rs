//! Sleeping on descriptors (poll(2)).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Sleeps until one of these has what it is asked for, at most `limit` (`None`:
/// forever). Returns how many have; 0: the time was over.
///
/// Allocates nothing and leaves errno alone, as [`asleep`](super::asleep) needs.
pub fn wait_until_ready(polled: &mut [PollFd<'_>], limit: Option<Duration>) -> rustix::io::Result<usize> {
    // A limit that does not fit is longer than any machine stays up.
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(polled, left.as_ref()) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Whether `fd` becomes readable, or reaches its end, within `limit`.
pub fn is_readable(fd: impl AsFd, limit: Option<Duration>) -> rustix::io::Result<bool> {
    wait_until_ready(&mut [PollFd::new(&fd, PollFlags::IN)], limit).map(|ready| ready > 0)
}
