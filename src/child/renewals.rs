//! Requests to change when COMMAND expires, as the supervisor sees them.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::cause::Cause;
use crate::lock::Held;

/// Where such requests come in.
pub trait Renewals {
    /// What wakes the supervisor, when it is readable.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Handles the requests that have come, without waiting. `readable`: which of the
    /// [`descriptors`](Self::descriptors) are.
    fn serve(&mut self, readable: &[bool], term: Term<'_>, held: &mut dyn Held);
}

/// How long COMMAND may run.
pub struct Term<'a> {
    /// When it expires, since boot; `None`: never.
    pub expires: &'a mut Option<Duration>,
    /// Why it is being ended already: then nothing can be renewed.
    pub cause: Option<&'a Cause>,
}
