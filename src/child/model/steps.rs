//! The steps of each process, and what can happen to it.

use super::state::{Baton, Child, Command, Holder, Other, Parent, State, Then, Word};
use crate::exhaustive::{Model, Step};

/// A step that was left out, or is done in the wrong order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    CancelsWithoutLooking,
    StartsWithoutLooking,
    BelievesThatAKilledChildDidNotStart,
    OutlivesFromTheBeginning,
    UnlocksBeforeTheWord,
    LeavesTheChild,
    WakesNobody,
    TakesABatonThatIsTaken,
    RunsOnWithoutTheBaton,
}

#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub lives_with_parent: bool,
    pub signals: u8,
    pub kills: u8,
    pub mutant: Option<Mutant>,
}

impl Wait {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn child_step(&self, state: &State, steps: &mut Vec<Step<State>>) {
        let mut next = *state;
        let go_on = |then| match then {
            Then::Begin => Child::Pass,
            Then::Granted => Child::Grant,
        };
        let label = match state.child {
            Child::Try(then) => {
                let is_free = state.baton == Baton::Free;
                next.child = if is_free { go_on(then) } else { Child::Swap(then) };
                next.baton = if is_free { Baton::Taken } else { state.baton };
                "child: takes the baton if it is free"
            }
            Child::Swap(then) => {
                next.child = if state.baton == Baton::Free { go_on(then) } else { Child::Futex(then) };
                next.baton = Baton::Wanted;
                "child: wants the baton"
            }
            Child::Futex(then) => {
                let is_wanted = state.baton == Baton::Wanted;
                next.child = if is_wanted { Child::Asleep(then) } else { Child::Swap(then) };
                next.is_woken = false;
                "child: futex"
            }
            Child::Asleep(_) if !state.is_woken => return,
            Child::Asleep(then) => {
                next.child = Child::Swap(then);
                "child: wakes"
            }
            Child::Pass => {
                next.baton = Baton::Free;
                next.child = Child::Wait;
                "child: passes the baton"
            }
            Child::Wait if state.lock != Holder::Nobody => return,
            Child::Wait => {
                next.lock = Holder::Us;
                next.child = match self.lives_with_parent && !self.is(Mutant::RunsOnWithoutTheBaton) {
                    true => Child::Try(Then::Granted),
                    false => Child::Grant,
                };
                "child: locks"
            }
            Child::Grant => {
                let is_waiting = state.word == Word::Waiting;
                next.word = if is_waiting { Word::Granted } else { state.word };
                next.child = if is_waiting { Child::Record } else { Child::Exit };
                "child: waiting -> granted"
            }
            Child::Record => {
                next.child = Child::Outlive;
                "child: records"
            }
            Child::Outlive => {
                next.dies_with_parent = false;
                next.child = Child::Start;
                "child: outlives its parent"
            }
            Child::Start => {
                let may_start = state.word == Word::Granted || self.is(Mutant::StartsWithoutLooking);
                next.word = if may_start { Word::Starting } else { state.word };
                next.child = if may_start { Child::Exec } else { Child::Exit };
                "child: granted -> starting"
            }
            Child::Exec => {
                let mut failed = *state;
                failed.child = Child::Exit;
                steps.push(Step { label: "child: exec fails", is_mishap: true, to: Ok(failed) });
                next.child = Child::Command;
                next.command = Command::Runs;
                next.baton = Baton::Free;
                "child: becomes COMMAND"
            }
            Child::Command | Child::Exit => {
                self.child_ends(&mut next);
                "child: ends"
            }
            Child::Ended => return,
        };
        steps.push(Step { label, is_mishap: false, to: Ok(next) });
    }

    /// Its descriptors are closed, and the kernel passes the baton.
    fn child_ends(&self, state: &mut State) {
        if state.command == Command::Runs {
            state.command = Command::Ended;
        }
        state.child = Child::Ended;
        state.baton = Baton::Free;
        state.close();
    }

