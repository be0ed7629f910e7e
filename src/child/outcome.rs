//! What a waiting child tells its parent, in shared memory.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use anyhow::anyhow;

use crate::lock::Refusal;
use crate::message;
use crate::sys::{self, Shared};

/// States of the word. A new mapping is zero.
pub const WAITING: u32 = 0;
pub const CANCELLED: u32 = 1;
pub const GRANTED: u32 = 2;
pub const AGAIN: u32 = 3;
pub const FAILED: u32 = 4;
/// Follows [`GRANTED`], which the parent can still cancel: COMMAND is executed.
pub const STARTING: u32 = 5;
/// This and the states above: refused, see [`Refusal`].
pub const REFUSED: u32 = 6;
pub const REFUSALS: [Refusal; 4] = [
    Refusal::Busy,
    Refusal::QueueFull,
    Refusal::Deadlock { reentrant_helps: false },
    Refusal::Deadlock { reentrant_helps: true },
];

/// States of the line on the terminal.
pub const NOTHING_SHOWN: u32 = 0;
pub const SHOWN: u32 = 1;
pub const CLEARED: u32 = 2;

/// What the child tells the parent. Fits into one page.
pub struct SharedOutcome {
    pub state: AtomicU32,
    /// `errno` of a failed exec.
    pub exec_errno: AtomicI32,
    /// When the lock was granted, nanoseconds since boot.
    pub granted_at: AtomicU64,
    /// Fencing token of the first lock.
    pub fence: AtomicU64,
    /// Whether the parent shows a line that has to vanish before COMMAND writes, see
    /// [`NOTHING_SHOWN`].
    pub line: AtomicU32,
    text_length: AtomicU32,
    text: [AtomicU8; 2048],
}

impl Default for SharedOutcome {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(WAITING),
            exec_errno: AtomicI32::new(0),
            granted_at: AtomicU64::new(0),
            fence: AtomicU64::new(0),
            line: AtomicU32::new(NOTHING_SHOWN),
            text_length: AtomicU32::new(0),
            text: [const { AtomicU8::new(0) }; 2048],
        }
    }
}

impl SharedOutcome {
    pub fn end(&self, state: u32) -> ! {
        self.change(WAITING, state);
        sys::exit_now(0)
    }

    /// Ends the child, and leaves the error as text.
    pub fn fail(&self, error: &anyhow::Error) -> ! {
        let text = message::describe(error);
        let text = &text.as_bytes()[..text.len().min(self.text.len())];
        for (slot, byte) in self.text.iter().zip(text) {
            slot.store(*byte, Ordering::Relaxed);
        }
        self.text_length.store(text.len() as u32, Ordering::Relaxed);
        self.state.store(FAILED, Ordering::SeqCst);
        sys::exit_now(125)
    }

    pub fn failure(&self) -> anyhow::Error {
        let length = self.text_length.load(Ordering::Relaxed) as usize;
        let text: Vec<u8> = self.text.iter().take(length).map(|byte| byte.load(Ordering::Relaxed)).collect();
        anyhow!("{}", String::from_utf8_lossy(&text))
    }

    /// Changes the state; `false` if it was no longer `from`.
    pub fn change(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

pub enum OutcomeMemory {
    /// Shared with a forked child.
    Mapped(Shared<SharedOutcome>),
    /// Ordinary memory, which the child shares anyway.
    Ours(Arc<SharedOutcome>),
}

impl Deref for OutcomeMemory {
    type Target = SharedOutcome;

    fn deref(&self) -> &SharedOutcome {
        match self {
            OutcomeMemory::Mapped(outcome) => outcome,
            OutcomeMemory::Ours(outcome) => outcome,
        }
    }
}
