//! A store of rows in memory, as etcd would show them, for tests of those that use one.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use super::queue::{Contender, Decision, Id, Mode, State, Until, foresee};
use super::row::{LockName, Note, Row, contenders};
use super::store::{
    Condition, Entered, Entry, Event, Granted, Kept, Lease, Look, Page, RowStore, Subject, Target, Trouble, Watch,
    Watched,
};
use crate::net::{Limits, Unreachable};
use crate::sys::suspend_aware_now;

/// A client of a store; a clone is another client of the same one.
#[derive(Clone)]
pub struct Memory(Rc<RefCell<Rows>>);

struct Rows {
    rows: Vec<(LockName, Row)>,
    /// Counts changes, and tells of them.
    revision: watch::Sender<u64>,
    /// So many requests fail.
    failures: usize,
    has_answered: bool,
}

impl Default for Memory {
    fn default() -> Self {
        let revision = watch::Sender::new(1);
        Self(Rc::new(RefCell::new(Rows { rows: Vec::new(), revision, failures: 0, has_answered: false })))
    }
}

impl Memory {
    /// The next requests fail, as if nobody were there.
    pub fn fail(&self, requests: usize) {
        self.0.borrow_mut().failures = requests;
    }

    /// How many changes there were.
    pub fn revision(&self) -> u64 {
        *self.0.borrow().revision.borrow()
    }

    /// The rows of a lock.
    pub fn rows(&self, lock: &LockName) -> Vec<Row> {
        self.0.borrow().rows(lock)
    }

    /// Returns when this has become true by a change.
    pub async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes = self.0.borrow().revision.subscribe();
        while !condition(self) {
            changes.changed().await.expect("the store is alive");
        }
    }

    async fn ask<T>(&self, answer: impl FnOnce(&mut Rows) -> T) -> Result<T, Trouble> {
        // Others have their turn meanwhile, as on a network.
        tokio::task::yield_now().await;
        let mut state = self.0.borrow_mut();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(Unreachable { faults: Vec::new(), was_sent: true }.into());
        }
        state.has_answered = true;
        Ok(answer(&mut state))
    }
}

impl Rows {
    fn rows(&self, lock: &LockName) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (_, row) in self.rows.iter().filter(|(name, _)| name == lock) {
            let mut row = row.clone();
            // The whole lock is granted by order alone.
            if row.contender.state == State::Waiting
                && let Decision::Take(None) = foresee(&contenders(&rows), row.contender.mode)
            {
                row.contender.state = State::Granted(None);
                row.fence = Some(row.order);
            }
            rows.push(row);
        }
        rows
    }

    fn look(&self, lock: &LockName) -> Look {
        Look { rows: self.rows(lock), at: *self.revision.borrow() }
    }

    fn next(&self) -> u64 {
        *self.revision.borrow() + 1
    }

    fn changed(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    fn change(&mut self, id: Id, change: impl FnOnce(&mut Row)) -> bool {
        let version = self.next();
        let Some((_, row)) = self.rows.iter_mut().find(|(_, row)| row.contender.id == id) else { return false };
        row.version = version;
        change(row);
        self.changed();
        true
    }

    fn remove(&mut self, which: impl Fn(&Row) -> bool) -> bool {
        let before = self.rows.len();
        self.rows.retain(|(_, row)| !which(row));
        let has_removed = self.rows.len() < before;
        if has_removed {
            self.changed();
        }
        has_removed
    }

    fn holds(&self, condition: Condition<'_>, entries: &[Entry<'_>]) -> bool {
        entries.iter().enumerate().all(|(place, entry)| {
            let mut rows = self.rows.iter().filter(|(lock, _)| lock == entry.lock);
            match condition {
                Condition::Always => true,
                Condition::Empty => rows.next().is_none(),
                Condition::Unchanged(looks) => rows.all(|(_, row)| row.version <= looks[place].at),
            }
        })
    }

    fn enter(&mut self, lease: Lease, entries: &[Entry<'_>], condition: Condition<'_>) -> Entered {
        let is_there = |id| self.rows.iter().any(|(_, row)| row.contender.id == id);
        if !entries.iter().all(|entry| is_there(entry.id)) {
            if !self.holds(condition, entries) {
                return Entered::No;
            }
            let at = self.next();
            for entry in entries {
                let state = entry.granted.map_or(State::Waiting, State::Granted);
                let row = Row {
                    contender: Contender { id: entry.id, mode: entry.mode, state },
                    order: at,
                    version: at,
                    fence: entry.granted.map(|_| at),
                    lease: lease.id,
                    key: entry.id.to_string(),
                    note: entry.note.clone(),
                };
                self.rows.push((entry.lock.clone(), row));
            }
            self.changed();
        }
        let looks = entries.iter().map(|entry| self.look(entry.lock)).collect();
        Entered::Yes { looks, until: suspend_aware_now() + lease.ttl }
    }

    /// What a watch has to tell by now.
    fn event(&self, watched: &mut Watched) -> Option<Event> {
        let row = |id: Id| self.rows(&watched.lock).into_iter().find(|row| row.contender.id == id);
        match &watched.subject {
            Subject::Row { id, until, .. } => match row(*id) {
                None => Some(Event::Moved),
                Some(row) => (*until == Until::Settled && row.version > watched.since).then_some(Event::Moved),
            },
            Subject::Own(id, _) => match row(*id) {
                None => Some(Event::Lost(*id)),
                Some(row) if row.version > watched.since => {
                    watched.since = row.version;
                    Some(Event::Called(*id, Box::new(row.note)))
                }
                Some(_) => None,
            },
            Subject::Anything => (*self.revision.borrow() > watched.since).then_some(Event::Moved),
        }
    }
}

