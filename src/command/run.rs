//! `lockrun -- COMMAND`: hold a lock while a command runs. Here a lock and a
//! child meet.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::environment;
use super::report::Report;
use super::request::LockRequest;
use crate::child::{
    self, Cause, EarlySignals, Ended, Outcome, Supervision, Tree, Verdict, Waited, Waiter, WaitingChild, Watch,
};
use crate::cli::{self, Hold};
use crate::duration;
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::Target;
use crate::lock::file::{FileEngine, FileHeld, FileQueued};
use crate::lock::{Admission, Held, Patience, Place, Store, Turn};
use crate::message;
use crate::name;
use crate::record::Claim;
use crate::sys::{self, Exec, Mask, Timer};
use crate::waiting::Verbosity;

/// TERM to KILL: time enough to clean up, and no more.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// What ends a wait.
const CAUGHT_AS_INIT: [i32; 11] = [
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGPIPE,
];

/// Runs the command under its lock and says how lockrun has to end.
///
/// # Errors
/// The lock cannot be asked for, or the command not be started or watched.
pub fn run(options: cli::Run) -> Result<Exit> {
    let mut job = Job::new(options)?;
    let exit = job.run();
    if let Some(report) = job.report.take() {
        report.finish(*exit.as_ref().unwrap_or(&Exit::Failed));
    }
    // The process ends now, and the kernel takes all of it back at once.
    std::mem::forget(job);
    exit
}

/// One call, from its options to its end.
struct Job {
    request: LockRequest,
    words: Vec<OsString>,
    /// What COMMAND finds as it was before us.
    mask: Mask,
    ignore_child_death: bool,
    claim: Claim,
    become_command: bool,
    expires: Option<Duration>,
    /// Made before anything is started that it has to end.
    timer: Option<Timer>,
    kill_after: Duration,
    hold_tree: bool,
    report: Option<Report>,
}

/// Whoever is granted the lock for COMMAND, and what it needs then: its own.
struct Grantee {
    exec: Exec,
    claim: Claim,
    engine: FileEngine,
    /// Whether COMMAND has been told all of the grant but its number.
    is_told: bool,
}

/// A lock is held and COMMAND is running.
struct Running<'a> {
    held: FileHeld,
    supervision: Supervision<'a>,
    granted_at: Duration,
    fence: u64,
}

impl Grantee {
    /// Tells COMMAND of the grant to come, if all but its number is known:
    /// there is time now.
    fn foretell(&mut self, place: &mut FileQueued) -> Result<()> {
        if let Some(grants) = place.prepare(&self.claim) {
            environment::tell(&mut self.exec, &self.engine, &grants)?;
            self.is_told = true;
        }
        Ok(())
    }

    /// The grant is numbered and recorded, and COMMAND will know of it. Returns
    /// the first lock's number.
    fn settle(&mut self, held: &mut FileHeld) -> Result<u64> {
        held.settle(&self.claim)?;
        let fences = held.fences();
        if !(self.is_told && environment::renumber(&mut self.exec, &fences)) {
            environment::tell(&mut self.exec, &self.engine, &held.grants())?;
        }
        self.exec.inherit(held.descriptors());
        Ok(fences.first().copied().unwrap_or(0))
    }
}

