//! While the keeper holds the locks.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Pid;

use super::{Keeper, LEAVING, LifeLine, Plan, holder, how, some};
use crate::lock::server::keeper::Task;
use crate::lock::server::lease::{Ending, heartbeat};
use crate::lock::server::news::{Given, Kept, News, Order};
use crate::lock::server::page::Page;
use crate::lock::server::pause::{Alarm, Pause};
use crate::lock::server::row::{CallKind, NotedMode};
use crate::lock::{Grant, Held, Holder, Loss, LossKind, Lost, Note, Released, Wakes};
use crate::record::Claim;
use crate::sys::{self, suspend_aware_now};
use crate::token::{ServerToken, TokenRow};

pub struct Grants {
    grants: Vec<Given>,
    rows: Vec<Kept>,
}

/// Locks on a server that a keeper holds for us.
pub struct ServerHeld {
    plan: Rc<Plan>,
    keeper: Keeper,
    life: LifeLine,
    identity: String,
    grants: Vec<Given>,
    rows: Vec<Kept>,
    /// Whether it is settled when COMMAND is killed.
    is_ending: bool,
    /// Whether the store has taken a lock away.
    is_certain: bool,
    /// Whether the keeper has looked who holds it then.
    has_looked: bool,
    /// Whether renewing has failed, as the keeper says.
    is_in_trouble: bool,
    alarm: Alarm,
    /// All of us were stopped until it was too late; for so long.
    stopped_for: Option<Duration>,
    command: Option<i32>,
    released: Option<Released>,
    is_settled: bool,
}

impl Grants {
    pub(super) fn new(grants: Vec<Given>, rows: Vec<Kept>) -> Self {
        Self { grants, rows }
    }
}

impl ServerHeld {
    /// `alarm`: from the wait.
    pub(super) fn new(
        plan: Rc<Plan>,
        keeper: Keeper,
        life: LifeLine,
        identity: String,
        alarm: Alarm,
        grants: Grants,
    ) -> Self {
        let Grants { grants, rows } = grants;
        Self {
            plan,
            keeper,
            life,
            identity,
            grants,
            rows,
            is_ending: false,
            is_certain: false,
            has_looked: false,
            is_in_trouble: false,
            alarm,
            stopped_for: None,
            command: None,
            released: None,
            is_settled: false,
        }
    }

    /// Whether a token can stand for the locks.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// The token was printed: from now on it stands for the locks.
    pub fn let_token_stand(self) {
        self.keeper.order(&Order::Stand);
    }

    /// The token for the locks, which are called `name`.
    pub fn token(&self, name: &str) -> ServerToken {
        let row = |given: &Given| TokenRow {
            lock: given.lock.clone(),
            id: given.id.clone(),
            is_outer: !self.rows.iter().any(|row| row.id == given.id),
        };
        ServerToken {
            store: self.plan.server.reference(),
            prefix: self.plan.server.prefix.clone(),
            identity: self.identity.clone(),
            rows: self.grants.iter().map(row).collect(),
            term: self.plan.request.token.and_then(|terms| terms.term),
            name: name.into(),
            fence: self.grants.first().map_or(0, |grant| grant.fence),
            slot: self.grants.first().and_then(|grant| grant.slot),
        }
    }

    /// Another keeper goes on with the same rows.
    fn start_another(&mut self) {
        let plan = Rc::clone(&self.plan);
        let Ok(page) = Page::new() else { return };
        page.set_attempt(self.keeper.page.attempt());
        page.set_lease(self.keeper.page.lease());
        page.set_ttl(self.keeper.page.ttl());
        page.set_valid_until(self.keeper.page.valid_until());
        let task = Task::GoOn(self.rows.clone());
        // Without one the lease ends, and the command in time before it.
        if let Ok(keeper) = Keeper::start(&plan, task, some(&self.identity), &self.life, page) {
            self.keeper = keeper;
            if let Some(pid) = self.command {
                self.keeper.order(&Order::Started(pid));
            }
        }
    }

