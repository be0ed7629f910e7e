//! Waiting for a lock in a child process.
//!
//! The child sleeps in the kernel until the lock is granted, and then becomes COMMAND,
//! so that the hand-over starts no process. The parent watches signals and the clock.
//! An atomic word that both share decides between the grant and the parent's
//! cancelling, and again between the start of COMMAND and a parent that has to end
//! while the child records the grant.
//!
//! A child that is stopped or hangs in slow storage is killed, and left behind if it
//! does not end, so the parent's wait is always limited.
//!
//! Usually the child lives in our memory, see [`Cohabitant`]; it is forked where the
//! two might wait for each other.
//!
//! They share an eventfd(2) that closes on exec. The child wakes the parent by it,
//! because a signal might reach COMMAND, and other processes see by it which parent
//! watches a child.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use rustix::thread::futex;

use super::outcome::{
    AGAIN, CANCELLED, CLEARED, FAILED, GRANTED, NOTHING_SHOWN, OutcomeMemory, REFUSALS, REFUSED, SHOWN, STARTING,
    SharedOutcome, WAITING,
};
use super::waiting_child::{WaitingChild, live};
use crate::lock::{NotGranted, Patience, Waited};
use crate::process;
use crate::sys::{self, Arrived, Cohabitant, Forked, Shared, SignalFd};

/// The child's helpers die with it (`PR_SET_PDEATHSIG`); this limits the wait.
const HELPERS_END: Duration = Duration::from_secs(5);

/// Numbering and recording a grant takes less, unless the disk is slow or the child was
/// stopped.
const SETTLED: Duration = Duration::from_millis(30);

/// What people see while we wait.
pub trait Watch {
    /// Shows the current state. Returns when it wants to be called again; `None`:
    /// never.
    fn look(&mut self) -> Option<Instant>;

    /// Whether what is shown has to vanish before COMMAND writes.
    fn is_living(&self) -> bool;

    /// Clears what is shown: the wait is over or interrupted.
    fn hide(&mut self);