    fn parent_step(&self, state: &State, steps: &mut Vec<Step<State>>) {
        let mut next = *state;
        let has_ended = state.child == Child::Ended;
        let changes = |from, to: Word, next: &mut State| {
            let changes = state.word == from;
            next.word = if changes { to } else { state.word };
            changes
        };
        let label = match state.parent {
            Parent::Look => {
                let sleep = if self.lives_with_parent { Parent::Pass } else { Parent::Sleep };
                next.parent = if state.word == Word::Starting { Parent::Supervise } else { sleep };
                "parent: looks"
            }
            Parent::Pass => {
                next.is_woken |= state.baton == Baton::Wanted && !self.is(Mutant::WakesNobody);
                next.baton = Baton::Free;
                next.parent = Parent::Sleep;
                "parent: passes the baton"
            }
            Parent::Sleep => {
                let awake = if self.lives_with_parent { Parent::Take } else { Parent::Arrived };
                next.parent = awake;
                // At any time, to show how long it has waited.
                let is_mishap = !(state.signal || state.is_over || has_ended);
                steps.push(Step { label: "parent: wakes", is_mishap, to: Ok(next) });
                return;
            }
            Parent::Take => {
                let is_ours = state.baton == Baton::Free || has_ended || self.is(Mutant::TakesABatonThatIsTaken);
                next.baton = if state.baton == Baton::Free { Baton::Taken } else { Baton::Wanted };
                next.parent = if is_ours { Parent::Arrived } else { Parent::NoBaton };
                "parent: takes the baton"
            }
            Parent::NoBaton => {
                if state.baton == Baton::Free || has_ended {
                    next.baton = Baton::Wanted;
                    next.parent = Parent::Arrived;
                    steps.push(Step { label: "parent: has the baton", is_mishap: false, to: Ok(next) });
                }
                if state.signal || state.is_over && state.word == Word::Waiting {
                    next = *state;
                    next.parent = Parent::NoBatonCancel;
                    steps.push(Step { label: "parent: waits no longer", is_mishap: false, to: Ok(next) });
                }
                return;
            }
            Parent::NoBatonCancel => {
                let is_cancelled = changes(Word::Waiting, Word::Cancelled, &mut next);
                next.parent = if is_cancelled || state.signal { Parent::NoBatonEnd } else { Parent::NoBaton };
                "parent: waiting -> cancelled"
            }
            Parent::NoBatonEnd => {
                self.child_ends(&mut next);
                let is_believed = self.is(Mutant::BelievesThatAKilledChildDidNotStart);
                let has_started = state.command != Command::NotStarted && !is_believed;
                next.parent = if has_started { Parent::Arrived } else { Parent::GaveUp };
                "parent: kills the child"
            }
            Parent::Arrived => {
                next.parent = match (state.signal, state.is_over) {
                    (true, _) => Parent::GiveUp { is_end: true },
                    (false, true) => Parent::GiveUp { is_end: false },
                    (false, false) if has_ended => Parent::Changed,
                    (false, false) => Parent::Look,
                };
                (next.signal, next.is_over) = (false, state.signal && state.is_over);
                "parent: reads what came"
            }
            Parent::GiveUp { is_end } => {
                if self.is(Mutant::UnlocksBeforeTheWord) && state.lock == Holder::Us {
                    next.lock = Holder::Nobody;
                }
                let is_cancelled = changes(Word::Waiting, Word::Cancelled, &mut next);
                next.parent = match (is_cancelled || self.is(Mutant::CancelsWithoutLooking), is_end) {
                    (true, _) => Parent::End,
                    (false, true) => Parent::CancelGrant,
                    (false, false) => Parent::GiveUpAtLast,
                };
                "parent: waiting -> cancelled"
            }
            Parent::CancelGrant => {
                let is_cancelled = changes(Word::Granted, Word::Cancelled, &mut next);
                next.parent = if is_cancelled { Parent::End } else { Parent::GiveUpAtLast };
                "parent: granted -> cancelled"
            }
            Parent::GiveUpAtLast => {
                let is_settling = state.word == Word::Granted && !has_ended;
                next.parent = if is_settling { Parent::Look } else { Parent::Changed };
                "parent: looks whether the child records"
            }
            Parent::Changed => {
                next.parent = match state.word {
                    Word::Starting => Parent::Supervise,
                    Word::Granted if has_ended => Parent::Supervise,
                    Word::Waiting if has_ended => Parent::ChangedAtLast,
                    _ => Parent::Look,
                };
                "parent: looks what the child did"
            }
            Parent::ChangedAtLast => {
                let is_cancelled = changes(Word::Waiting, Word::Cancelled, &mut next);
                next.parent = if is_cancelled { Parent::GaveUp } else { Parent::Changed };
                "parent: waiting -> cancelled"
            }
            Parent::End => {
                if !self.is(Mutant::LeavesTheChild) {
                    self.child_ends(&mut next);
                }
                next.parent = Parent::GaveUp;
                "parent: kills the child"
            }
            Parent::GaveUp => {
                next.parent_has_lock_open = false;
                next.close();
                next.parent = Parent::DoneWaiting;
                "parent: says that the wait is over"
            }
            Parent::Supervise if !has_ended => return,
            Parent::Supervise => {
                if state.lock == Holder::Us {
                    next.lock = Holder::Nobody;
                }
                next.parent_has_lock_open = false;
                next.parent = Parent::Done;
                "parent: unlocks"
            }
            Parent::DoneWaiting | Parent::Done | Parent::Killed => return,
        };
        steps.push(Step { label, is_mishap: false, to: Ok(next) });
    }

