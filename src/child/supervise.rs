//! From the start of COMMAND to its end: one loop that reads signals.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, WaitStatus, getpid, getsid, wait};

use super::Ended;
use super::cause::Cause;
use super::renewals::{Renewals, Term};
use super::sleep::Sleep;
use super::tree::{Signalled, Tree};
use crate::lock::{Held, Loss, Wakes};
use crate::message;
use crate::process;
use crate::sys::{self, Arrived, LetGo, Mask, Timer};

/// What to do with COMMAND besides waiting for it.
pub struct Supervision<'a> {
    pub command: Pid,
    /// Everything that COMMAND starts.
    pub tree: Tree,
    /// When COMMAND has to end, on the clock of [`sys::suspend_aware_now`].
    pub expires: Option<Duration>,
    /// Requests to change `expires`.
    pub renewals: Option<Box<dyn Renewals + 'a>>,
    /// Wakes us for `expires` and for the lock, even after a suspend. Made before
    /// COMMAND is started.
    pub timer: Option<&'a Timer>,
    /// From TERM to KILL.
    pub kill_after: Duration,
    /// Whether to wait for everything that COMMAND started, too.
    pub hold_tree: bool,
    pub name: &'a str,
    pub early: EarlySignals,
}

/// Signals from before the supervision.
#[derive(Clone, Copy)]
pub enum EarlySignals {
    /// COMMAND was started after these became pending, so it did not get even those
    /// that the terminal sent to the whole group.
    Pending(Mask),
    /// COMMAND's process is older than any unread signal. This is the last one that was
    /// read.
    Read(Option<Arrived>),
}

impl EarlySignals {
    fn arrived(self) -> Option<Arrived> {
        if let EarlySignals::Read(arrived) = self { arrived } else { None }
    }
}

/// How the supervision ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ended: Ended,
    /// Why we ended COMMAND, if we did.
    pub cause: Option<Cause>,
}

/// Pause between two rounds of KILL: a process that forks all the time may have left a
/// child.
const KILL_ROUND: Duration = Duration::from_millis(20);
/// The same if some may not be killed by us.
const REFUSED_ROUND: Duration = Duration::from_secs(1);

/// Supervises COMMAND until it (or its whole tree) has ended, and tends the lock. Every
/// signal must be blocked. Fails if the timer cannot be set.
pub fn supervise(mut plan: Supervision, held: &mut impl Held) -> io::Result<Outcome> {
    if let Some(signal) = sys::take_missed_stop() {
        let _ = sys::send(plan.command, signal);
    }
    let mut supervisor = Supervisor::new();
    let mut sleep = Sleep::default();
    let mut arrived = plan.early.arrived();
    loop {
        if let Some(outcome) = arrived.and_then(|arrived| supervisor.take(&mut plan, arrived)) {
            return Ok(outcome);
        }
        supervisor.reap(&mut plan);
        if let Some(outcome) = supervisor.outcome(&plan) {
            return Ok(outcome);
        }
        if plan.tree.has_more_to_ask() {
            supervisor.ask_tree(&mut plan);
        }
        if std::mem::take(&mut supervisor.has_to_stop) && supervisor.stopped {
            sys::stop_by(libc::SIGSTOP);
        }
        let Wakes { descriptor, at } = held.wakes();
        // Once the time of KILL is known, only an earlier one matters.
        let at = at.filter(|_| supervisor.kill_by.is_none());
        sleep.arm(plan.timer, supervisor.next_time(&plan, at))?;
        let until_at = at.map(|at| at.saturating_sub(sys::suspend_aware_now()));
        let limit = [supervisor.pause(), until_at].into_iter().flatten().min();
        let woken = sleep.until(descriptor, plan.renewals.as_deref(), limit)?;
        arrived = Some(woken.signal);
        if let Some(renewals) = plan.renewals.as_mut().filter(|_| woken.by_renewals.contains(&true)) {
            let term = Term { expires: &mut plan.expires, cause: supervisor.cause.as_ref() };
            renewals.serve(&woken.by_renewals, term, held);
        }
        if (woken.by_lock || at.is_some_and(|at| at <= sys::suspend_aware_now()))
            && let Some(loss) = held.tend()
        {
            supervisor.lose(&mut plan, loss);
        }
    }
}

/// Reaps all children that have ended, so that none stays a zombie while we go on.
pub fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No end asked for.
    Running,
    /// TERM was sent; KILL follows at `kill_at`.
    Terminated { kill_at: Instant },
    /// KILL was sent.
    Killed { again_at: Instant },
}