    /// The process of `--owner`, whose end ends the wait.
    fn owner(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The child has the lock and becomes COMMAND.
#[derive(Clone, Copy, Debug)]
pub struct GrantedChild {
    pub child: Pid,
    /// What woke us, not yet handled.
    pub arrived: Option<Arrived>,
}

/// The parent's side of a waiting child.
pub struct Waiter {
    outcome: OutcomeMemory,
    child: Pid,
    event: OwnedFd,
    signals: SignalFd,
    /// If the child lives in our memory.
    cohabitant: Option<Cohabitant>,
}

/// How the wait ended while the child had the baton.
struct GivenUp(NotGranted);

/// At most this many signals are pending, without real-time ones.
const SIGNALS: usize = 64;

/// Enough for what the child does before it is COMMAND.
const STACK: usize = 512 * 1024;

impl Waiter {
    /// Forks a child that takes `place`, calls `wait`, and after the grant `then`. Also
    /// returns the parent's `place`. `notify`: the grant wakes the parent, which costs
    /// the hand-over some microseconds.
    ///
    /// # Crash
    /// A waiting child dies with its parent; the parent sees the child's end.
    pub fn fork<P, H>(
        place: P,
        notify: bool,
        wait: impl FnOnce(P) -> Result<Waited<H>>,
        then: impl FnOnce(H, &WaitingChild),
    ) -> Result<(Self, P)> {
        let outcome = Shared::<SharedOutcome>::zeroed()?;
        let (event, signals) = (new_event()?, SignalFd::of_all()?);
        let parent = getpid();
        if let Forked::Parent(child) = sys::fork()? {
            let outcome = OutcomeMemory::Mapped(outcome);
            return Ok((Self { outcome, child, event, signals, cohabitant: None }, place));
        }
        sys::end_with(parent);
        drop(signals);
        let event = Cell::new(Some(event));
        live(WaitingChild { outcome: &outcome, event, notify, lives_with_parent: false }, || wait(place), then)
    }

    /// As [`fork`](Self::fork), with a child in our memory, which makes the hand-over
    /// faster. `wait` and `then` own what they use, and sleep by [`sys::asleep`]; after
    /// the grant they wait for nothing but the kernel. `room`: their stack beyond the
    /// usual. Needs [`Cohabitant::may_start`].
    pub fn cohabit<H>(
        room: usize,
        wait: impl FnOnce() -> Result<Waited<H>> + 'static,
        then: impl FnOnce(H, &WaitingChild) + 'static,
    ) -> Result<Self> {
        // Never dropped here, even if the start fails: see Cohabitant::start.
        let acts = ManuallyDrop::new((wait, then));
        let outcome = Arc::new(SharedOutcome::default());
        let (event, signals) = (new_event()?, SignalFd::of_all()?);
        let its_outcome = Arc::clone(&outcome);
        let child = Cohabitant::start(STACK + room, move || {
            let (wait, then) = ManuallyDrop::into_inner(acts);
            let event = Cell::new(None);
            live(WaitingChild { outcome: &its_outcome, event, notify: false, lives_with_parent: true }, wait, then)
        })?;
        let outcome = OutcomeMemory::Ours(outcome);
        Ok(Self { outcome, child: child.pid(), event, signals, cohabitant: Some(child) })
    }

    /// Watches the child until the wait is over.
    ///
    /// # Errors
    /// The child failed, or was killed.
    pub fn watch(&self, patience: &Patience, watch: &mut impl Watch) -> Result<Waited<GrantedChild>> {
        let waited = self.watch_until_over(patience, watch);
        // A child that was reaped already may have lost its id to another process.
        if waited.is_err() {
            self.end_child();
        }
        watch.hide();
        if self.outcome.line.swap(CLEARED, Ordering::SeqCst) == SHOWN {
            let _ = futex::wake(&self.outcome.line, futex::Flags::empty(), 1);
        }
        waited
    }

    fn watch_until_over(&self, patience: &Patience, watch: &mut impl Watch) -> Result<Waited<GrantedChild>> {
        // Came while the grant was recorded, and is for COMMAND.
        let mut early = None;
        loop {
            // Announced before it is shown: a child that is granted the lock later
            // waits until the line has vanished.
            self.outcome.line.store(if watch.is_living() { SHOWN } else { NOTHING_SHOWN }, Ordering::SeqCst);
            if self.is_granted() {
                return Ok(self.granted(early));
            }
            let look = watch.look().map(|at| at.saturating_duration_since(Instant::now()));
            let limit = match self.is_settling() {
                true => Some(SETTLED),
                false => [look, patience.left()].into_iter().flatten().min(),
            };
            let arrived = match self.next_signal(limit, patience, watch.owner()) {
                Ok(arrived) => arrived,
                Err(GivenUp(not)) => return Ok(Err(not)),
            };
            let why = match arrived {
                Arrived::Child { .. } => match self.child_changed(Some(arrived))? {
                    Some(waited) => return Ok(waited),
                    None if has_ended(watch.owner()) => NotGranted::OwnerEnded,
                    None => continue,
                },
                Arrived::Signal { number, .. } if is_stopping(number) => NotGranted::Stopped(number),
                Arrived::Nothing if patience.left().is_some_and(|left| left.is_zero()) => NotGranted::TimedOut,
                // We ignore it, but COMMAND may not.
                Arrived::Signal { .. } if self.is_granted() => return Ok(self.granted(Some(arrived))),
                _ => match ending(arrived) {
                    Some(why) => why,
                    None if has_ended(watch.owner()) => NotGranted::OwnerEnded,
                    None => continue,
                },
            };
            match self.give_up(why, Some(arrived))? {
                Some(waited) => return Ok(waited),
                None => early = early.or(Some(arrived)),
            }
        }
    }

    fn next_signal(
        &self,
        limit: Option<Duration>,
        patience: &Patience,
        owner: Option<BorrowedFd<'_>>,
    ) -> Result<Arrived, GivenUp> {
        let sleep = || self.signals.wait_beside(&self.event, owner, limit);
        match &self.cohabitant {
            None => sleep(),
            Some(child) => {
                if !child.let_live(sleep) {
                    self.wait_for_baton(child, patience)?;
                }
            }
        }
        Ok(sys::next_signal(Some(Duration::ZERO)))
    }

    /// The child has the baton for longer than it needs: it was stopped, or its disk is
    /// slow. We can still give up, even after the grant, as long as it has not executed
    /// COMMAND.
    ///
    /// Without the baton, nothing here may allocate or change anything but atomics.
    fn wait_for_baton(&self, child: &Cohabitant, patience: &Patience) -> Result<(), GivenUp> {
        while !child.take_the_baton() {
            if sys::pending().iter().any(is_deadly) {
                self.outcome.change(WAITING, CANCELLED);
            } else if !(patience.is_over() && self.outcome.change(WAITING, CANCELLED)) {
                continue;
            }
            child.end();
            if sys::has_executed(self.child) == Some(true) {
                // It did so since we looked: COMMAND was started, and has ended.
                return Ok(());
            }
            self.reap();
            let arrived = std::iter::repeat_with(|| sys::next_signal(Some(Duration::ZERO)));
            return Err(GivenUp(arrived.take(SIGNALS).find_map(ending).unwrap_or(NotGranted::TimedOut)));
        }
        Ok(())
    }

    /// Whether the child is becoming COMMAND. One in our memory already is COMMAND, or
    /// has failed.
    fn is_granted(&self) -> bool {
        self.outcome.state.load(Ordering::SeqCst) == STARTING
    }

    /// Whether the child numbers and records the grant.
    fn is_settling(&self) -> bool {
        self.outcome.state.load(Ordering::SeqCst) == GRANTED && !sys::has_ended(self.child)
    }

    fn granted(&self, arrived: Option<Arrived>) -> Waited<GrantedChild> {
        Ok(GrantedChild { child: self.child, arrived })
    }

    /// Returns `result`, after the child's last word.
    fn over<T>(&self, result: T) -> T {
        self.end_child();
        result
    }

    fn reap(&self) {
        let _ = waitpid(Some(self.child), WaitOptions::NOHANG);
    }

    /// Ends the wait for this reason, unless the child was granted the lock or ended
    /// first. `None`: it was granted and soon starts COMMAND.
    fn give_up(&self, why: NotGranted, arrived: Option<Arrived>) -> Result<Option<Waited<GrantedChild>>> {
        let is_end = !matches!(why, NotGranted::TimedOut | NotGranted::Stopped(_));
        if self.outcome.change(WAITING, CANCELLED) || is_end && self.cancel_grant() {
            self.end_child();
            return Ok(Some(Err(why)));
        }
        if self.is_settling() {
            return Ok(None);
        }
        Ok(Some(match self.child_changed(arrived)? {
            Some(Err(NotGranted::Again)) | None => Err(why),
            Some(other) => other,
        }))
    }

    /// Cancels a grant whose slow child has not started COMMAND.
    fn cancel_grant(&self) -> bool {
        let asked = Instant::now();
        while self.is_settling() && asked.elapsed() < SETTLED {
            sys::nap(Duration::from_millis(1));
        }
        self.outcome.change(GRANTED, CANCELLED)
    }

    /// Ends the child and its helpers. On return none of them has any part of the lock,
    /// unless the kernel does not let it end.
    fn end_child(&self) {
        if sys::has_ended(self.child) {
            self.reap();
            return;
        }
        let helpers: Vec<_> = process::children(self.child.as_raw_nonzero().get())
            .into_iter()
            .filter_map(|pid| process::open(pid).ok().flatten())
            .collect();
        let has_ended = match &self.cohabitant {
            Some(child) => child.end(),
            None => sys::end_child(self.child),
        };
        self.reap();
        for helper in helpers.iter().filter(|_| has_ended) {
            process::wait_for_end(helper, HELPERS_END);
        }
    }

    fn child_changed(&self, arrived: Option<Arrived>) -> Result<Option<Waited<GrantedChild>>> {
        match self.outcome.state.load(Ordering::SeqCst) {
            // If it has ended, the supervisor handles that.
            STARTING => return Ok(Some(self.granted(arrived))),
            GRANTED => return Ok(sys::has_ended(self.child).then(|| self.granted(arrived))),
            AGAIN => return Ok(Some(self.over(Err(NotGranted::Again)))),
            FAILED => {
                self.over(());
                return Err(self.outcome.failure());
            }
            state => {
                if let Some(refusal) = state.checked_sub(REFUSED).and_then(|i| REFUSALS.get(i as usize)) {
                    return Ok(Some(self.over(Err(NotGranted::Refused(*refusal)))));
                }
            }
        }
        // Checked first: since we read the word it may have been granted, executed
        // COMMAND, and ended.
        if !sys::has_ended(self.child) {
            return Ok(None);
        }
        if !self.outcome.change(WAITING, CANCELLED) {
            return self.child_changed(arrived);
        }
        let status = waitpid(Some(self.child), WaitOptions::empty())?;
        let how = match status.and_then(|(_, status)| status.terminating_signal()) {
            Some(signal) => format!("was ended by signal {signal}"),
            None => "ended".into(),
        };
        bail!("the process that waited for the lock {how}; the command was not started");
    }

    /// When the lock was granted, since boot.
    pub fn granted_at(&self) -> Duration {
        Duration::from_nanos(self.outcome.granted_at.load(Ordering::SeqCst))
    }

    pub fn fence(&self) -> u64 {
        self.outcome.fence.load(Ordering::SeqCst)
    }

    pub fn exec_errno(&self) -> Option<i32> {
        Some(self.outcome.exec_errno.load(Ordering::SeqCst)).filter(|errno| *errno != 0)
    }

    /// What else failed in the child after the grant.
    pub fn failure(&self) -> Option<anyhow::Error> {
        (self.outcome.state.load(Ordering::SeqCst) == FAILED).then(|| self.outcome.failure())
    }
}

fn has_ended(process: Option<BorrowedFd<'_>>) -> bool {
    process.is_some_and(|process| sys::is_readable(process, Some(Duration::ZERO)) == Ok(true))
}

fn new_event() -> rustix::io::Result<OwnedFd> {
    sys::above_stdio(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Whether a signal ends this process when it is not blocked.
pub fn is_deadly(signal: i32) -> bool {
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    !harmless.contains(&signal) && !is_stopping(signal) && !sys::is_ignored(signal)
}

/// How what arrived ends a wait.
fn ending(arrived: Arrived) -> Option<NotGranted> {
    match arrived {
        Arrived::LetGo { ask, sender } => Some(NotGranted::AskedToLetGo { ask, sender }),
        Arrived::Signal { number, .. } if is_deadly(number) => Some(NotGranted::Ended(number)),
        _ => None,
    }
}

fn is_stopping(signal: i32) -> bool {
    sys::STOPPING.contains(&signal) && !sys::is_ignored(signal)
}
