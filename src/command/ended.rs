//! Messages about COMMAND's end, and the exit that follows from it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use crate::child::{self, Cause, Ended, Outcome};
use crate::duration;
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::{Holder, Lost};
use crate::message;
use crate::record::{RunEnd, timestamp};
use crate::sys;

/// What else is known at the end of a lock.
#[derive(Default)]
pub struct Known {
    /// How it was lost unnoticed.
    pub lost: Option<Lost>,
    /// Who holds it after a loss.
    pub successors: Option<Vec<Holder>>,
    /// When it was granted, since boot.
    pub granted_at: Duration,
}

/// After the release of the lock `name`.
pub fn exit(name: &str, outcome: &Outcome, known: &Known) -> Exit {
    let why = match &outcome.cause {
        None => match &known.lost {
            None => return own_exit(outcome.ended),
            Some(lost) => text_of_loss(lost),
        },
        Some(cause) => format!("{}: ended the command and all it started", text_of(cause, Some(known.granted_at))),
    };
    let now = match known.successors.as_deref() {
        None => String::new(),
        Some([]) => "; nobody holds it now".into(),
        Some(holders) => format!("; now {}", message::held_by(holders)),
    };
    message::tell_about(name, &format!("{why}; the command ended with {}{now}", text_of_end(outcome.ended)));
    Exit::Lost
}

fn own_exit(ended: Ended) -> Exit {
    match ended {
        Ended::Code(code) => Exit::Code(code),
        Ended::Signal(signal) => Exit::Signal(signal),
    }
}

/// Why COMMAND is being ended, as a clause.
pub fn why(cause: &Cause) -> String {
    text_of(cause, None)
}

fn text_of(cause: &Cause, granted_at: Option<Duration>) -> String {
    match cause {
        Cause::Expired(at) => match granted_at {
            Some(granted_at) => format!("expired after {}", duration::display(at.saturating_sub(granted_at))),
            None => "expired".into(),
        },
        Cause::Replaced(by) => format!("replaced by {}", message::by(*by)),
        Cause::Broken(by) => format!("broken by {}", message::by(*by)),
        Cause::Lost(lost) => text_of_loss(lost),
    }
}

/// A server says by whom, and anybody can have written that who can write its rows.
pub fn text_of_loss(lost: &Lost) -> String {
    printable(lost.to_string().as_bytes())
}

fn text_of_end(ended: Ended) -> String {
    match ended {
        Ended::Code(code) => format!("exit code {code}"),
        Ended::Signal(signal) => message::signal_name(signal),
    }
}

/// What the lock's record says about a run that ends now; it was granted at this time
/// since boot.
pub fn record(ended: Ended, lost: bool, granted_at: Duration) -> RunEnd {
    let took = sys::suspend_aware_now().saturating_sub(granted_at).as_millis();
    let (code, signal) = match ended {
        Ended::Code(code) => (Some(code), None),
        Ended::Signal(signal) => (None, Some(signal)),
    };
    RunEnd { at: timestamp(SystemTime::now()), took: took.try_into().unwrap_or(u64::MAX), code, signal, lost }
}

/// COMMAND could not be executed.
pub struct NotExecuted {
    pub exit: Exit,
    text: String,
}

impl NotExecuted {
    /// Finds out why not, after this `errno`.
    pub fn new(program: &OsStr, errno: i32) -> Self {
        let shown = printable(program.as_bytes());
        let is_there = child::is_there(program);
        // In PATH, a directory that is missing or may not be searched is passed over.
        let is_searched = !program.as_bytes().contains(&b'/');
        let (exit, text) = match errno {
            libc::ENOENT if is_there => (
                Exit::NotFound,
                format!("cannot execute {shown}: its interpreter (after #!) or dynamic loader is missing"),
            ),
            libc::ENOENT => (Exit::NotFound, format!("command not found: {shown}")),
            libc::EACCES | libc::ENOTDIR if is_searched && !is_there => {
                (Exit::NotFound, format!("command not found: {shown}"))
            }
            _ => (Exit::CannotExecute, format!("cannot execute {shown}: {}", message::os_error(errno))),
        };
        Self { exit, text }
    }

    pub fn tell(self, name: &str) -> Exit {
        message::tell_about(name, &self.text);
        self.exit
    }
}