    fn other_step(&self, state: &State, steps: &mut Vec<Step<State>>) {
        let mut next = *state;
        let label = match state.other {
            Other::Holds | Other::HoldsAgain => {
                next.lock = Holder::Nobody;
                next.other = if state.other == Other::Holds { Other::Wants } else { Other::Done };
                "other: unlocks"
            }
            Other::Wants if state.lock == Holder::Nobody => {
                next.lock = Holder::Other;
                next.other = Other::HoldsAgain;
                "other: locks"
            }
            Other::Wants | Other::Done => return,
        };
        steps.push(Step { label, is_mishap: false, to: Ok(next) });
    }

    fn mishaps(&self, state: &State, steps: &mut Vec<Step<State>>) {
        let mut happens = |label, to| steps.push(Step { label, is_mishap: true, to: Ok(to) });
        let is_alive = !matches!(state.parent, Parent::DoneWaiting | Parent::Done | Parent::Killed);
        if state.signals > 0 && is_alive {
            let mut next = *state;
            next.signals -= 1;
            happens("a signal comes", State { signal: true, ..next });
            happens("the time is over", State { is_over: true, ..next });
        }
        if state.kills > 0 && is_alive {
            let mut next = *state;
            next.kills -= 1;
            next.parent = Parent::Killed;
            next.was_killed_waiting = state.word == Word::Waiting;
            next.parent_has_lock_open = false;
            next.close();
            if state.dies_with_parent {
                self.child_ends(&mut next);
            }
            happens("the parent is killed", next);
        }
        if state.kills > 0 && state.child != Child::Ended {
            let mut next = *state;
            next.kills -= 1;
            self.child_ends(&mut next);
            happens("the child is killed", next);
        }
    }
}

impl Model for Wait {
    type State = State;

    fn start(&self) -> State {
        State {
            word: Word::Waiting,
            baton: Baton::Taken,
            child: if self.lives_with_parent { Child::Try(Then::Begin) } else { Child::Wait },
            is_woken: false,
            dies_with_parent: !self.is(Mutant::OutlivesFromTheBeginning),
            parent: Parent::Look,
            command: Command::NotStarted,
            other: Other::Holds,
            lock: Holder::Other,
            parent_has_lock_open: true,
            signal: false,
            is_over: false,
            signals: self.signals,
            kills: self.kills,
            was_killed_waiting: false,
        }
    }

    fn steps(&mut self, state: &State, steps: &mut Vec<Step<State>>) {
        self.child_step(state, steps);
        self.parent_step(state, steps);
        self.other_step(state, steps);
        self.mishaps(state, steps);
    }

    fn wrong(&self, state: &State) -> Option<&'static str> {
        let has_started = state.command != Command::NotStarted;
        if state.command == Command::Runs && state.lock != Holder::Us {
            return Some("COMMAND runs without the lock");
        }
        if matches!(state.parent, Parent::GaveUp | Parent::DoneWaiting) && has_started {
            return Some("the wait is over, and COMMAND ran");
        }
        if state.parent == Parent::DoneWaiting && state.lock == Holder::Us {
            return Some("the wait is over, and its child has the lock");
        }
        if state.was_killed_waiting && has_started {
            return Some("killed while it waited, and COMMAND ran");
        }
        if self.lives_with_parent && state.is_parent_awake() && state.is_child_awake() {
            return Some("both run in one memory");
        }
        None
    }

    fn is_done(&self, state: &State) -> bool {
        let is_parent_done = matches!(state.parent, Parent::DoneWaiting | Parent::Done | Parent::Killed);
        is_parent_done && state.child == Child::Ended && state.other == Other::Done && state.lock == Holder::Nobody
    }
}
