//! From a request to its grant: enter the queue, decide, watch, renew the lease
//! meanwhile. Runs in the keeper.
//!
//! Several locks are taken in one step if all are free, and otherwise one after
//! the other in the order of their encoded names, all on one lease.

mod first_look;
#[cfg(test)]
mod tests;
mod turn;

use std::time::{Duration, SystemTime};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::Notify;

use super::lease::{ACCEPTED, PAUSE, each_try, renew_at};
use super::looks::{holders_of, own};
use super::news::{News, Refused};
use super::queue::Mode;
use super::request::{GrantedRow, Outcome, Request, Tenure};
use super::row::{Call, Note, Row};
use super::store::{Condition, Entered, Entry, Lease, Look, RowStore, Trouble};
use crate::net::Limits;
use crate::record::timestamp;
use crate::sys::suspend_aware_now;

/// A lease is made before the grant, but --at-least counts from the grant.
const GRANT_TAKES: Duration = Duration::from_secs(1);

/// How one lock's wait ended.
enum Turn {
    Granted,
    Lost,
    /// --max-waiters wait there already.
    Full,
    Called(Call),
    Refused(Refused),
}

enum FirstLook {
    Over(Outcome),
    /// All rows are entered and granted.
    Granted,
    Wait,
}

/// A holder that was called to let go, and when its row is removed.
struct Summons {
    row: Row,
    at: Duration,
}

pub struct Contest<'a, S> {
    store: &'a mut S,
    request: &'a Request,
    tell: &'a mut dyn FnMut(News),
    /// Somebody wants to know who is waited for.
    look: &'a Notify,
    attempt: u32,
    lease: Lease,
    until: Duration,
    /// Ours: granted ones, and the one that waits.
    rows: Vec<(usize, Row)>,
    /// Held around us, with --reentrant.
    covered: Vec<(usize, Row)>,
    /// Whether the store has answered.
    is_connected: bool,
    is_in_trouble: bool,
    summonses: Vec<Summons>,
    has_waited: bool,
    has_lease: bool,
}

impl<'a, S: RowStore> Contest<'a, S> {
    /// `attempt`: how many places in the queue were lost before.
    pub fn new(
        store: &'a mut S,
        request: &'a Request,
        attempt: u32,
        tell: &'a mut dyn FnMut(News),
        look: &'a Notify,
    ) -> Self {
        let lease = Lease { id: request.seed.lease(attempt, 0), ttl: request.ttl };
        Self {
            store,
            request,
            tell,
            look,
            attempt,
            lease,
            until: Duration::ZERO,
            rows: Vec::new(),
            covered: Vec::new(),
            is_connected: false,
            is_in_trouble: false,
            summonses: Vec::new(),
            has_waited: false,
            has_lease: false,
        }
    }

    /// Until the request is granted or refused. An error only before we are in the
    /// queue: after that, the store is waited for.
    pub async fn run(mut self) -> Result<Outcome, Trouble> {
        loop {
            if let Some(outcome) = self.attempt().await? {
                if matches!(outcome, Outcome::Refused(_)) && self.has_lease {
                    // Made for a race that another contender won.
                    let _ = self.store.leave(&self.request.all(), self.lease.id, self.limits()).await;
                }
                return Ok(outcome);
            }
            // What the lost attempt left, such as other rows of a set.
            let _ = self.store.leave(&self.request.all(), self.lease.id, self.limits()).await;
            self.attempt += 1;
            self.lease.id = self.request.seed.lease(self.attempt, 0);
            self.lease.ttl = self.request.ttl;
            self.rows.clear();
            self.covered.clear();
            (self.tell)(News::PlaceLost { attempt: self.attempt });
        }
    }

    /// `None`: the place in the queue was lost.
    async fn attempt(&mut self) -> Result<Option<Outcome>, Trouble> {
        let request = self.request;
        let looks_first = !request.waits
            || request.max_waiters.is_some()
            || request.at_least.is_some()
            || request.reentrant
            || !request.around.is_empty()
            || !matches!(request.mode(), Mode::Exclusive | Mode::Shared);
        if looks_first {
            match self.look_first().await? {
                FirstLook::Over(outcome) => return Ok(Some(outcome)),
                FirstLook::Granted => return self.granted().await,
                FirstLook::Wait => {}
            }
        } else if request.locks.len() > 1 {
            let all: Vec<_> = (0..request.locks.len()).collect();
            if self.enter(&all, Condition::Empty, &[]).await?.is_some() {
                return self.granted().await;
            }
        }
        for lock in self.open_locks() {
            match self.take_turn(lock).await? {
                Turn::Granted => {}
                Turn::Lost => return Ok(None),
                Turn::Refused(refused) => return Ok(Some(Outcome::Refused(refused))),
                Turn::Full => return Ok(Some(Outcome::Refused(Refused::QueueFull))),
                Turn::Called(call) => {
                    let _ = self.store.leave(&self.request.all(), self.lease.id, self.limits()).await;
                    return Ok(Some(Outcome::Called(call)));
                }
            }
        }
        self.granted().await
    }

    /// The locks that are not held around us.
    fn open_locks(&self) -> Vec<usize> {
        let is_open = |lock: &usize| !self.covered.iter().any(|(covered, _)| covered == lock);
        (0..self.request.locks.len()).filter(is_open).collect()
    }