/// The supervisor in a process of its own, with a lock that is lost at a given moment.
#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
    use std::os::fd::{AsFd, RawFd};

    use anyhow::Result;
    use rustix::process::{WaitOptions, waitpid};

    use super::*;
    use crate::child::{EarlySignals, Supervision, Tree};
    use crate::lock::{Grant, Held, Loss, LossKind, Note, Released, Wakes};
    use crate::record::Claim;
    use crate::sys::{self, Forked, Timer};

    /// How the supervisor learns of the loss.
    enum Told {
        /// A server said so.
        By(PipeReader, PipeWriter),
        /// The server was silent until then.
        At(Duration),
    }

    struct Leased {
        told: Told,
        /// From the loss to KILL; `None`: as `--kill-after` says.
        kill_after: Option<Duration>,
        tended: Cell<u32>,
    }

    impl Held for Leased {
        fn settle(&mut self, _: &Claim) -> Result<()> {
            Ok(())
        }

        fn grants(&self) -> Vec<Grant> {
            Vec::new()
        }

        fn descriptors(&self) -> Vec<RawFd> {
            Vec::new()
        }

        fn wakes(&self) -> Wakes<'_> {
            match &self.told {
                // The message has been read.
                Told::By(..) if self.tended.get() > 0 => Wakes::default(),
                Told::By(reader, _) => Wakes { descriptor: Some(reader.as_fd()), at: None },
                Told::At(at) => Wakes { descriptor: None, at: Some(*at) },
            }
        }

        fn tend(&mut self) -> Option<Loss> {
            self.tended.set(self.tended.get() + 1);
            let lost = Lost { name: b"calc".to_vec(), kind: LossKind::Gone, how: "the server gave it away".into() };
            let kill_at = self.kill_after.map(|after| sys::suspend_aware_now() + after);
            Some(Loss { lost, kill_at })
        }

        fn note(&mut self, _: &Note<'_>) {}

        fn release(&mut self, _: Duration) -> Result<Released> {
            Ok(Released::Done)
        }
    }

    const LONG: Duration = Duration::from_secs(600);

    /// Runs `command` under a lock in a process of its own, because a supervisor owns
    /// its process's signals and children. The lock is lost once the command says that
    /// it is ready. Returns the exit code, or 1 if nothing was lost.
    fn supervised(command: &str, held: impl FnOnce() -> Leased, lose: fn(&mut Told)) -> u8 {
        let Forked::Parent(process) = sys::fork().unwrap() else {
            let mask = sys::block_all();
            let mut held = held();
            let words = ["/bin/sh", "-c", command].map(Into::into);
            let exec = child::prepare(&words, &[], mask, false).unwrap();
            let tree = Tree::of_what_follows(|_| false);
            let timer = Timer::new().unwrap();
            let (mut ready, stdout) = pipe().unwrap();
            rustix::stdio::dup2_stdout(&stdout).unwrap();
            let pending = sys::pending();
            let command = sys::spawn(&exec).unwrap().unwrap();
            ready.read_exact(&mut [0]).unwrap();
            lose(&mut held.told);
            let supervision = Supervision {
                command,
                tree,
                expires: None,
                renewals: None,
                timer: Some(&timer),
                kill_after: LONG,
                hold_tree: false,
                name: "calc",
                early: EarlySignals::Pending(pending),
            };
            let outcome = child::supervise(supervision, &mut held).unwrap();
            let is_lost = matches!(outcome.cause, Some(Cause::Lost(_)));
            let exit = exit("calc", &outcome, &Known::default());
            sys::exit_now(if is_lost { exit.code().into() } else { 1 });
        };
        let status = waitpid(Some(process), WaitOptions::empty()).unwrap().unwrap().1;
        status.exit_status().unwrap() as u8
    }

    fn told_by(kill_after: Option<Duration>) -> Leased {
        let (reader, writer) = pipe().unwrap();
        Leased { told: Told::By(reader, writer), kill_after, tended: Cell::new(0) }
    }

    fn say_so(told: &mut Told) {
        if let Told::By(_, writer) = told {
            writer.write_all(b"!").unwrap();
        }
    }

    #[test]
    fn a_lock_that_is_lost_ends_the_command_and_is_123() {
        assert_eq!(supervised("echo ready; exec sleep 600", || told_by(None), say_so), 123);
        let now = || Leased { told: Told::At(sys::suspend_aware_now()), kill_after: None, tended: Cell::new(0) };
        assert_eq!(supervised("echo ready; exec sleep 600", now, |_| ()), 123);
    }

    /// The command ignores TERM, and `--kill-after` is ten minutes.
    #[test]
    fn kill_comes_when_the_lease_ends_and_not_later() {
        let stubborn = "trap '' TERM; echo ready; while :; do sleep 600; done";
        assert_eq!(supervised(stubborn, || told_by(Some(Duration::ZERO)), say_so), 123);
        assert_eq!(supervised(stubborn, || told_by(Some(Duration::from_millis(300))), say_so), 123);
    }

    #[test]
    fn a_loss_sends_no_controls_to_the_terminal() {
        let how = "broken by pid 1\x1b[2J\n\u{202e}".into();
        let lost = Lost { name: b"calc".to_vec(), kind: LossKind::Broken, how };
        let shown = "broken by pid 1\\x1b[2J\\n\\u{202e}";
        assert_eq!(text_of_loss(&lost), shown);
        assert_eq!(why(&Cause::Lost(lost)), shown);
    }

    /// Wakes for a lock that is still ours change nothing.
    #[test]
    fn a_command_that_ends_first_has_its_own_exit() {
        let later =
            || Leased { told: Told::At(sys::suspend_aware_now() + LONG), kill_after: None, tended: Cell::new(0) };
        assert_eq!(supervised("echo ready; exit 7", later, |_| ()), 1);
    }
}
