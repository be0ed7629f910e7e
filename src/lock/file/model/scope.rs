//! What to search.

use super::world::Role;

/// A step that was left out or is done in the wrong order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    ComparesNothing,
    ComparesBeforeTheLock,
    ComparesTheQueueAlone,
    CountsLinks,
    HasNoDoor,
    LeavesTheQueueBeforeTheLock,
    ReadersNumberOutside,
    RemovesItsFile,
    PruneLocksNothing,
    PruneLooksForNoTickets,
    PruneComparesNothing,
    PruneRemembersNothing,
}

/// What to search.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub roles: [Role; 3],
    /// The first process runs once more when it has released the lock.
    pub again: bool,
    pub kills: u8,
    pub removals: u8,
    /// The file may also be renamed or replaced.
    pub renames: bool,
    /// Number the grants, by a clock that stands still.
    pub fences: bool,
    pub mutant: Option<Mutant>,
}

impl Scope {
    pub fn of(roles: [Role; 3]) -> Self {
        Self { roles, again: false, kills: 0, removals: 0, renames: false, fences: false, mutant: None }
    }
}
