//! Processes that want one lock, and the directory entry.

use super::code::{Act, Position};
use super::ranges::RangeSet;
use crate::lock::Mode;

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Role {
    #[default]
    Nobody,
    /// `lockrun -- COMMAND`
    Exclusive,
    /// `lockrun --shared`
    Shared,
    /// `lockrun --timeout 0`
    Impatient,
    /// flock(1)
    Flock,
    /// `lockrun prune`
    Prune,
}

/// Where a process is. Each step is one system call, and [`Code`] has those of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum At {
    #[default]
    Open,
    OpenQueue,
    EnterDoor,
    LookForWaiters,
    TryLock,
    Compare,
    DrawTicket,
    LeaveDoor,
    WaitForTurn,
    Lock,
    EnterDoorAgain,
    ReadText,
    WriteText,
    CloseQueue,
    Run,
    /// COMMAND of a lockrun that was killed.
    RunAlone,
    Unlock,
    Remove,
    Restart,
    Leave,
    Die,
    Done,
    PruneEnterDoor,
    PruneLook,
    PruneLock,
    PruneCompare,
    PruneRemember,
    PruneRemove,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Hold {
    #[default]
    Nothing,
    Shared,
    Exclusive,
}

/// 0 is none.
pub type Inode = u8;
pub const INODES: usize = 6;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Process {
    pub role: Role,
    pub at: At,
    pub code: Position,
    /// The open file descriptions, by what they have open.
    pub lock: Inode,
    pub queue: Inode,
    pub hold: Hold,
    pub ranges: RangeSet,
    pub ticket: u8,
    /// Its place by order of arrival; 0: it is not in the queue.
    pub arrived: u8,
    pub fence: u8,
    /// Its file was removed while it had the lock.
    pub is_lost: bool,
    pub runs_again: bool,
    /// Its lock was refused because of prune.
    pub met_prune: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub processes: [Process; 3],
    pub path: Inode,
    /// The number in each file; 0: it is new.
    pub texts: [u8; INODES],
    /// Whether a file was renamed.
    pub is_elsewhere: [bool; INODES],
    pub floor: u8,
    pub last_fence: u8,
    pub kills: u8,
    pub removals: u8,
}

impl Process {
    pub fn mode(&self) -> Mode {
        if self.role == Role::Shared { Mode::Shared } else { Mode::Exclusive }
    }

    pub fn mode_of_hold(&self) -> Hold {
        if self.role == Role::Shared { Hold::Shared } else { Hold::Exclusive }
    }

    /// What the queue's code does for it.
    pub fn act(&self) -> Option<Act> {
        Some(match self.at {
            At::EnterDoor | At::EnterDoorAgain => Act::EnterDoor,
            At::LookForWaiters => Act::SomebodyWaits(self.mode()),
            At::DrawTicket => Act::DrawTicket(self.mode()),
            At::LeaveDoor => Act::LeaveDoor,
            At::WaitForTurn => Act::WaitForTurn(self.ticket.into(), self.mode()),
            At::PruneEnterDoor => Act::TryEnterDoor,
            At::PruneLook => Act::AnybodyWaits,
            _ => return None,
        })
    }

    pub fn close_lock(&mut self) {
        (self.lock, self.hold, self.is_lost, self.met_prune) = (0, Hold::Nothing, false, false);
    }

    pub fn leave_queue(&mut self) {
        (self.queue, self.ranges, self.ticket, self.arrived) = (0, RangeSet::default(), 0, 0);
    }

    pub fn excludes(&self, other: &Self) -> bool {
        self.role != Role::Shared || other.role != Role::Shared
    }

    pub fn runs(&self) -> bool {
        matches!(self.at, At::Run | At::RunAlone)
    }
}

impl World {
    /// Opens the file, and makes it if there is none: no other step is possible between
    /// the look and the open that would matter, because either is tried again.
    pub fn open(&mut self) -> Inode {
        if self.path == 0 {
            let is_free = |inode: &u8| self.processes.iter().all(|p| p.lock != *inode && p.queue != *inode);
            self.path = (1..INODES as u8).find(is_free).expect("an inode is free");
            self.texts[usize::from(self.path)] = 0;
            self.is_elsewhere[usize::from(self.path)] = false;
        }
        self.path
    }

    pub fn is_linked(&self, inode: Inode) -> bool {
        self.path == inode || self.is_elsewhere[usize::from(inode)]
    }

    pub fn holders_against(&self, i: usize) -> impl Iterator<Item = &Process> {
        let me = self.processes[i];
        let others = self.processes.iter().enumerate().filter(move |(j, _)| *j != i).map(|(_, other)| other);
        others.filter(move |other| other.lock == me.lock && other.hold != Hold::Nothing && other.excludes(&me))
    }

    pub fn is_locked_against(&self, i: usize) -> bool {
        self.holders_against(i).next().is_some()
    }

    /// Whether somebody who came before this process waits still, as flock(1) never does.
    pub fn overtakes(&self, i: usize) -> bool {
        let me = self.processes[i];
        let is_before = |other: &Process| {
            other.arrived > 0
                && other.hold == Hold::Nothing
                && (me.arrived == 0 || other.arrived < me.arrived)
                && other.excludes(&me)
                && [other.lock, other.queue] == [me.lock, me.queue]
        };
        me.role != Role::Flock && self.processes.iter().any(is_before)
    }

    /// The same, however its equals are numbered.
    pub fn tidied(mut self) -> Self {
        let mut names = [0; INODES];
        let mut used = 0;
        let files = self.processes.iter().flat_map(|process| [process.lock, process.queue]);
        for inode in [self.path].into_iter().chain(files).filter(|inode| *inode != 0) {
            if names[usize::from(inode)] == 0 {
                used += 1;
                names[usize::from(inode)] = used;
            }
        }
        let (mut texts, mut is_elsewhere) = ([0; INODES], [false; INODES]);
        for (inode, name) in names.iter().enumerate().filter(|(_, name)| **name != 0) {
            texts[usize::from(*name)] = self.texts[inode];
            is_elsewhere[usize::from(*name)] = self.is_elsewhere[inode];
        }
        (self.texts, self.is_elsewhere) = (texts, is_elsewhere);
        self.path = names[usize::from(self.path)];
        let arrivals = self.processes.map(|process| process.arrived);
        for process in &mut self.processes {
            process.lock = names[usize::from(process.lock)];
            process.queue = names[usize::from(process.queue)];
            if process.arrived > 0 {
                let before = arrivals.iter().filter(|other| (1..process.arrived).contains(other)).count();
                process.arrived = before as u8 + 1;
            }
        }
        self.processes.sort_unstable();
        self
    }
}
