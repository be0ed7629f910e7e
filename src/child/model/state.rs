//! Where the processes of a wait are.

/// The word that both see, see `outcome`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Word {
    Waiting,
    Cancelled,
    Granted,
    Starting,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Baton {
    Free,
    Taken,
    Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Child {
    /// Takes the baton, to go on in the next of these.
    Try(Then),
    Swap(Then),
    Futex(Then),
    Asleep(Then),
    Pass,
    Wait,
    Grant,
    Record,
    Outlive,
    Start,
    Exec,
    Command,
    Exit,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Then {
    Begin,
    Granted,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Parent {
    Look,
    Pass,
    Sleep,
    Take,
    NoBaton,
    NoBatonCancel,
    NoBatonEnd,
    Arrived,
    GiveUp {
        is_end: bool,
    },
    CancelGrant,
    GiveUpAtLast,
    Changed,
    ChangedAtLast,
    End,
    GaveUp,
    Supervise,
    /// It has told that the wait is over, and COMMAND was not started.
    DoneWaiting,
    Done,
    Killed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    NotStarted,
    Runs,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Other {
    Holds,
    Wants,
    HoldsAgain,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Holder {
    Nobody,
    /// Our description, of which parent and child have a copy.
    Us,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub word: Word,
    pub baton: Baton,
    pub child: Child,
    pub is_woken: bool,
    pub dies_with_parent: bool,
    pub parent: Parent,
    pub command: Command,
    pub other: Other,
    pub lock: Holder,
    pub parent_has_lock_open: bool,
    /// A deadly signal is pending.
    pub signal: bool,
    pub is_over: bool,
    pub signals: u8,
    pub kills: u8,
    pub was_killed_waiting: bool,
}

impl State {
    /// The lock ends with the last copy of its description.
    pub fn close(&mut self) {
        if self.lock == Holder::Us && !self.parent_has_lock_open && self.child == Child::Ended {
            self.lock = Holder::Nobody;
        }
    }

    /// Whether the parent may use what the two share.
    pub fn is_parent_awake(&self) -> bool {
        use Parent::{Done, DoneWaiting, Killed, NoBaton, NoBatonCancel, NoBatonEnd, Sleep, Take};
        !matches!(self.parent, Sleep | Take | NoBaton | NoBatonCancel | NoBatonEnd | DoneWaiting | Done | Killed)
    }

    pub fn is_child_awake(&self) -> bool {
        use Child::{Exec, Exit, Grant, Outlive, Pass, Record, Start};
        matches!(self.child, Pass | Grant | Record | Outlive | Start | Exec | Exit)
    }
}
