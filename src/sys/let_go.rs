//! What one lockrun asks of another.

/// What one lockrun asks of another by SIGTERM.
///
/// It travels as the value of the signal (sigqueue(3)). A waiter may execute
/// COMMAND, or be about to, between our look at it and the signal: then what
/// COMMAND gets is a SIGTERM like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// For a lockrun with --replace.
    Replace,
    /// For 'lockrun break'; asked a second time, it means KILL now.
    Break,
}

impl LetGo {
    const ALL: [Self; 2] = [Self::Replace, Self::Break];

    pub(super) fn value(self) -> usize {
        let word = match self {
            Self::Replace => *b"lrRP",
            Self::Break => *b"lrBK",
        };
        u32::from_be_bytes(word) as usize
    }

    /// What a signal asks, if that.
    pub(super) fn of_signal(number: i32, code: i32, value: usize) -> Option<Self> {
        let is_queued_term = number == libc::SIGTERM && code == libc::SI_QUEUE;
        if is_queued_term { Self::of_value(value) } else { None }
    }

    pub(super) fn of_value(value: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|ask| ask.value() == value)
    }
}
