//! Waiting for a descriptor of our own without holding up the rest of the process.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is waited for.
pub struct Awaited(AsyncFd<OwnedFd>);

impl Awaited {
    /// Inside of a tokio runtime.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open as long as it lives, and nobody takes it out.
        unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map(Self).map_err(io::Error::from)
    }

    /// Returns once it is readable, or at its end.
    pub async fn ready(&self) {
        // An error is one of the runtime, which ends.
        drop(self.0.readable().await);
    }
}
