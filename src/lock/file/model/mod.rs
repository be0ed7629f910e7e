//! The queue of a lock file, in every order in which three processes can take their steps,
//! with kills, removed files and interrupted sleeps at every step.
//!
//! The queue's code is the program's own: [`code`] runs `Queue` one system call at a time,
//! and [`ranges`] answers as fcntl(2) does. The rest is written down once more in
//! [`steps`], a step for each system call:
//!
//! | step | where it is in the program |
//! |---|---|
//! | `Open`, `OpenQueue` | `Files::open` |
//! | `EnterDoor` to `TryLock` | `Taking::enter_door`, `Taking::take` |
//! | `Compare` | `Files::are_current` |
//! | `DrawTicket`, `LeaveDoor` | `Request::queue` |
//! | `WaitForTurn`, `Lock` | `Taking::wait` |
//! | `EnterDoorAgain` | `FileQueued::enter_doors` |
//! | `ReadText`, `WriteText` | `Ledger::settle` |
//! | `CloseQueue` | `FileHeld::settle`, or execve of COMMAND |
//! | `Unlock` | `Taking::release` |
//! | `Restart` | `NotGranted::Again`, or the next try of `FileEngine::ask` |
//! | `Prune…` | `Unused::find`, `Pruning::remember`, `Unused::remove` |
//!
//! A process that stops taking steps is one that was stopped. It may be killed at any
//! step; its descriptors are then closed in either order, and COMMAND keeps the lock if it
//! runs. A description that is asked for a conflict answers with any.
//!
//! Not in the model: slots, sets, `--file` (whose queue is a file of its own), tokens. A
//! waiting child and its parent have a model of their own, `child::model`.

mod code;
mod ranges;
mod scope;
mod steps;
mod world;

use scope::{Mutant, Scope};
use steps::Queue;
use world::Role;

use Role::{Exclusive, Flock, Impatient, Prune, Shared};

use crate::exhaustive::search;

/// With `LOCKRUN_TEST_FULL=1` 2.3 million states instead of 0.2 million.
#[test]
fn nothing_goes_wrong_in_any_order_of_the_steps() {
    let three = Scope::of([Exclusive; 3]);
    let usual = [
        Scope { kills: 1, removals: 1, ..three },
        Scope { kills: 1, again: true, ..three },
        Scope { removals: 1, renames: true, ..three },
        Scope { kills: 1, fences: true, ..Scope::of([Exclusive, Shared, Shared]) },
        Scope { kills: 1, fences: true, again: true, ..Scope::of([Exclusive, Shared, Prune]) },
        Scope { fences: true, again: true, ..Scope::of([Exclusive, Impatient, Prune]) },
        Scope { kills: 1, again: true, ..Scope::of([Exclusive, Impatient, Flock]) },
    ];
    let full = [
        Scope { kills: 1, removals: 1, again: true, ..three },
        Scope { kills: 1, removals: 1, renames: true, ..three },
        Scope { removals: 2, ..three },
        Scope { kills: 2, again: true, ..three },
        Scope { kills: 1, removals: 1, renames: true, again: true, ..Scope::of([Exclusive, Shared, Shared]) },
        Scope { kills: 2, fences: true, again: true, ..Scope::of([Shared, Exclusive, Prune]) },
        Scope { kills: 2, again: true, ..Scope::of([Exclusive, Shared, Flock]) },
    ];
    let is_full = std::env::var_os("LOCKRUN_TEST_FULL").is_some();
    let mut states = 0;
    for scope in usual.iter().chain(if is_full { &full[..] } else { &[] }) {
        let found = search(&mut Queue::new(*scope), usize::MAX);
        println!("{} states, {} steps: {scope:?}", found.states, found.steps);
        assert!(found.wrong.is_empty(), "{scope:?}: {:#?}", found.wrong);
        states += found.states;
    }
    println!("{states} states");
    assert!(states > if is_full { 2_000_000 } else { 150_000 }, "{states} states");
}

/// What the search finds first.
fn fault(scope: Scope) -> Option<&'static str> {
    search(&mut Queue::new(scope), 1).wrong.keys().next().copied()
}

#[test]
fn each_step_left_out_is_found() {
    let removed = Scope { removals: 1, ..Scope::of([Exclusive; 3]) };
    let renamed = Scope { renames: true, ..removed };
    let readers = Scope { fences: true, ..Scope::of([Exclusive, Shared, Shared]) };
    let pruned = Scope { fences: true, again: true, ..Scope::of([Exclusive, Exclusive, Prune]) };
    let pruned_twice = Scope { again: true, ..Scope::of([Exclusive, Prune, Prune]) };
    let expected = [
        (Mutant::ComparesNothing, removed, "two holders"),
        (Mutant::ComparesBeforeTheLock, removed, "two holders"),
        (Mutant::ComparesTheQueueAlone, removed, "two holders"),
        (Mutant::CountsLinks, renamed, "two holders"),
        (Mutant::HasNoDoor, removed, "overtakes a waiter"),
        (Mutant::LeavesTheQueueBeforeTheLock, removed, "overtakes a waiter"),
        (Mutant::ReadersNumberOutside, readers, "a fence does not rise"),
        (Mutant::RemovesItsFile, removed, "two holders"),
        (Mutant::PruneLocksNothing, pruned, "a used file is pruned"),
        (Mutant::PruneLooksForNoTickets, pruned, "a used file is pruned"),
        (Mutant::PruneComparesNothing, pruned_twice, "a used file is pruned"),
        (Mutant::PruneRemembersNothing, pruned, "a fence does not rise"),
    ];
    for (mutant, scope, why) in expected {
        assert_eq!(fault(scope), None, "{scope:?}");
        assert_eq!(fault(Scope { mutant: Some(mutant), ..scope }), Some(why), "{mutant:?}");
    }
}

/// What is not promised, and cannot be.
#[test]
fn rm_between_prunes_last_look_and_its_removal_lets_it_remove_the_next_file() {
    let scope = Scope { removals: 1, ..Scope::of([Exclusive, Exclusive, Prune]) };
    assert_eq!(fault(scope), Some("a used file is pruned"));
}

/// It does not compare the file with the path after it has locked it.
#[test]
fn flock_that_opened_a_file_before_prune_removed_it_locks_nothing() {
    let scope = Scope { again: true, ..Scope::of([Exclusive, Flock, Prune]) };
    assert_eq!(fault(scope), Some("two holders"));
}