    fn tell_holders(&mut self, looks: &[Look]) {
        let holders = looks.iter().flat_map(|look| holders_of(&look.rows)).collect();
        (self.tell)(News::Holders { holders });
    }

    /// Enters rows for these locks. `None`: the condition is false.
    async fn enter(
        &mut self,
        locks: &[usize],
        condition: Condition<'_>,
        granted: &[Option<Option<u32>>],
    ) -> Result<Option<Vec<Look>>, Trouble> {
        let request = self.request;
        let now = SystemTime::now();
        let note = |lock: usize| Note {
            name: String::from_utf8_lossy(request.locks[lock].given()).into_owned(),
            entered: Some(timestamp(now)),
            expires: request.expires.and_then(|expires| now.checked_add(expires)).map(timestamp),
            kept_until: request.at_least.and_then(|at_least| now.checked_add(at_least)).map(timestamp),
            ..request.note.clone()
        };
        let notes: Vec<_> = locks.iter().map(|lock| note(*lock)).collect();
        let entries: Vec<_> = locks
            .iter()
            .zip(&notes)
            .enumerate()
            .map(|(place, (lock, note))| Entry {
                lock: &request.locks[*lock],
                id: request.seed.row(self.attempt, *lock),
                mode: request.mode(),
                granted: granted.get(place).copied().flatten(),
                note,
            })
            .collect();
        let lease = self.lease;
        self.has_lease = true;
        let entered = self.ask(async |store, limits| store.enter(lease, &entries, condition, limits).await).await?;
        let Entered::Yes { looks, until } = entered else { return Ok(None) };
        self.until = until;
        for ((lock, entry), look) in locks.iter().zip(&entries).zip(&looks) {
            self.rows.extend(own(look, entry.id).map(|row| (*lock, row)));
        }
        Ok(Some(looks))
    }

    async fn granted(&mut self) -> Result<Option<Outcome>, Trouble> {
        self.rows.sort_by_key(|(lock, _)| *lock);
        let mut tenure = Tenure {
            lease: self.lease,
            ttl: self.ttl(),
            until: self.until,
            rows: self.rows.iter().map(|(lock, row)| (self.request.locks[*lock].clone(), row.clone())).collect(),
            kept_until: self.request.at_least.map(|at_least| suspend_aware_now().saturating_add(at_least)),
            attempt: self.attempt,
            has_waited: self.has_waited,
        };
        if let Some(at_least) = self.request.at_least
            && self.lease.ttl < at_least
            && !tenure.rows.is_empty()
        {
            let lease = Lease { id: self.request.seed.lease(self.attempt, 1), ttl: at_least + GRANT_TAKES };
            let rows: Vec<_> = tenure.rows.iter().map(|(lock, row)| (lock, row)).collect();
            let moved = self.ask(async |store, limits| store.move_to(Some(lease), &rows, limits).await).await?;
            let Some(until) = moved else { return Ok(None) };
            (tenure.lease, tenure.ttl, tenure.until) = (lease, self.request.ttl, until);
        }
        let mut all: Vec<_> = self.rows.iter().chain(&self.covered).cloned().collect();
        all.sort_by_key(|(lock, _)| *lock);
        let grant = |(lock, row): (usize, Row)| GrantedRow { lock: self.request.locks[lock].clone(), row };
        Ok(Some(Outcome::Granted { grants: all.into_iter().map(grant).collect(), tenure }))
    }

    /// One request, repeated once the store has answered any. Nobody waits for the store
    /// with `--timeout 0`.
    async fn ask<T>(
        &mut self,
        mut request: impl AsyncFnMut(&mut S, Limits) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        loop {
            let limits = self.limits();
            match request(self.store, limits).await {
                Ok(answer) => {
                    self.out_of_trouble();
                    return Ok(answer);
                }
                Err(trouble @ Trouble::Unreachable(_)) if !self.request.waits => return Err(trouble),
                Err(trouble) if !self.is_connected && self.store.identity().is_none() => return Err(trouble),
                Err(Trouble::Refused(text)) if self.rows.is_empty() => return Err(Trouble::Refused(text)),
                Err(trouble) => {
                    self.connected();
                    self.in_trouble(&trouble);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn limits(&self) -> Limits {
        match self.is_connected {
            false => Limits::first(self.request.connect, ACCEPTED),
            true => Limits::new(suspend_aware_now() + self.request.ttl / 3, each_try(self.request.ttl)),
        }
    }

    fn renew_at(&self) -> Duration {
        renew_at(self.until, self.store.granted_ttl(self.lease), random())
    }

    /// As [`Tenure::ttl`].
    fn ttl(&self) -> Duration {
        match self.lease.ttl > self.request.ttl {
            true => self.request.ttl,
            false => self.store.granted_ttl(self.lease),
        }
    }

    fn in_trouble(&mut self, trouble: &Trouble) {
        if !std::mem::replace(&mut self.is_in_trouble, true) {
            (self.tell)(News::Trouble { text: trouble.to_string() });
        }
    }

    fn connected(&mut self) {
        if !std::mem::replace(&mut self.is_connected, true) {
            (self.tell)(News::Connected {
                store: self.store.identity().unwrap_or_default(),
                description: self.store.description(),
            });
        }
    }

    fn out_of_trouble(&mut self) {
        self.connected();
        if std::mem::take(&mut self.is_in_trouble) {
            (self.tell)(News::WorksAgain);
        }
    }
}

/// For jitter.
pub fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}
