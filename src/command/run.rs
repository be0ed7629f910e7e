//! `lockrun -- COMMAND`: hold a lock while a command runs. Here a lock and a child
//! meet; [`Job::run`] is the life of a call.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::ended::{self, Known, NotExecuted};
use super::engine::{self, AnyHeld, AnyQueued};
use super::environment;
use super::grantee::Grantee;
use super::renewals::RenewalSocket;
use super::report::Report;
use super::request::LockRequest;
#[cfg(feature = "net")]
use super::wait_on_server::{OnServer, wait_on_server};
use crate::child::{self, EarlySignals, Ended, Renewals, Supervision, Tree};
use crate::cli::{self, Hold};
use crate::duration;
use crate::exit::Exit;
use crate::lock::{Admission, Engine, Held, LossKind, Released};
use crate::message;
use crate::name;
use crate::record::Claim;
use crate::sys::{self, Mask, Timer};

/// From TERM to KILL, unless `--kill-after` says otherwise.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// COMMAND has ended and the caller waits for us: a lock that a server does not take
/// back in time is left to its lease.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Limit for finding the new holder of a lost lock, which is only for the message.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(1);

/// Runs the command under its lock and returns how lockrun has to end.
pub fn run(options: cli::Run) -> Result<Exit> {
    let mut job = Job::new(options)?;
    let exit = job.run();
    if let Some(report) = job.report.take() {
        report.finish(*exit.as_ref().unwrap_or(&Exit::Failed));
    }
    // The kernel frees all of it at the exit.
    std::mem::forget(job);
    exit
}

/// One call, from its options to its end.
pub struct Job {
    pub(super) request: LockRequest,
    words: Vec<OsString>,
    /// The caller's signal mask, for COMMAND.
    mask: Mask,
    ignore_child_death: bool,
    claim: Claim,
    pub(super) become_command: bool,
    pub(super) expires: Option<Duration>,
    /// For `--expires` or a lease; made before anything is started that it has to end.
    timer: Option<Timer>,
    /// For `--expires`, until COMMAND runs.
    renewals: RefCell<Option<RenewalSocket>>,
    kill_after: Duration,
    hold_tree: bool,
    report: Option<Report>,
}

pub struct Running<'a> {
    pub held: AnyHeld,
    pub supervision: Supervision<'a>,
    /// Time since boot.
    pub granted_at: Duration,
    /// Fencing token of the first lock.
    pub fence: u64,
}

impl Job {
    fn new(options: cli::Run) -> Result<Self> {
        let words = words(options.shell, options.command)?;
        let report = options.report.as_deref().map(Report::open).transpose()?;
        let quoted = || name::of_command(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        let mask = sys::block_all();
        let ignore_child_death = sys::default_on_child_death();
        let mut request = LockRequest::new(options.lock, quoted, mask)?;
        let expires = options.expires.and_then(duration::Limit::finite);
        let command = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(&b' ');
        let kill_after = options.kill_after.unwrap_or(KILL_AFTER);
        let claim = request.claim(command, expires);
        let report = report.map(|report| report.about(&request.names, &request.engine.locations(), &claim));
        request.engine.set_details(&request.name, &claim, kill_after, options.at_least, options.exec)?;
        Ok(Self {
            report,
            claim,
            request,
            words,
            mask,
            ignore_child_death,
            become_command: options.exec,
            expires,
            timer: expires.map(|_| Timer::new()).transpose().context("cannot make the timer of --expires")?,
            renewals: RefCell::new(expires.map(RenewalSocket::new).transpose()?),
            kill_after,
            hold_tree: options.hold == Some(Hold::Tree),
        })
    }

    /// The life of a call: ask, perhaps wait, run COMMAND, and say how it ended.
    fn run(&mut self) -> Result<Exit> {
        loop {
            let not_granted = match self.request.engine.ask(&self.request.patience)? {
                Admission::Granted(held) if self.become_command => return self.become_command(self.grantee()?, held),
                Admission::Granted(held) => return self.run_at_once(held),
                Admission::Not(not) => not,
                Admission::Queued(AnyQueued::Files(place)) => match self.wait_in_queue(place)? {
                    Ok(exit) => return Ok(exit),
                    Err(not) => not,
                },
                #[cfg(feature = "net")]
                Admission::Queued(AnyQueued::Server(queued)) => match wait_on_server(&self.request, queued, None)? {
                    OnServer::Granted(held) => return self.run_at_once(AnyHeld::Server(*held)),
                    OnServer::Over(exit) => return Ok(exit),
                    OnServer::Not(not) => not,
                },
            };
            if let Some(report) = &self.report {
                report.not_granted(&not_granted);
            }
            if let Some(exit) = self.request.not_granted(not_granted) {
                return Ok(exit);
            }
        }
    }

    /// With the lock held: COMMAND is started as a child.
    fn run_at_once(&mut self, mut held: AnyHeld) -> Result<Exit> {
        let mut grantee = self.grantee()?;
        let tree = Tree::of_what_follows(engine::is_token_keeper);
        let granted_at = sys::suspend_aware_now();
        held.settle(&self.claim)?;
        if let Some(rows) = held.rows(&self.request.name) {
            grantee.set_rows(rows);
        }
        let fence = grantee.tell(&held)?;
        let has_lease = held.wakes().at.is_some();
        if self.timer.is_none() && has_lease {
            self.timer = Some(Timer::new().context("cannot make the timer of the lease")?);
        }
        self.request.tell_granted();
        // Since the grant, we may have been stopped for longer than the lease.
        if let Some(loss) = has_lease.then(|| held.tend()).flatten() {
            self.release(&mut held)?;
            message::tell_about(
                &self.request.name,
                &format!("{}; the command was not started", ended::text_of_loss(&loss.lost)),
            );
            return Ok(Exit::Lost);
        }
        let pending = sys::pending();
        let started = sys::spawn(&grantee.exec).context("cannot start a process")?;
        // The kernel frees it at the exit.
        std::mem::forget(grantee);
        match started {
            Ok(command) => {
                held.started(command);
                let supervision = self.supervision(command, tree, granted_at, EarlySignals::Pending(pending));
                self.finish(Running { held, supervision, granted_at, fence })
            }
            Err(errno) => {
                let not_executed = self.not_executed(errno);
                held.ended(None, &ended::record(Ended::Code(not_executed.exit.code()), false, granted_at));
                self.release(&mut held)?;
                self.report_held(granted_at, fence);
                Ok(not_executed.tell(&self.request.name))
            }
        }
    }

    /// `--exec`, with the lock held.
    pub(super) fn become_command(&self, mut grantee: Grantee, mut held: AnyHeld) -> Result<Exit> {
        held.settle(&self.claim)?;
        grantee.tell(&held)?;
        self.request.tell_granted();
        let errno = grantee.exec.exec();
        self.release(&mut held)?;
        Ok(self.not_executed(errno).tell(&self.request.name))
    }

    /// COMMAND, ready to be started.
    pub(super) fn grantee(&self) -> Result<Grantee> {
        let exec = child::prepare(&self.words, &environment::OURS, self.mask, self.ignore_child_death)?;
        let renewals = self.renewals.borrow().as_ref().map(|socket| socket.word().to_owned());
        Ok(Grantee::new(exec, self.claim.clone(), renewals))
    }

    /// How to supervise COMMAND, which runs as this process, once.
    pub(super) fn supervision(
        &self,
        command: rustix::process::Pid,
        tree: Tree,
        granted_at: Duration,
        early: EarlySignals,
    ) -> Supervision<'_> {
        Supervision {
            command,
            tree,
            expires: self.expires.map(|expires| granted_at.saturating_add(expires)),
            renewals: self.renewals.take().map(|socket| Box::new(socket) as Box<dyn Renewals>),
            timer: self.timer.as_ref(),
            kill_after: self.kill_after,
            hold_tree: self.hold_tree,
            name: &self.request.name,
            early,
        }
    }

