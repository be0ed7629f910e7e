//! Why COMMAND was ended early.

use std::time::Duration;

use crate::lock::Lost;

/// Why COMMAND was ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `--expires` was over at this time since boot.
    Expired(Duration),
    /// This process asked for the lock with `--replace`.
    Replaced(i32),
    /// This process is a `lockrun break`.
    Broken(i32),
    /// The lock is lost, or soon will be.
    Lost(Lost),
}