    fn ending(&self) -> Ending {
        Ending::new(self.keeper.page.valid_until(), self.keeper.page.ttl(), self.plan.kill_after)
    }

    fn is_awake(&self) {
        self.alarm.ring(suspend_aware_now(), heartbeat(self.plan.request.ttl));
    }

    /// For how long neither we nor the keeper did anything, until after the time to
    /// end COMMAND.
    fn slept_through(&self) -> Option<Duration> {
        let (now, alive_at) = (suspend_aware_now(), self.keeper.page.alive_at());
        let keepers = match self.keeper.hangs_at(&self.plan) <= now {
            true => Pause { from: alive_at, until: now },
            false => self.keeper.page.pause(),
        };
        let (pauses, term_at) = ([self.alarm.pause(), keepers], self.ending().term_at);
        let is_long = pauses.iter().all(|pause| pause.until >= term_at);
        pauses.into_iter().map(Pause::length).min().filter(|_| is_long)
    }

    /// Why a lock is gone, as a clause.
    fn why(&self, otherwise: &str) -> String {
        match self.stopped_for.filter(|_| !self.is_in_trouble) {
            Some(time) => {
                let time = crate::duration::display(time);
                format!("lockrun, or this machine, was stopped for {time}, and the lease ended meanwhile")
            }
            None => otherwise.into(),
        }
    }

    fn heard(&mut self, news: News) -> Option<Loss> {
        match news {
            News::Trouble { text } => {
                self.is_in_trouble = true;
                let left = self.ending().term_at.saturating_sub(suspend_aware_now());
                (self.plan.tell)(&format!(
                    "the lock cannot be renewed: {text}; trying again, the command is ended in {} otherwise",
                    crate::duration::display(left)
                ));
            }
            News::Settled => self.is_settled = true,
            News::WorksAgain => {
                self.is_in_trouble = false;
                (self.plan.tell)("the lock was renewed");
            }
            News::Removed { holder } => self.plan.tell_removed(*holder),
            News::Called(call) => {
                let kill_after = call.kill_after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                let kind = match call.what {
                    CallKind::Break => LossKind::Broken,
                    CallKind::Replace => LossKind::Replaced,
                };
                let lost = Lost { kind, ..self.lost(None, how(&call)) };
                return Some(Loss { lost, kill_at: kill_after.map(|after| suspend_aware_now().saturating_add(after)) });
            }
            News::Lost { lock } => {
                self.is_certain = true;
                self.keeper.order(&Order::Heard);
                let lost = self.lost(Some(&lock), self.why("the store has taken it away"));
                return Some(Loss { lost, kill_at: Some(suspend_aware_now()) });
            }
            News::Released { later } => {
                self.released = Some(later.map_or(Released::Done, Released::Later));
            }
            News::Holders { holders } => {
                self.plan.set_holders(holders);
                self.has_looked = true;
            }
            News::Connected { .. }
            | News::PlaceLost { .. }
            | News::Granted { .. }
            | News::Refused(_)
            | News::GaveUp(_)
            | News::Failed { .. } => {}
        }
        None
    }

    fn lost(&self, lock: Option<&str>, how: String) -> Lost {
        let first = self.grants.first().map(|grant| grant.lock.as_str());
        Lost { name: self.plan.name_of(lock.or(first).unwrap_or_default()), kind: LossKind::Gone, how }
    }

    /// Everything that the keeper has said. Returns a loss that is news.
    fn hear(&mut self) -> Option<Loss> {
        loop {
            match self.keeper.news() {
                Ok(Some(news)) => {
                    if let Some(loss) = self.heard(news) {
                        return Some(loss);
                    }
                }
                Ok(None) => {
                    if !self.is_certain
                        && self.released.is_none()
                        && self.keeper.hangs_at(&self.plan) <= suspend_aware_now()
                    {
                        self.keeper.kill();
                        self.start_another();
                    }
                    return None;
                }
                Err(_) => {
                    if self.released.is_none() {
                        self.start_another();
                    }
                    return None;
                }
            }
        }
    }
}

