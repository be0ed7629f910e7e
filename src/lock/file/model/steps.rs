//! The steps of each process, and what can happen to it.

use super::super::lanes::DOOR;
use super::code::{Answer, Call, Code, Next, Position};
use super::ranges::{RangeSet, RangeSets};
use super::scope::{Mutant, Scope};
use super::world::{At, Hold, INODES, Process, Role, World};
use crate::exhaustive::{Model, Step};
use crate::sys::Kind;

/// The processes of a scope, and the code that they run.
pub struct Queue {
    scope: Scope,
    code: Code,
    sets: RangeSets,
}

impl Queue {
    pub fn new(scope: Scope) -> Self {
        Self { scope, code: Code::new(), sets: RangeSets::new() }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.scope.mutant == Some(mutant)
    }

    /// `process` goes on at `at`, up to its next system call.
    fn go(&mut self, mut world: World, i: usize, at: At) -> Result<World, &'static str> {
        let mut at = match at {
            At::EnterDoor if self.is(Mutant::HasNoDoor) => At::LookForWaiters,
            At::LeaveDoor if self.is(Mutant::HasNoDoor) => At::WaitForTurn,
            at => at,
        };
        loop {
            let process = &mut world.processes[i];
            process.at = at;
            process.code = Position::default();
            let Some(act) = process.act() else { return Ok(world) };
            process.code = self.code.begin(act);
            match self.returned(&mut world, i)? {
                Some(next) => at = next,
                None => return Ok(world),
            }
        }
    }

    /// Where the process goes on if its act has returned.
    fn returned(&self, world: &mut World, i: usize) -> Result<Option<At>, &'static str> {
        let value = match self.code.next(world.processes[i].code) {
            Next::Call(_) => return Ok(None),
            Next::Failed => return Err("fails"),
            Next::Returned(value) => value,
        };
        let last = world.processes.iter().map(|process| process.arrived).max().unwrap_or(0);
        let process = &mut world.processes[i];
        Ok(Some(match process.at {
            At::EnterDoor => At::LookForWaiters,
            At::LookForWaiters if value != 0 => At::Compare,
            At::LookForWaiters if self.is(Mutant::ComparesBeforeTheLock) => At::Compare,
            At::LookForWaiters => At::TryLock,
            At::DrawTicket => {
                (process.ticket, process.arrived) = (value as u8, last + 1);
                At::LeaveDoor
            }
            At::LeaveDoor => At::WaitForTurn,
            At::WaitForTurn if self.is(Mutant::LeavesTheQueueBeforeTheLock) => {
                process.ranges = RangeSet::default();
                At::Lock
            }
            At::WaitForTurn => At::Lock,
            At::EnterDoorAgain => At::Compare,
            At::PruneEnterDoor if value == 0 => At::Leave,
            At::PruneEnterDoor if self.is(Mutant::PruneLooksForNoTickets) => At::PruneLock,
            At::PruneEnterDoor => At::PruneLook,
            At::PruneLook if value != 0 => At::Leave,
            At::PruneLook => At::PruneLock,
            at => at,
        }))
    }

    /// One system call of the queue's code, with each answer that the kernel may give.
    fn call(&mut self, world: &World, i: usize, call: Call, steps: &mut Vec<Step<World>>) {
        let process = world.processes[i];
        let found = match call {
            Call::Set(None, ..) => Vec::new(),
            Call::Set(Some(kind), start, end) | Call::Sleep(kind, start, end) | Call::Ask(kind, start, end) => {
                let others = world.processes.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| other);
                let others = others.filter(|other| other.queue == process.queue);
                others.flat_map(|other| self.sets.conflicts(other.ranges, start, end, kind)).collect()
            }
        };
        let (label, answers) = match (call, found.is_empty()) {
            (Call::Ask(..), true) => ("asks", vec![Answer::Conflict(None)]),
            // Any of them: which one the kernel reports is not promised.
            (Call::Ask(..), false) => {
                ("asks", found.iter().map(|range| Answer::Conflict(Some((range.start, range.end)))).collect())
            }
            (Call::Sleep(..), false) => return,
            (Call::Set(..), false) => ("is refused a range", vec![Answer::Refused]),
            (Call::Set(None, ..), true) => ("unlocks a range", vec![Answer::Done]),
            (_, true) => ("locks a range", vec![Answer::Done]),
        };
        for answer in answers {
            let mut next = *world;
            let process = &mut next.processes[i];
            match (call, answer) {
                (Call::Set(kind, start, end), Answer::Done) => {
                    process.ranges = self.sets.after(process.ranges, start, end, kind);
                }
                (Call::Sleep(kind, start, end), _) => {
                    process.ranges = self.sets.after(process.ranges, start, end, Some(kind));
                }
                _ => {}
            }
            process.code = self.code.after(process.code, answer);
            let to = match self.returned(&mut next, i) {
                Ok(Some(at)) => self.go(next, i, at),
                Ok(None) => Ok(next),
                Err(why) => Err(why),
            };
            steps.push(Step { label, is_mishap: false, to: to.map(World::tidied) });
        }
    }

    /// The other steps of a process.
    fn step(&mut self, world: &World, i: usize) -> Option<(&'static str, Result<World, &'static str>)> {
        let me = world.processes[i];
        let has_lock = me.hold != Hold::Nothing;
        let mut next = *world;
        let process = &mut next.processes[i];
        let (label, at) = match me.at {
            At::Open if me.role == Role::Prune && world.path == 0 => ("finds no file", At::Done),
            At::Open => {
                let inode = next.open();
                let process = &mut next.processes[i];
                process.lock = inode;
                let at = match me.role {
                    Role::Flock => At::Lock,
                    Role::Prune => {
                        process.queue = inode;
                        // An empty file is not lockrun's.
                        if next.texts[usize::from(inode)] == 0 { At::Leave } else { At::PruneEnterDoor }
                    }
                    _ => At::OpenQueue,
                };
                ("opens the lock", at)
            }
            At::OpenQueue => {
                let inode = next.open();
                next.processes[i].queue = inode;
                ("opens the queue", At::EnterDoor)
            }
            At::TryLock if world.is_locked_against(i) => {
                process.met_prune = world.holders_against(i).any(|other| other.role == Role::Prune);
                let at = if self.is(Mutant::ComparesBeforeTheLock) { At::DrawTicket } else { At::Compare };
                ("cannot lock", at)
            }
            At::Lock if world.is_locked_against(i) => return None,
            At::TryLock | At::Lock => {
                if world.overtakes(i) {
                    return Some(("locks", Err("overtakes a waiter")));
                }
                process.hold = me.mode_of_hold();
                let at = match (me.role, me.at) {
                    (Role::Flock, _) => At::Run,
                    (Role::Shared, At::Lock) if !self.is(Mutant::ReadersNumberOutside) => At::EnterDoorAgain,
                    _ if self.is(Mutant::ComparesNothing) || self.is(Mutant::ComparesBeforeTheLock) => At::ReadText,
                    _ => At::Compare,
                };
                ("locks", at)
            }
            At::Compare => {
                let is_current = match self.scope.mutant {
                    Some(Mutant::CountsLinks) => world.is_linked(me.queue) && world.is_linked(me.lock),
                    Some(Mutant::ComparesTheQueueAlone) => world.path == me.queue,
                    Some(Mutant::ComparesNothing) => true,
                    _ => world.path == me.queue && me.lock == me.queue,
                };
                let at = match (is_current, has_lock, me.role) {
                    (false, ..) => At::Restart,
                    (true, true, _) => At::ReadText,
                    (true, false, _) if self.is(Mutant::ComparesBeforeTheLock) => At::TryLock,
                    (true, false, Role::Impatient) if me.met_prune => {
                        return Some(("gives up", Err("busy because of lockrun's own work")));
                    }
                    (true, false, Role::Impatient) => At::Leave,
                    (true, false, _) => At::DrawTicket,
                };
                ("compares", at)
            }
            At::ReadText => {
                let last = match world.texts[usize::from(me.queue)] {
                    0 => world.floor,
                    number => number,
                };
                process.fence = if self.scope.fences { last + 1 } else { 1 };
                ("reads the number", At::WriteText)
            }
            At::WriteText => {
                if self.scope.fences && me.fence <= world.last_fence {
                    return Some(("writes the number", Err("a fence does not rise")));
                }
                process.fence = 0;
                next.texts[usize::from(me.queue)] = me.fence;
                next.last_fence = if self.scope.fences { me.fence } else { 0 };
                ("writes the number", At::CloseQueue)
            }
            At::CloseQueue => {
                process.leave_queue();
                ("starts COMMAND", At::Run)
            }
            At::Run => ("its COMMAND ends", if me.role == Role::Flock { At::Leave } else { At::Unlock }),
            At::RunAlone => ("its COMMAND ends", At::Die),
            At::Unlock => {
                process.hold = Hold::Nothing;
                ("unlocks", if self.is(Mutant::RemovesItsFile) { At::Remove } else { At::Leave })
            }
            At::Remove => {
                next.path = 0;
                ("removes the file", At::Leave)
            }
            At::Restart | At::Leave | At::Die if me.lock != 0 && me.role != Role::Prune => {
                process.close_lock();
                ("closes the lock", me.at)
            }
            At::Restart | At::Leave | At::Die if me.queue != 0 => {
                process.leave_queue();
                ("closes the queue", me.at)
            }
            // One description, of which the kernel releases flock(2)'s lock last.
            At::Leave | At::Die if me.lock != 0 => {
                process.close_lock();
                ("closes the lock", me.at)
            }
            At::Restart => ("starts again", At::Open),
            At::Leave if me.runs_again => {
                process.runs_again = false;
                ("asks again", At::Open)
            }
            At::Leave | At::Die => ("ends", At::Done),
            At::PruneLock if self.is(Mutant::PruneLocksNothing) => ("locks nothing", At::PruneCompare),
            At::PruneLock if world.is_locked_against(i) => ("cannot lock", At::Leave),
            At::PruneLock => {
                process.hold = Hold::Exclusive;
                ("locks", At::PruneCompare)
            }
            At::PruneCompare if world.path != me.queue && !self.is(Mutant::PruneComparesNothing) => {
                ("sees another file", At::Leave)
            }
            At::PruneCompare => ("sees its file", At::PruneRemember),
            At::PruneRemember => {
                if self.scope.fences && !self.is(Mutant::PruneRemembersNothing) {
                    next.floor = next.floor.max(world.texts[usize::from(me.queue)]);
                }
                ("remembers the number", At::PruneRemove)
            }
            At::PruneRemove => {
                let removed = world.path;
                let uses = |other: &Process| {
                    other.role != Role::Prune
                        && (other.lock == removed && other.hold != Hold::Nothing
                            || other.queue == removed && other.arrived > 0)
                };
                if removed != 0 && world.processes.iter().any(uses) {
                    return Some(("prunes", Err("a used file is pruned")));
                }
                next.path = 0;
                ("prunes", At::Leave)
            }
            At::Done | At::EnterDoor | At::LookForWaiters | At::DrawTicket | At::LeaveDoor => return None,
            At::WaitForTurn | At::EnterDoorAgain | At::PruneEnterDoor | At::PruneLook => return None,
        };
        Some((label, self.go(next, i, at)))
    }

    /// What can happen to a process.
    fn mishaps(&mut self, world: &World, i: usize, steps: &mut Vec<Step<World>>) {
        let process = world.processes[i];
        let mut happens = |label, to: Result<World, &'static str>| {
            steps.push(Step { label, is_mishap: true, to: to.map(World::tidied) });
        };
        let sleeps = match process.at {
            At::Lock => process.role != Role::Flock,
            At::WaitForTurn => matches!(self.code.next(process.code), Next::Call(Call::Sleep(..))),
            _ => false,
        };
        if sleeps {
            happens("is interrupted", self.go(*world, i, At::WaitForTurn));
        }
        if world.kills == 0 || matches!(process.at, At::Done | At::Die) {
            return;
        }
        let mut killed = *world;
        killed.kills -= 1;
        let dead = &mut killed.processes[i];
        dead.runs_again = false;
        dead.arrived = 0;
        dead.ticket = 0;
        match process.at {
            At::Run => happens("is killed", self.go(killed, i, At::RunAlone)),
            At::RunAlone => {}
            _ => {
                happens("is killed", self.go(killed, i, At::Die));
                // The kernel closes them in the order of their numbers.
                killed.processes[i].leave_queue();
                happens("is killed", self.go(killed, i, At::Die));
            }
        }
    }

    fn removals(&self, world: &World, steps: &mut Vec<Step<World>>) {
        if world.removals == 0 || world.path == 0 {
            return;
        }
        let mut removed = *world;
        removed.removals -= 1;
        for process in &mut removed.processes {
            process.is_lost |= process.lock == world.path && process.hold != Hold::Nothing;
        }
        removed.path = 0;
        steps.push(Step { label: "the file is removed", is_mishap: true, to: Ok(removed.tidied()) });
        if self.scope.renames {
            let mut replaced = removed;
            replaced.open();
            steps.push(Step { label: "the file is replaced", is_mishap: true, to: Ok(replaced.tidied()) });
            removed.is_elsewhere[usize::from(world.path)] = true;
            steps.push(Step { label: "the file is renamed", is_mishap: true, to: Ok(removed.tidied()) });
        }
    }
}