    /// From COMMAND's start to our end.
    pub(super) fn finish(&self, mut running: Running) -> Result<Exit> {
        let held = &mut running.held;
        let command = running.supervision.command;
        let outcome = child::supervise(running.supervision, held).context("cannot supervise the command")?;
        // A lock that is only wanted by somebody was not lost: COMMAND has ended first.
        let loss = held.tend().filter(|loss| loss.lost.kind == LossKind::Gone);
        let lost = loss.map(|loss| loss.lost);
        let is_lost = outcome.cause.is_some() || lost.is_some();
        held.ended(Some(command), &ended::record(outcome.ended, is_lost, running.granted_at));
        let successors = held.successors(SUCCESSOR_LIMIT);
        self.release(held)?;
        // Lets the next holder run first, if it waits for our processor. Then reaps
        // what has ended, but closes nothing: the exit does.
        std::thread::yield_now();
        std::mem::forget(running.held);
        child::reap();
        let held_for = self.report_held(running.granted_at, running.fence);
        self.request.tell_verbose(|| format!("released, held for {}", duration::display(held_for)));
        Ok(ended::exit(&self.request.name, &outcome, &Known { lost, successors, granted_at: running.granted_at }))
    }

    /// Gives the lock back. If its lease has to end it, there is a message, but COMMAND
    /// has not failed.
    fn release(&self, held: &mut AnyHeld) -> Result<()> {
        if let Released::Later(why) = held.release(RELEASE_LIMIT)? {
            message::tell_about(
                &self.request.name,
                &format!("could not be released, so it ends with its lease: {why}"),
            );
        }
        Ok(())
    }

    /// Reports how long the lock was held until now, and returns it.
    fn report_held(&self, granted_at: Duration, fence: u64) -> Duration {
        let held_for = sys::suspend_aware_now().saturating_sub(granted_at);
        if let Some(report) = &self.report {
            report.held(held_for, fence);
        }
        held_for
    }

    pub(super) fn not_executed(&self, errno: i32) -> NotExecuted {
        NotExecuted::new(&self.words[0], errno)
    }
}

fn words(shell: Option<OsString>, command: Vec<OsString>) -> Result<Vec<OsString>> {
    if let Some(line) = shell {
        return Ok(vec!["/bin/sh".into(), "-c".into(), line]);
    }
    match command.first() {
        Some(program) if !program.is_empty() => Ok(command),
        _ => bail!("the command is empty: name a program after '--'"),
    }
}
