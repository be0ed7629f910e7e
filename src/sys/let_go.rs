//! What one lockrun asks of another.

/// What one lockrun asks of another by the value of a SIGTERM (sigqueue(3)).
///
/// If the receiver has become COMMAND meanwhile, that gets an ordinary SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// For a lockrun with --replace.
    Replace,
    /// For `lockrun break`; asked a second time, it means KILL now.
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

    /// The request that a signal carries, if any.
    pub(super) fn of_signal(number: i32, code: i32, value: usize) -> Option<Self> {
        let is_queued_term = number == libc::SIGTERM && code == libc::SI_QUEUE;
        if is_queued_term { Self::of_value(value) } else { None }
    }

    pub(super) fn of_value(value: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|ask| ask.value() == value)
    }
}