impl Model for Queue {
    type State = World;

    fn start(&self) -> World {
        let mut processes = self.scope.roles.map(|role| Process {
            role,
            at: if role == Role::Nobody { At::Done } else { At::Open },
            ..Process::default()
        });
        processes[0].runs_again = self.scope.again;
        let world = World {
            processes,
            path: 0,
            texts: [0; INODES],
            is_elsewhere: [false; INODES],
            floor: 0,
            last_fence: 0,
            kills: self.scope.kills,
            removals: self.scope.removals,
        };
        world.tidied()
    }

    fn steps(&mut self, world: &World, steps: &mut Vec<Step<World>>) {
        for i in 0..world.processes.len() {
            match world.processes[i].act().map(|_| self.code.next(world.processes[i].code)) {
                Some(Next::Call(call)) => self.call(world, i, call, steps),
                _ => {
                    let step = self.step(world, i);
                    steps.extend(step.map(|(label, to)| Step { label, is_mishap: false, to: to.map(World::tidied) }));
                }
            }
            self.mishaps(world, i, steps);
        }
        self.removals(world, steps);
    }

    fn wrong(&self, world: &World) -> Option<&'static str> {
        let is_in_door = |ranges| self.sets.conflicts(ranges, DOOR, DOOR + 1, Kind::Write).next().is_some();
        let mut waiters = world.processes.iter().filter(|process| matches!(process.at, At::WaitForTurn | At::Lock));
        if waiters.any(|waiter| is_in_door(waiter.ranges)) {
            return Some("waits in the door");
        }
        for (i, a) in world.processes.iter().enumerate().filter(|(_, a)| a.runs()) {
            if a.hold == Hold::Nothing {
                return Some("COMMAND runs without the lock");
            }
            for b in world.processes[..i].iter().filter(|b| b.runs() && b.excludes(a)) {
                if a.lock == b.lock || !(a.is_lost || b.is_lost) {
                    return Some("two holders");
                }
            }
        }
        None
    }

    fn is_done(&self, world: &World) -> bool {
        world.processes.iter().all(|process| process.at == At::Done)
    }
}