/// Looks again after every change.
pub struct MemoryWatch {
    store: Memory,
    watched: Vec<Watched>,
    changes: watch::Receiver<u64>,
}

impl MemoryWatch {
    fn event(&mut self) -> Option<Event> {
        let rows = self.store.0.borrow();
        self.watched.iter_mut().find_map(|watched| rows.event(watched))
    }
}

impl Watch for MemoryWatch {
    async fn next(&mut self) -> Event {
        loop {
            self.changes.mark_unchanged();
            if let Some(event) = self.event() {
                return event;
            }
            self.changes.changed().await.expect("the store is alive");
        }
    }
}

impl RowStore for Memory {
    type Watch = MemoryWatch;

    fn description(&self) -> String {
        "memory".into()
    }

    fn identity(&self) -> Option<String> {
        self.0.borrow().has_answered.then(|| "1".into())
    }

    fn address(&self) -> String {
        "memory".into()
    }

    fn granted_ttl(&self, lease: Lease) -> Duration {
        lease.ttl
    }

    async fn look(&mut self, lock: &LockName, _: Limits) -> Result<Look, Trouble> {
        self.ask(|state| state.look(lock)).await
    }

    async fn enter(
        &mut self,
        lease: Lease,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        _: Limits,
    ) -> Result<Entered, Trouble> {
        self.ask(|state| state.enter(lease, entries, condition)).await
    }

    async fn turn(&mut self, lock: &LockName, _: (Id, Mode), _: Limits) -> Result<Look, Trouble> {
        self.ask(|state| state.look(lock)).await
    }

    async fn grant(
        &mut self,
        _: &LockName,
        me: Id,
        slot: Option<u32>,
        _: &Look,
        _: Limits,
    ) -> Result<Granted, Trouble> {
        self.ask(|state| {
            let mut fence = 0;
            let is_there = state.change(me, |row| {
                fence = row.order;
                (row.contender.state, row.fence) = (State::Granted(slot), Some(fence));
            });
            if is_there { Granted::Yes { fence } } else { Granted::Gone }
        })
        .await
    }

    async fn keep(
        &mut self,
        lease: Lease,
        rows: &[(&LockName, &Row)],
        _: &[Watched],
        _: Limits,
    ) -> Result<Kept, Trouble> {
        self.ask(|state| {
            let is_there = |row: &Row| state.rows.iter().any(|(_, now)| now.key == row.key && now.order == row.order);
            match rows.iter().all(|(_, row)| is_there(row)) {
                true => Kept::Yes { until: suspend_aware_now() + lease.ttl, is_our_turn: false },
                false => Kept::Gone,
            }
        })
        .await
    }

    async fn move_to(
        &mut self,
        lease: Option<Lease>,
        rows: &[(&LockName, &Row)],
        _: Limits,
    ) -> Result<Option<Duration>, Trouble> {
        self.ask(|state| {
            let id = lease.map_or(0, |lease| lease.id);
            let moved = rows.iter().all(|(_, row)| state.change(row.contender.id, |row| row.lease = id));
            moved.then(|| lease.map_or(Duration::MAX, |lease| suspend_aware_now() + lease.ttl))
        })
        .await
    }

    async fn amend(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        self.call(row, note, limits).await
    }

    async fn left(&mut self, _lock: &LockName, lease: u64, _: Limits) -> Result<Option<Duration>, Trouble> {
        // Nothing expires here.
        self.ask(|state| state.rows.iter().any(|(_, row)| row.lease == lease).then_some(Duration::MAX)).await
    }

    async fn leave(&mut self, _locks: &[&LockName], lease: u64, _: Limits) -> Result<bool, Trouble> {
        self.ask(|state| state.remove(|row| row.lease == lease)).await
    }

    async fn watch(&mut self, watched: &[Watched], _: Limits) -> Result<MemoryWatch, Trouble> {
        let store = self.clone();
        self.ask(|state| MemoryWatch { store, watched: watched.to_vec(), changes: state.revision.subscribe() }).await
    }

    async fn call(&mut self, (_, row): Target<'_>, note: &Note, _: Limits) -> Result<bool, Trouble> {
        self.ask(|state| {
            let is_as_seen = state.rows.iter().any(|(_, now)| now.key == row.key && now.version == row.version);
            is_as_seen && state.change(row.contender.id, |row| row.note = note.clone())
        })
        .await
    }

    async fn remove(&mut self, (_, row): Target<'_>, _: Limits) -> Result<bool, Trouble> {
        self.ask(|state| state.remove(|now| now.key == row.key && now.order == row.order)).await
    }

    async fn list(&mut self, _: Option<&str>, _: Limits) -> Result<Page, Trouble> {
        self.ask(|state| {
            let mut locks: Vec<(LockName, Vec<Row>)> = Vec::new();
            for (lock, _) in &state.rows {
                if locks.iter().all(|(known, _)| known != lock) {
                    locks.push((lock.clone(), state.rows(lock)));
                }
            }
            Page { locks, next: None }
        })
        .await
    }

    async fn prune(&mut self, _: Duration, _: bool, _: Limits) -> Result<usize, Trouble> {
        Ok(0)
    }
}
