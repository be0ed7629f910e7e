//! Waiting in the queue of lock files: in a child that becomes COMMAND, or with
//! `--exec` in this process itself.

use anyhow::{Context, Result};

use super::engine::{self, AnyHeld, FileHeld, FileQueued};
use super::grantee::Grantee;
use super::run::{Job, Running};
use crate::child::{EarlySignals, Tree, Waiter, WaitingChild, Watch};
use crate::exit::Exit;
use crate::lock::{Engine, Held, NotGranted, Patience, Waited};
use crate::message;
use crate::sys::{self, Arrived, Cohabitant};
use crate::waiting::Verbosity;

/// What ends or stops a wait of PID 1, besides TERM.
const CAUGHT_AS_INIT: [i32; 10] = [
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGPIPE,
];

impl Job {
    /// Waits, and runs COMMAND once the lock is granted. Otherwise nothing of the lock
    /// is kept.
    pub(super) fn wait_in_queue(&mut self, place: FileQueued) -> Result<Waited<Exit>> {
        if self.become_command { self.wait_and_become(place) } else { self.wait_in_child(place) }
    }

    /// A child waits for the lock and becomes COMMAND, while we watch.
    fn wait_in_child(&mut self, place: FileQueued) -> Result<Waited<Exit>> {
        let tree = Tree::of_what_follows(engine::is_token_keeper);
        let mut waiting = self.request.waiting();
        let notify = self.expires.is_some() || waiting.is_living() || self.request.verbosity == Verbosity::Verbose;
        // The parent watches the time limit.
        let patience = self.request.patience.of_watched();
        // They must not wait for each other: if the child has to wake us, or with
        // several locks may wait for a door after a grant, it is forked.
        let is_beside = !notify && place.is_for_one_lock_alone() && Cohabitant::may_start();
        let beside = if is_beside { self.wait_beside(&place, patience)? } else { None };
        let (waiter, mut place) = match beside {
            Some(waiter) => (waiter, place),
            None => Waiter::fork(place, notify, wait_for(self.grantee()?, patience), become_command)
                .context("cannot start a process that waits")?,
        };
        place.leave_to_child();
        let granted = match waiter.watch(&self.request.patience, &mut waiting)? {
            Ok(granted) => granted,
            Err(not) => return Ok(Err(not)),
        };
        self.request.tell_granted();
        let granted_at = waiter.granted_at();
        let supervision = self.supervision(granted.child, tree, granted_at, EarlySignals::Read(granted.arrived));
        let mut held = AnyHeld::Files(place.into_held());
        held.started(granted.child);
        let exit = self.finish(Running { held, supervision, granted_at, fence: waiter.fence() })?;
        if let Some(failure) = waiter.failure() {
            return Err(failure);
        }
        let exit = waiter.exec_errno().map_or(exit, |errno| self.not_executed(errno).tell(&self.request.name));
        // The kernel frees its memory at the exit.
        std::mem::forget(waiter);
        Ok(Ok(exit))
    }

    /// Starts the child in our memory. `None`: a sandbox refuses that.
    fn wait_beside(&self, place: &FileQueued, patience: Patience) -> Result<Option<Waiter>> {
        let grantee = self.grantee()?;
        let room = grantee.exec.room();
        let theirs = place.of_cohabitant();
        let wait = wait_for(grantee, patience);
        Ok(Waiter::cohabit(room, move || wait(theirs), become_command).ok())
    }

    /// `--exec`: this process sleeps with the caller's signals, which may simply end
    /// it.
    fn wait_and_become(&mut self, mut place: FileQueued) -> Result<Waited<Exit>> {
        self.request.tell_verbose(|| message::held_by(&self.request.engine.holders()));
        // For PID 1 the kernel drops signals that are not caught.
        let catch: &[i32] = if rustix::process::getpid().is_init() { &CAUGHT_AS_INIT } else { &sys::STOPPING };
        let interrupter = sys::Interrupter::new(self.request.patience.left(), catch, &self.request.patience.mask)
            .context("cannot make a timer")?;
        let mut grantee = self.grantee()?;
        grantee.foretell(&mut place)?;
        let turn = place.wait_for_turn(&self.request.patience)?;
        drop(interrupter);
        match (turn, sys::take_caught()) {
            (Ok(()), Some(Arrived::Signal { number, .. })) if sys::STOPPING.contains(&number) => {
                // Too late to leave the queue. The signal is blocked now, and stops us
                // when we become COMMAND.
                let _ = sys::send(rustix::process::getpid(), number);
                self.become_command(grantee, AnyHeld::Files(place.into_held())).map(Ok)
            }
            (_, Some(Arrived::Signal { number, .. })) if sys::STOPPING.contains(&number) => {
                Ok(Err(NotGranted::Stopped(number)))
            }
            (_, Some(Arrived::Signal { number, .. })) => Ok(Err(NotGranted::Ended(number))),
            (_, Some(Arrived::LetGo { ask, sender })) => Ok(Err(NotGranted::AskedToLetGo { ask, sender })),
            (Ok(()), _) => self.become_command(grantee, AnyHeld::Files(place.into_held())).map(Ok),
            (Err(not), _) => Ok(Err(not)),
        }
    }
}

/// What the child does: prepares everything and waits.
fn wait_for(
    mut grantee: Grantee,
    patience: Patience,
) -> impl FnOnce(FileQueued) -> Result<Waited<(Grantee, FileHeld)>> {
    move |mut place| {
        grantee.foretell(&mut place)?;
        Ok(place.wait_for_turn(&patience)?.map(|()| (grantee, place.into_held())))
    }
}

/// What the child does after the grant.
fn become_command((mut grantee, mut held): (Grantee, FileHeld), granted: &WaitingChild) {
    match grantee.settle(&mut held) {
        Ok(fence) => granted.set_fence(fence),
        Err(error) => granted.failed(&error),
    }
    granted.let_go_of_parent();
    granted.exec_failed(granted.exec(&grantee.exec))
}
