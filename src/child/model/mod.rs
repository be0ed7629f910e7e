//! A wait for a lock: the child that waits, the parent that watches it, and another process
//! that holds the lock and wants it again. In every order of their steps, with signals, a
//! time limit and kills at every step.
//!
//! | step | where it is in the program |
//! |---|---|
//! | `Child::Begin`, `Try` to `Asleep` | `sys::cohabit`: `take_the_baton` |
//! | `Child::Pass`, `Wait` | `asleep`, around flock(2) |
//! | `Child::Grant` | `waiting_child::live`, after `keep_the_baton` |
//! | `Child::Record` to `Start` | `become_command`, `WaitingChild::let_go_of_parent` |
//! | `Child::Exec` | `Exec::exec`: the kernel passes the baton |
//! | `Parent::Look` to `Arrived` | `Waiter::watch_until_over`, `next_signal` |
//! | `Parent::Take`, `NoBaton…` | `Cohabitant::take_the_baton`, `Waiter::wait_for_baton` |
//! | `Parent::GiveUp…` | `Waiter::give_up`, `cancel_grant` |
//! | `Parent::Changed…` | `Waiter::child_changed` |
//! | `Parent::End`, `NoBatonEnd` | `Waiter::end_child`, `Cohabitant::end` |
//! | `Parent::Supervise` | `supervise`, then `Held::release` |
//!
//! The child of a fork has no baton. Its naps of 10 ms at the futex are left out, so a
//! wake-up that is lost is found.

mod state;
mod steps;

use crate::exhaustive::{STUCK, search};
use steps::{Mutant, Wait};

const BESIDE: Wait = Wait { lives_with_parent: true, signals: 2, kills: 2, mutant: None };
const FORKED: Wait = Wait { lives_with_parent: false, ..BESIDE };

#[test]
fn nothing_goes_wrong_in_any_order_of_the_steps() {
    for mut wait in [BESIDE, FORKED] {
        let found = search(&mut wait, usize::MAX);
        println!("{} states, {} steps: {wait:?}", found.states, found.steps);
        assert!(found.wrong.is_empty(), "{wait:?}: {:#?}", found.wrong);
        assert!(found.states > 1000);
    }
}

#[test]
fn each_step_left_out_is_found() {
    for (mutant, wait, why) in [
        (Mutant::CancelsWithoutLooking, FORKED, "the wait is over, and COMMAND ran"),
        (Mutant::StartsWithoutLooking, FORKED, "the wait is over, and COMMAND ran"),
        (Mutant::BelievesThatAKilledChildDidNotStart, BESIDE, "the wait is over, and COMMAND ran"),
        (Mutant::OutlivesFromTheBeginning, BESIDE, "killed while it waited, and COMMAND ran"),
        (Mutant::UnlocksBeforeTheWord, FORKED, "COMMAND runs without the lock"),
        (Mutant::LeavesTheChild, FORKED, "the wait is over, and its child has the lock"),
        (Mutant::WakesNobody, BESIDE, STUCK),
        (Mutant::TakesABatonThatIsTaken, BESIDE, "both run in one memory"),
        (Mutant::RunsOnWithoutTheBaton, BESIDE, "both run in one memory"),
    ] {
        let found = search(&mut Wait { mutant: Some(mutant), ..wait }, usize::MAX);
        println!("{mutant:?}: {:?}", found.wrong.keys());
        assert!(found.wrong.contains_key(why), "{mutant:?}: {:?}", found.wrong.keys());
    }
}