impl Held for ServerHeld {
    fn settle(&mut self, _claim: &Claim) -> Result<()> {
        Ok(())
    }

    fn grants(&self) -> Vec<Grant> {
        let strength = |slot: Option<u32>| match (slot, &self.plan.request.mode) {
            (Some(slot), _) => slot.to_string(),
            (None, NotedMode::Shared) => "s".into(),
            (None, _) => "x".into(),
        };
        let grant = |given: &Given| Grant {
            name: self.plan.name_of(&given.lock),
            file: String::new(),
            fence: given.fence,
            slot: given.slot,
            marker: format!("{}:{}:{}:{}", self.identity, given.id, given.fence, strength(given.slot)),
        };
        self.grants.iter().map(grant).collect()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.life.write.as_raw_fd()]
    }

    fn wakes(&self) -> Wakes<'_> {
        let line: BorrowedFd<'_> = self.keeper.line.as_fd();
        let is_over = self.is_ending || self.rows.is_empty();
        let ends = Some(self.ending().term_at).filter(|_| !is_over);
        let hangs = Some(self.keeper.hangs_at(&self.plan)).filter(|_| !self.is_certain);
        let at = ends.into_iter().chain(hangs).min();
        self.is_awake();
        self.alarm.set(at);
        Wakes { descriptor: Some(line), at }
    }

    fn started(&mut self, command: Pid) {
        let pid = command.as_raw_nonzero().get();
        self.command = Some(pid);
        self.keeper.order(&Order::Started(pid));
    }

    fn tend(&mut self) -> Option<Loss> {
        self.is_awake();
        self.stopped_for = self.stopped_for.or_else(|| self.slept_through());
        // The clock first: after a suspend nothing else matters.
        let ending = self.ending();
        let is_due = !self.rows.is_empty() && ending.term_at <= suspend_aware_now();
        let heard = self.hear();
        let is_due = is_due && self.ending().term_at <= suspend_aware_now();
        let loss = heard.or_else(|| {
            let how = || self.why("the store could not be reached in time");
            (is_due && !self.is_ending).then(|| Loss { lost: self.lost(None, how()), kill_at: Some(ending.kill_at) })
        });
        self.is_ending |= loss.as_ref().is_some_and(|loss| loss.kill_at.is_some());
        loss
    }

    fn successors(&mut self, limit: Duration) -> Option<Vec<Holder>> {
        let until = Instant::now() + limit;
        while self.is_certain && !self.has_looked {
            match self.keeper.news() {
                Ok(Some(news)) => drop(self.heard(news)),
                Ok(None) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let _ = sys::is_readable(&self.keeper.line, Some(left));
                }
                Err(_) => return None,
            }
        }
        self.is_certain.then(|| self.plan.holders.borrow().iter().cloned().map(holder).collect())
    }

    fn note(&mut self, note: &Note<'_>) {
        if let Note::Expires(at) = note {
            self.keeper.order(&Order::Expires(at.map(str::to_owned)));
        }
    }

    fn release(&mut self, limit: Duration) -> Result<Released> {
        // After a loss there is nothing to release, or no keeper that could.
        let limit = if self.is_ending { limit.min(LEAVING) } else { limit };
        self.keeper.order(&Order::Release);
        let until = Instant::now() + limit;
        let mut has_restarted = false;
        loop {
            match self.keeper.news() {
                Ok(Some(news)) => drop(self.heard(news)),
                Ok(None) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() && self.is_ending {
                        return Ok(Released::Done);
                    }
                    if left.is_zero() {
                        return Ok(Released::Later("no answer in time".into()));
                    }
                    let _ = sys::is_readable(&self.keeper.line, Some(left));
                }
                Err(_) if !std::mem::replace(&mut has_restarted, true) => {
                    self.start_another();
                    self.keeper.order(&Order::Release);
                }
                Err(_) => return Ok(Released::Later("the process that renews it was ended".into())),
            }
            if let Some(released) = self.released.take() {
                return Ok(if self.is_ending { Released::Done } else { released });
            }
        }
    }
}
