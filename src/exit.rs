//! Every way in which lockrun can end, in one place.
//!
//! The doc comment of a variant is the manual's sentence for its code.

use crate::sys;

/// How the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything went well.
    Ok,
    /// A question was answered with no.
    No,
    /// The store of `--store` cannot be reached: nothing was done. `EX_UNAVAILABLE` of
    /// sysexits.h.
    Unreachable,
    /// Busy: `--timeout 0`, and the lock is held in conflict or others wait.
    /// `EX_TEMPFAIL` of sysexits.h, as lockf(1) and lckdo(1) use it.
    Busy,
    /// The queue is full: `--max-waiters`.
    QueueFull,
    /// It would deadlock: this command already runs under the lock.
    Deadlock,
    /// Lost: the lock expired, was broken or replaced before it was given
    /// back, or a token holds nothing any more.
    Lost,
    /// Timed out: waited the whole `--timeout`, as timeout(1) says it.
    TimedOut,
    /// lockrun itself failed: usage, permission, disk, a damaged or foreign
    /// file, an invalid token.
    Failed,
    /// COMMAND was found but cannot be executed, as env(1) says it.
    CannotExecute,
    /// COMMAND was not found, as env(1) says it.
    NotFound,
    /// COMMAND's own code, or the one of `--conflict-exit-code`.
    Code(u8),
    /// By this signal, because COMMAND was ended by it or because it ended
    /// lockrun while it waited.
    Signal(i32),
}

impl Exit {
    /// The code that a parent sees; for a signal the one that a shell shows.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::No => 1,
            Exit::Unreachable => 69,
            Exit::Busy => 75,
            Exit::QueueFull => 121,
            Exit::Deadlock => 122,
            Exit::Lost => 123,
            Exit::TimedOut => 124,
            Exit::Failed => 125,
            Exit::CannotExecute => 126,
            Exit::NotFound => 127,
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128u8.wrapping_add(signal as u8),
        }
    }

    /// Ends by the signal, if it is one, and returns the code otherwise; also
    /// where the signal could not end us (as PID 1).
    pub fn finish(self) -> u8 {
        if let Exit::Signal(signal) = self {
            sys::end_by(signal);
        }
        self.code()
    }
}