impl Job {
    fn new(options: cli::Run) -> Result<Self> {
        let words = words(options.shell, options.command)?;
        let report = options.report.as_deref().map(Report::open).transpose()?;
        let quoted = || name::of_command(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        let mask = sys::block_all();
        let ignore_child_death = sys::default_on_child_death();
        let request = LockRequest::new(options.lock, quoted, mask)?;
        let expires = options.expires.and_then(duration::Limit::finite);
        let command = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(&b' ');
        let names = || request.engine.targets().iter().map(Target::name).collect::<Vec<_>>().join(&b'\n');
        Ok(Self {
            report: report.map(|report| report.about(&names(), &command)),
            claim: request.claim(command, expires),
            request,
            words,
            mask,
            ignore_child_death,
            become_command: options.exec,
            expires,
            timer: expires.map(|_| Timer::new()).transpose().context("cannot make the timer of --expires")?,
            kill_after: options.kill_after.unwrap_or(KILL_AFTER),
            hold_tree: options.hold == Some(Hold::Tree),
        })
    }

    fn run(&mut self) -> Result<Exit> {
        loop {
            match self.request.engine.request(&self.request.patience)? {
                Admission::Granted(held) if self.become_command => return self.become_command(self.grantee()?, held),
                Admission::Granted(held) => return self.run_at_once(held),
                Admission::Refused(refusal) => return Ok(self.request.refused(refusal)),
                Admission::TimedOut => return Ok(self.request.timed_out()),
                Admission::Queued(place) => {
                    let exit = if self.become_command { self.wait_and_become(place)? } else { self.wait(place)? };
                    if let Some(exit) = exit {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    /// The lock was free: COMMAND is started as a child.
    fn run_at_once(&mut self, mut held: FileHeld) -> Result<Exit> {
        let mut grantee = self.grantee()?;
        let tree = Tree::of_what_follows();
        let granted_at = sys::suspend_aware_now();
        let fence = grantee.settle(&mut held)?;
        held.step_aside();
        self.request.tell_granted();
        let pending = sys::pending();
        let started = sys::spawn(&grantee.exec).context("cannot start a process")?;
        // Nobody needs it any more, and the end of the process frees it as well.
        std::mem::forget(grantee);
        match started {
            Ok(command) => {
                let supervision = self.supervision(command, tree, granted_at, EarlySignals::Pending(pending));
                self.finish(Running { held, supervision, granted_at, fence })
            }
            Err(errno) => {
                held.release()?;
                self.report_held(granted_at, fence);
                Ok(self.not_executed(errno))
            }
        }
    }

    /// `--exec`, and the lock is ours.
    fn become_command(&self, mut grantee: Grantee, mut held: FileHeld) -> Result<Exit> {
        grantee.settle(&mut held)?;
        self.request.tell_granted();
        let errno = grantee.exec.exec();
        held.release()?;
        Ok(self.not_executed(errno))
    }

    /// The lock is not free: a child waits for it and becomes COMMAND, while
    /// we watch. `None`: ask anew.
    fn wait(&mut self, place: FileQueued) -> Result<Option<Exit>> {
        let tree = Tree::of_what_follows();
        let mut waiting = self.request.waiting();
        let notify = self.expires.is_some() || waiting.is_living() || self.request.verbosity == Verbosity::Verbose;
        let mut grantee = self.grantee()?;
        // Nothing interrupts the child, and we keep the time for it.
        let patience = Patience { deadline: None, ..self.request.patience };
        let room = grantee.exec.room();
        let wait = move |mut place: FileQueued| {
            grantee.foretell(&mut place)?;
            Ok(match place.wait(&patience)? {
                Turn::Granted => Verdict::Granted((grantee, place.into_held())),
                Turn::Again | Turn::TimedOut => Verdict::Again,
            })
        };
        let become_command = |(mut grantee, mut held): (Grantee, FileHeld), granted: &WaitingChild| {
            match grantee.settle(&mut held) {
                Ok(fence) => granted.set_fence(fence),
                Err(error) => granted.failed(&error),
            }
            granted.let_go_of_parent();
            granted.exec_failed(granted.exec(&grantee.exec))
        };
        // Not where they might wait for each other: we have to be told, or it
        // may wait for a door when it has the lock.
        let (waiter, mut place) = if notify || !place.is_for_one_lock_alone() {
            Waiter::fork(place, notify, wait, become_command)
        } else {
            let theirs = place.of_cohabitant();
            Waiter::cohabit(room, move || wait(theirs), become_command).map(|waiter| (waiter, place))
        }
        .context("cannot start a process that waits")?;
        place.leave_to_child();
        match waiter.watch(&self.request.patience, &mut waiting)? {
            Waited::Granted { child, arrived } => {
                self.request.tell_granted();
                let granted_at = waiter.granted_at();
                let supervision = self.supervision(child, tree, granted_at, EarlySignals::Read(arrived));
                let fence = waiter.fence();
                let exit = self.finish(Running { held: place.into_held(), supervision, granted_at, fence })?;
                if let Some(failure) = waiter.failure() {
                    return Err(failure);
                }
                let exit = waiter.exec_errno().map_or(exit, |errno| self.not_executed(errno));
                // Its memory ends with us.
                std::mem::forget(waiter);
                Ok(Some(exit))
            }
            over => {
                // Nothing of the lock is kept by one who speaks or is stopped.
                drop(place);
                match over {
                    Waited::TimedOut => Ok(Some(self.request.timed_out())),
                    Waited::Refused(refusal) => Ok(Some(self.request.refused(refusal))),
                    Waited::Ended { signal, sender } => Ok(Some(self.request.wait_ended(signal, sender))),
                    Waited::Stopped(signal) => {
                        sys::stop_by(signal);
                        Ok(None)
                    }
                    Waited::Again | Waited::Granted { .. } => Ok(None),
                }
            }
        }
    }

    /// `--exec`, and the lock is not free: this process itself sleeps on it,
    /// with the caller's signals, which may simply end it.
    fn wait_and_become(&mut self, mut place: FileQueued) -> Result<Option<Exit>> {
        self.request.tell_verbose(|| message::held_by(&self.request.engine.holders()));
        // The kernel keeps those from PID 1 that it does not catch.
        let mut catch =
            if rustix::process::getpid().is_init() { CAUGHT_AS_INIT.to_vec() } else { sys::STOPPING.to_vec() };
        catch.extend([sys::replace_signal(), sys::break_signal()]);
        let interrupter = sys::Interrupter::new(self.request.patience.left(), &catch, &self.request.patience.mask)
            .context("cannot make a timer")?;
        let mut grantee = self.grantee()?;
        grantee.foretell(&mut place)?;
        let turn = place.wait(&self.request.patience)?;
        drop(interrupter);
        match (turn, sys::take_caught()) {
            (Turn::Granted, Some(signal)) if sys::STOPPING.contains(&signal) => {
                // Too late to give up our place. It is blocked now, and stops
                // us where we become COMMAND.
                let _ = sys::send(rustix::process::getpid(), signal);
                self.become_command(grantee, place.into_held()).map(Some)
            }
            (_, Some(signal)) if sys::STOPPING.contains(&signal) => {
                // Not with our place in the queue: nobody waits for a job
                // that is stopped.
                drop(place);
                sys::stop_by(signal);
                Ok(None)
            }
            (_, Some(signal)) => {
                drop(place);
                // Who sent it, a handler is not told.
                Ok(Some(self.request.wait_ended(signal, 0)))
            }
            (Turn::Granted, None) => self.become_command(grantee, place.into_held()).map(Some),
            (Turn::Again, None) => Ok(None),
            (Turn::TimedOut, None) => {
                drop(place);
                Ok(Some(self.request.timed_out()))
            }
        }
    }

    fn grantee(&self) -> Result<Grantee> {
        let exec = child::prepare(&self.words, &environment::OURS, self.mask, self.ignore_child_death)?;
        Ok(Grantee { exec, claim: self.claim.clone(), engine: self.request.engine.clone(), is_told: false })
    }

    fn supervision(
        &self,
        command: rustix::process::Pid,
        tree: Tree,
        granted_at: Duration,
        early: EarlySignals,
    ) -> Supervision<'_> {
        Supervision {
            command,
            tree,
            expires: self.timer.as_ref().zip(self.expires.map(|expires| granted_at.saturating_add(expires))),
            kill_after: self.kill_after,
            hold_tree: self.hold_tree,
            name: &self.request.name,
            early,
        }
    }

    /// From COMMAND's start to our end.
    fn finish(&self, mut running: Running) -> Result<Exit> {
        let outcome = child::supervise(running.supervision).context("cannot supervise the command")?;
        let lost = running.held.lost();
        running.held.release()?;
        // The next one goes first, should it be on our processor. Then there is
        // time for the dead, but not for closing what ends with us.
        std::thread::yield_now();
        std::mem::forget(running.held);
        child::reap();
        let held_for = self.report_held(running.granted_at, running.fence);
        self.request.tell_verbose(|| format!("released, held for {}", duration::display(held_for)));
        if let Some(cause) = outcome.cause {
            let why = match cause {
                Cause::Expired => format!("expired after {}", duration::display(self.expires.unwrap_or_default())),
                Cause::Replaced(by) => format!("replaced by {}", message::by(by)),
                Cause::Broken(by) => format!("broken by {}", message::by(by)),
            };
            self.tell_lost(&format!("{why}: ended the command and all it started"), &outcome);
            return Ok(Exit::Lost);
        }
        if let Some(lost) = lost {
            self.tell_lost(&format!("lost: {}", lost.how), &outcome);
            return Ok(Exit::Lost);
        }
        Ok(match outcome.ended {
            Ended::Code(code) => Exit::Code(code),
            Ended::Signal(signal) => Exit::Signal(signal),
        })
    }

    /// The lock was held until now. Returns for how long.
    fn report_held(&self, granted_at: Duration, fence: u64) -> Duration {
        let held_for = sys::suspend_aware_now().saturating_sub(granted_at);
        if let Some(report) = &self.report {
            report.held(held_for, fence);
        }
        held_for
    }

    fn tell_lost(&self, what: &str, outcome: &Outcome) {
        let ended = match outcome.ended {
            Ended::Code(code) => format!("exit code {code}"),
            Ended::Signal(signal) => match signal_hook::low_level::signal_name(signal) {
                Some(name) => name.to_owned(),
                None => format!("signal {signal}"),
            },
        };
        message::tell_about(&self.request.name, &format!("{what}; the command ended with {ended}"));
    }

    fn not_executed(&self, errno: i32) -> Exit {
        let program = &self.words[0];
        let shown = printable(program.as_bytes());
        let is_there = child::is_there(program);
        // In PATH, a directory that is none or that we may not search has nothing.
        let is_searched = !program.as_bytes().contains(&b'/');
        let (exit, text) = match errno {
            libc::ENOENT if is_there => (
                Exit::NotFound,
                format!("cannot execute {shown}: its interpreter, behind #! or of its format, is not there"),
            ),
            libc::ENOENT => (Exit::NotFound, format!("command not found: {shown}")),
            libc::EACCES | libc::ENOTDIR if is_searched && !is_there => {
                (Exit::NotFound, format!("command not found: {shown}"))
            }
            _ => (Exit::CannotExecute, format!("cannot execute {shown}: {}", message::os_error(errno))),
        };
        message::tell_about(&self.request.name, &text);
        exit
    }
}

/// COMMAND's words.
fn words(shell: Option<OsString>, command: Vec<OsString>) -> Result<Vec<OsString>> {
    if let Some(line) = shell {
        return Ok(vec!["/bin/sh".into(), "-c".into(), line]);
    }
    match command.first() {
        None => bail!("no command: lockrun [OPTIONS] -- COMMAND [ARG]...; see 'lockrun --help'"),
        Some(program) if program.is_empty() => bail!("the command is empty: name a program behind '--'"),
        Some(_) => Ok(command),
    }
}