struct Supervisor {
    ended: Option<Ended>,
    stopped: bool,
    /// The terminal stopped COMMAND; we have not yet stopped with it.
    has_to_stop: bool,
    /// COMMAND was continued; our own CONT for it is still unread.
    continued_with_us: bool,
    phase: Phase,
    cause: Option<Cause>,
    /// Latest time of KILL, since boot: the lease ends then.
    kill_by: Option<Duration>,
    /// Early signals that were passed on.
    early_taken: Vec<i32>,
    told_refused: bool,
}

impl Supervisor {
    fn new() -> Self {
        Self {
            ended: None,
            stopped: false,
            has_to_stop: false,
            continued_with_us: false,
            phase: Phase::Running,
            cause: None,
            kill_by: None,
            early_taken: Vec::new(),
            told_refused: false,
        }
    }

    /// Handles what arrived. Returns the outcome if there is nothing more to wait for.
    fn take(&mut self, plan: &mut Supervision, arrived: Arrived) -> Option<Outcome> {
        match arrived {
            Arrived::Timer => self.on_timer(plan),
            Arrived::LetGo { ask: LetGo::Replace, sender } => self.end_tree(plan, Cause::Replaced(sender)),
            Arrived::LetGo { ask: LetGo::Break, sender } => self.end_tree(plan, Cause::Broken(sender)),
            Arrived::Nothing => self.kill_if_due(plan),
            Arrived::Child { ended } => {
                // wait(2) is called later, because the next holder waits for the lock.
                if let Some((pid, ended)) = ended
                    && pid == plan.command.as_raw_nonzero().get()
                {
                    self.ended = Some(ended.map_or_else(Ended::Signal, Ended::Code));
                }
                return self.outcome(plan).filter(|_| !plan.hold_tree && self.cause.is_none());
            }
            Arrived::Signal { number, from_kernel, sender } => {
                // Before a CONT is passed on: COMMAND may have been continued already.
                self.reap(plan);
                self.pass_on(plan, number, from_kernel, sender);
            }
        }
        None
    }

