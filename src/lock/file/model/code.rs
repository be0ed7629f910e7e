//! The queue's own code ([`Queue`]), one system call at a time.
//!
//! An act is run with the answers that its calls have got so far, and cut off at the next
//! call. What it does next depends on nothing else, so each act with each list of answers
//! is run once, and a process in the model is at a number in this table.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::rc::Rc;

use super::super::lanes::Ticket;
use super::super::queue::Queue;
use crate::lock::Mode;
use crate::sys::{self, Kind};

/// A call of the queue.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Act {
    EnterDoor,
    TryEnterDoor,
    LeaveDoor,
    SomebodyWaits(Mode),
    AnybodyWaits,
    DrawTicket(Mode),
    WaitForTurn(i64, Mode),
}

/// A system call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Call {
    /// `F_OFD_SETLK`; `None` unlocks.
    Set(Option<Kind>, i64, i64),
    /// `F_OFD_SETLKW`.
    Sleep(Kind, i64, i64),
    /// `F_OFD_GETLK`.
    Ask(Kind, i64, i64),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    Done,
    /// Another description has it.
    Refused,
    /// A conflict with this range, or none.
    Conflict(Option<(i64, i64)>),
}

/// What an act does next.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Next {
    Call(Call),
    /// A number, or a truth.
    Returned(i64),
    Failed,
}

/// A position in the code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Position(u16);

struct Known {
    act: Act,
    answers: Vec<Answer>,
    next: Next,
    /// Where each answer to the call leads.
    then: Vec<(Answer, Position)>,
}

pub struct Code {
    known: Vec<Known>,
    begins: Vec<(Act, Position)>,
}

/// All processes have the same id, which nothing in the queue's order depends on.
const PID: i32 = 1000;

impl Code {
    pub fn new() -> Self {
        Self { known: Vec::new(), begins: Vec::new() }
    }

    pub fn begin(&mut self, act: Act) -> Position {
        let known = self.begins.iter().find(|(known, _)| *known == act);
        known.map(|(_, position)| *position).unwrap_or_else(|| {
            let position = self.learn(act, Vec::new());
            self.begins.push((act, position));
            position
        })
    }

    pub fn next(&self, at: Position) -> Next {
        self.known[usize::from(at.0)].next
    }

    /// Where it is after this answer.
    pub fn after(&mut self, at: Position, answer: Answer) -> Position {
        let known = &self.known[usize::from(at.0)];
        if let Some((_, then)) = known.then.iter().find(|(known, _)| *known == answer) {
            return *then;
        }
        let answers = [&known.answers[..], &[answer]].concat();
        let then = self.learn(known.act, answers);
        self.known[usize::from(at.0)].then.push((answer, then));
        then
    }

    fn learn(&mut self, act: Act, answers: Vec<Answer>) -> Position {
        let next = run(act, answers.clone());
        self.known.push(Known { act, answers, next, then: Vec::new() });
        Position((self.known.len() - 1) as u16)
    }
}

fn run(act: Act, answers: Vec<Answer>) -> Next {
    let cut_off = Rc::new(Cell::new(None));
    let queue = Queue::on(File::open("/dev/null").unwrap());
    let returned = sys::with_model(kernel(answers, Rc::clone(&cut_off)), || execute(act, &queue));
    match (cut_off.get(), returned) {
        (Some(call), _) => Next::Call(call),
        (None, Some(value)) => Next::Returned(value),
        (None, None) => Next::Failed,
    }
}

/// Gives the answers that are known, and reports the call after them.
fn kernel(answers: Vec<Answer>, cut_off: Rc<Cell<Option<Call>>>) -> Box<sys::ModelledKernel> {
    let mut answers = answers.into_iter();
    Box::new(move |command, range| {
        let (start, end) = (range.l_start, range.l_start + range.l_len);
        let Some(answer) = answers.next() else {
            let kind = match i32::from(range.l_type) {
                libc::F_RDLCK => Some(Kind::Read),
                libc::F_WRLCK => Some(Kind::Write),
                _ => None,
            };
            let call = match (command, kind) {
                (libc::F_OFD_SETLKW, Some(kind)) => Call::Sleep(kind, start, end),
                (libc::F_OFD_GETLK, Some(kind)) => Call::Ask(kind, start, end),
                _ => Call::Set(kind, start, end),
            };
            cut_off.set(cut_off.get().or(Some(call)));
            return Err(io::ErrorKind::Other.into());
        };
        let mut result = *range;
        match answer {
            Answer::Done => {}
            Answer::Refused => return Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            Answer::Conflict(None) => result.l_type = libc::F_UNLCK as _,
            Answer::Conflict(Some((start, end))) => (result.l_start, result.l_len) = (start, end - start),
        }
        Ok(result)
    })
}

fn execute(act: Act, queue: &Queue) -> Option<i64> {
    match act {
        Act::EnterDoor => queue.enter_door().ok().map(|()| 0),
        Act::TryEnterDoor => queue.try_enter_door().ok().map(i64::from),
        Act::LeaveDoor => queue.leave_door().ok().map(|()| 0),
        Act::SomebodyWaits(mode) => queue.somebody_waits(mode).ok().map(i64::from),
        Act::AnybodyWaits => queue.waiting(1).ok().map(|waiting| i64::from(waiting > 0)),
        Act::DrawTicket(mode) => queue.draw_ticket(mode, PID).ok().map(|ticket| ticket.0),
        Act::WaitForTurn(ticket, mode) => queue.wait_for_turn(Ticket(ticket), mode).ok().map(|()| 0),
    }
}
