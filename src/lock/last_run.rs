//! How the last run under a free lock ended.

use std::time::Duration;

/// The last run under a lock, or the last token of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// How it ended.
    pub how: HowEnded,
    /// The program that ran, not yet made safe to print.
    pub command: String,
    /// Its user.
    pub user: String,
    /// When the lock was granted, RFC 3339.
    pub since: String,
    /// When it ended, RFC 3339, if that is known.
    pub ended: Option<String>,
    /// Time from the grant to the end.
    pub took: Option<Duration>,
    /// The fencing token.
    pub fence: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowEnded {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(i32),
    /// The lock was lost before: expired, broken or replaced.
    Lost,
    /// The token was released.
    Released,
    /// Nobody wrote it down: its lockrun was killed, or had become the command.
    Unknown,
}

impl HowEnded {
    /// One word for it, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Code(0) => "succeeded",
            Self::Code(_) => "failed",
            Self::Signal(_) => "killed",
            Self::Lost => "lost",
            Self::Released => "released",
            Self::Unknown => "unknown",
        }
    }
}