    /// Reads the state of our children before every sleep, so that no change is missed.
    fn reap(&mut self, plan: &mut Supervision) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
        while let Ok(Some((pid, status))) = wait(options) {
            if pid == plan.command {
                self.command_changed(status);
            } else if !status.stopped() && !status.continued() {
                plan.tree.forget(pid);
            }
        }
    }

    fn command_changed(&mut self, status: WaitStatus) {
        if let Some(code) = status.exit_status() {
            self.ended = Some(Ended::Code(code as u8));
        } else if let Some(signal) = status.terminating_signal() {
            self.ended = Some(Ended::Signal(signal));
        } else if let Some(signal) = status.stopping_signal() {
            self.stopped = true;
            self.continued_with_us = false;
            // The terminal stops the whole job, of which we are a part; SIGSTOP is
            // meant for COMMAND alone.
            self.has_to_stop = sys::STOPPING.contains(&signal);
        } else if status.continued() {
            self.continued_with_us = self.stopped;
            self.stopped = false;
        }
    }

    fn outcome(&self, plan: &Supervision) -> Option<Outcome> {
        let ended = self.ended?;
        let waits_for_tree = plan.hold_tree || self.cause.is_some();
        (!waits_for_tree || plan.tree.is_empty()).then_some(Outcome { ended, cause: self.cause.clone() })
    }

    /// The longest sleep.
    fn pause(&self) -> Option<Duration> {
        let until = match self.phase {
            Phase::Running => return None,
            Phase::Terminated { kill_at } => kill_at,
            Phase::Killed { again_at } => again_at,
        };
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The next time at which the timer has to wake us.
    fn next_time(&self, plan: &Supervision, lease: Option<Duration>) -> Option<Duration> {
        let expires = plan.expires.filter(|_| self.cause.is_none());
        [expires, lease, self.kill_by].into_iter().flatten().min()
    }

    fn on_timer(&mut self, plan: &mut Supervision) {
        let now = sys::suspend_aware_now();
        if let Some(at) = plan.expires.filter(|at| *at <= now && self.cause.is_none()) {
            self.end_tree(plan, Cause::Expired(at));
        }
        if self.kill_by.is_some_and(|at| at <= now) {
            self.kill_by = None;
            self.kill_within(plan, Duration::ZERO);
        }
    }

    /// Ends COMMAND before the lock is granted to others, even if it is being ended for
    /// another reason.
    fn lose(&mut self, plan: &mut Supervision, loss: Loss) {
        if self.cause.is_none() {
            self.end_tree(plan, Cause::Lost(loss.lost));
        }
        if let Some(at) = loss.kill_at {
            self.kill_by = Some(self.kill_by.map_or(at, |by| by.min(at)));
            self.kill_within(plan, at.saturating_sub(sys::suspend_aware_now()));
        }
    }

    fn kill_within(&mut self, plan: &Supervision, limit: Duration) {
        if let Phase::Terminated { kill_at } = &mut self.phase {
            let now = Instant::now();
            *kill_at = (*kill_at).min(now.checked_add(limit).unwrap_or(*kill_at));
            self.kill_if_due(plan);
        }
    }

    fn end_tree(&mut self, plan: &mut Supervision, cause: Cause) {
        if self.cause.is_some() {
            if let Cause::Broken(_) = cause {
                self.kill_within(plan, Duration::ZERO);
            }
            return;
        }
        self.cause = Some(cause);
        self.ask_tree(plan);
        let now = Instant::now();
        self.phase = Phase::Terminated { kill_at: now.checked_add(plan.kill_after).unwrap_or(now + FAR) };
    }

    fn ask_tree(&mut self, plan: &mut Supervision) {
        let signalled = plan.tree.ask_to_end(self.command_left(plan));
        self.tell_refused(plan, &signalled.refused);
    }

    fn signal_tree(&self, plan: &Supervision, signal: i32) -> Signalled {
        plan.tree.signal(signal, self.command_left(plan))
    }

    fn command_left(&self, plan: &Supervision) -> Option<Pid> {
        Some(plan.command).filter(|_| self.ended.is_none())
    }

    fn kill_if_due(&mut self, plan: &Supervision) {
        let due = match self.phase {
            Phase::Running => return,
            Phase::Terminated { kill_at } => kill_at,
            Phase::Killed { again_at } => again_at,
        };
        if due > Instant::now() {
            return;
        }
        let signalled = self.signal_tree(plan, libc::SIGKILL);
        self.tell_refused(plan, &signalled.refused);
        if self.ended.is_some() && !process::proc_is_ours() && !plan.tree.is_empty() {
            let unseen = "what the command started cannot be seen without /proc, so it was not ended; \
                the lock stays held until it ends";
            self.tell_once(plan, unseen);
        }
        let round = if signalled.refused.is_empty() { KILL_ROUND } else { REFUSED_ROUND };
        self.phase = Phase::Killed { again_at: Instant::now() + round };
    }

    fn tell_refused(&mut self, plan: &Supervision, refused: &[i32]) {
        let [pid, ..] = refused else { return };
        let text = format!("pid {pid} belongs to another user, so we cannot end it; the lock stays held until it ends");
        self.tell_once(plan, &text);
    }

    fn tell_once(&mut self, plan: &Supervision, text: &str) {
        if !std::mem::replace(&mut self.told_refused, true) {
            message::tell_about(plan.name, text);
        }
    }

    fn pass_on(&mut self, plan: &Supervision, signal: i32, from_kernel: bool, sender: i32) {
        let us = getpid().as_raw_nonzero().get();
        let command = plan.command.as_raw_nonzero().get();
        // COMMAND did not exist yet, so the kernel sent it nothing.
        let from_kernel = from_kernel && !self.take_early(plan, signal);
        match signal {
            // Our own doing (SIGPIPE), or COMMAND signalled its whole group.
            _ if sender == us || sender == command => {}
            // COMMAND, which would have stopped the job, has ended.
            _ if from_kernel && self.ended.is_some() && sys::STOPPING.contains(&signal) => sys::stop_by(signal),
            // The kernel signals the whole foreground group, so COMMAND has it already.
            // Only a hang-up, and the CONT after it, go to the session leader alone.
            libc::SIGHUP | libc::SIGCONT if from_kernel && !is_session_leader() => {}
            libc::SIGINT | libc::SIGQUIT | libc::SIGWINCH if from_kernel => {}
            _ if from_kernel && sys::STOPPING.contains(&signal) => {}
            // A shell continues the whole job.
            libc::SIGCONT if std::mem::take(&mut self.continued_with_us) => {}
            libc::SIGCONT => {
                self.stopped = false;
                self.send(plan, signal);
            }
            signal => self.send(plan, signal),
        }
    }

    fn take_early(&mut self, plan: &Supervision, signal: i32) -> bool {
        let EarlySignals::Pending(pending) = plan.early else { return false };
        let is_early = pending.has(signal) && !self.early_taken.contains(&signal);
        if is_early {
            self.early_taken.push(signal);
        }
        is_early
    }

    fn send(&self, plan: &Supervision, signal: i32) {
        if self.ended.is_some() {
            // --hold tree: the rest of the tree.
            self.signal_tree(plan, signal);
            return;
        }
        if sys::send(plan.command, signal) == Err(rustix::io::Errno::PERM) {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
            let text = format!("{name} cannot be passed on to the command, which runs as another user; still waiting");
            message::tell_about(plan.name, &text);
        }
    }
}

/// Longer than any machine stays up.
const FAR: Duration = Duration::from_secs(1 << 32);

fn is_session_leader() -> bool {
    getsid(None).is_ok_and(|session| session == getpid())
}
