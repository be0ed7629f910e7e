//! Holding locks on a server until they are released or lost. Runs in the keeper.
//!
//! A lock is *lost* when the store says that its row is gone. A lease that cannot be
//! renewed is not lost here: the wrapper, which has no network, ends the command in
//! time by the shared page. If the wrapper is dead or stopped then, the keeper kills in
//! its place.

use std::time::{Duration, SystemTime};

use super::contend::random;
use super::lease::{Ending, LEAVING, PAUSE, each_try, renew_at};
use super::looks::{holders_of, reread};
use super::news::{News, Order};
use super::request::{Request, Tenure};
use super::row::{LockName, Note, Row};
use super::store::{Event, Kept, Lease, Look, RowStore, Trouble, next_event};
use super::ties::{Ties, life_ended, next_order, tell};
use crate::net::Limits;
use crate::record::timestamp;
use crate::sys::{sleep_until, suspend_aware_now};

/// A command that has ended by then needs no watch, and the server no connection for
/// it. Nothing is missed: a watch begins with what happened since the grant.
const FIRST_MOMENT: Duration = Duration::from_millis(100);
/// After this long it is worth a write that says since when the command has run.
const WORTH_A_NOTE: Duration = Duration::from_secs(1);
/// Limit for finding out who holds a lost lock.
const LOOKING: Duration = Duration::from_secs(1);
/// A wrapper that does not confirm a loss within this time is dead or stopped.
const HEARING: Duration = Duration::from_millis(100);

pub struct Holding<'a, S: RowStore> {
    store: &'a mut S,
    request: &'a Request,
    tenure: Tenure,
    ties: Ties<'a>,
    watch: Option<S::Watch>,
    watch_at: Duration,
    /// What a watch would report first may be compacted: look at the rows before.
    is_behind: bool,
    /// The rows are as they were at this moment of the store, or later.
    seen_at: u64,
    renew_at: Duration,
    note_at: Duration,
    times: Times,
    is_in_trouble: bool,
    is_lost: bool,
    /// The lock that was lost, until it is known who holds it now.
    to_look_at: Option<LockName>,
    /// When the keeper kills, because the wrapper has not.
    kill_at: Duration,
    is_wrapper_gone: bool,
}

/// Our rows as they are now, and since when at least.
struct Seen {
    rows: Vec<Row>,
    at: u64,
}

/// What our rows do not say yet.
#[derive(Default)]
struct Times {
    /// Since when locks are held that were waited for.
    since: Option<String>,
    /// When COMMAND expires.
    expires: Option<Option<String>>,
}

impl Times {
    /// Of a grant now.
    fn from_now(expires: Option<Duration>) -> Self {
        let now = SystemTime::now();
        let expires = expires.and_then(|expires| now.checked_add(expires)).map(timestamp);
        Self { since: Some(timestamp(now)), expires: Some(expires) }
    }

    fn write_to(&self, note: &mut Note) {
        note.since = self.since.clone().or(note.since.take());
        if let Some(expires) = &self.expires {
            note.expires.clone_from(expires);
        }
    }
}

enum Step<W> {
    Ordered(Option<Order>),
    LifeEnded,
    Heard(Event),
    Seen(Result<Option<Seen>, Trouble>),
    Watching(Result<W, Trouble>),
    Kept(Result<Kept, Trouble>),
    Moved(Lease, Result<Option<Duration>, Trouble>),
    Noted,
    LookedAt(Option<Look>),
    Kill,
}

impl<'a, S: RowStore> Holding<'a, S> {
    /// For granted rows.
    pub fn new(store: &'a mut S, request: &'a Request, tenure: Tenure, ties: Ties<'a>) -> Self {
        let now = suspend_aware_now();
        ties.page.set_lease(tenure.lease.id);
        let (note_at, times) = match tenure.has_waited {
            true => (now + WORTH_A_NOTE, Times::from_now(request.expires)),
            false => (Duration::MAX, Times::default()),
        };
        let mut holding = Self {
            store,
            request,
            tenure,
            ties,
            watch: None,
            watch_at: now + FIRST_MOMENT,
            is_behind: false,
            seen_at: 0,
            renew_at: Duration::MAX,
            note_at,
            times,
            is_in_trouble: false,
            is_lost: false,
            to_look_at: None,
            kill_at: Duration::MAX,
            is_wrapper_gone: false,
        };
        holding.renewed(holding.tenure.until);
        if holding.tenure.rows.is_empty() {
            // Everything is held around us, and kept there.
            holding.ties.page.set_valid_until(Duration::MAX);
            (holding.watch_at, holding.renew_at, holding.kill_at) = (Duration::MAX, Duration::MAX, Duration::MAX);
        }
        holding
    }

    /// Until there is a reason to let go; then lets go.
    pub async fn run(mut self) {
        let mut buffer = vec![0; 4096];
        loop {
            match self.step(&mut buffer).await {
                Step::LifeEnded | Step::Ordered(Some(Order::Release)) => return self.let_go().await,
                Step::Ordered(Some(Order::Started(pid))) => self.ties.victims.set_command(pid),
                Step::Ordered(Some(Order::Stand | Order::LookAgain)) => {}
                Step::Ordered(Some(Order::Expires(at))) => {
                    self.times.expires = Some(at);
                    self.note_at = suspend_aware_now();
                }
                Step::Ordered(Some(Order::Heard)) => {
                    let until = self.tenure.until;
                    self.kill_at = Ending::new(until, self.tenure.ttl, Duration::ZERO).last_kill_at;
                }
                Step::Ordered(None) => {
                    self.is_wrapper_gone = true;
                    if self.is_lost {
                        self.kill();
                    }
                    if self.tenure.rows.is_empty() {
                        return;
                    }
                }
                Step::Heard(event) => self.heard(event),
                Step::Seen(seen) => self.seen(seen),
                Step::Watching(watch) => self.watching(watch),
                Step::Kept(kept) => self.kept(kept),
                Step::Moved(lease, moved) => self.moved(lease, moved),
                Step::Noted => (self.note_at, self.times) = (Duration::MAX, Times::default()),
                Step::LookedAt(look) => {
                    self.to_look_at = None;
                    if let Some(look) = look {
                        self.tell(&News::Holders { holders: holders_of(&look.rows) });
                    }
                }
                Step::Kill => self.kill(),
            }
        }
    }

    async fn step(&mut self, buffer: &mut [u8]) -> Step<S::Watch> {
        let Self { store, request, tenure, ties, watch, to_look_at, times, .. } = self;
        let (watch_at, renew_at, note_at, kill_at) = (self.watch_at, self.renew_at, self.note_at, self.kill_at);
        let (is_lost, is_behind, seen_at) = (self.is_lost, self.is_behind, self.seen_at);
        let work = async {
            if is_lost {
                let Some(lock) = to_look_at else { return std::future::pending().await };
                let limits = Limits::new(suspend_aware_now() + LOOKING, each_try(request.ttl));
                return Step::LookedAt(store.look(lock, limits).await.ok());
            }
            sleep_until(watch_at.min(renew_at).min(note_at)).await;
            let now = suspend_aware_now();
            // After it another contender may have the lock, whatever the server says.
            if now >= tenure.until {
                return std::future::pending().await;
            }
            // One try at one address: the first failure is reported.
            let each = each_try(tenure.ttl);
            let limits = Limits::new((now + each).min(tenure.until), each);
            let rows = tenure.rows();
            if renew_at <= now && tenure.lease.ttl > request.ttl {
                let lease = Lease { id: request.seed.lease(tenure.attempt, 2), ttl: request.ttl };
                return Step::Moved(lease, store.move_to(Some(lease), &rows, limits).await);
            }
            if renew_at <= now {
                return Step::Kept(store.keep(tenure.lease, &rows, &[], limits).await);
            }
            if watch_at <= now && is_behind {
                return Step::Seen(see(*store, &tenure.rows, limits).await);
            }
            if watch_at <= now {
                return Step::Watching(store.watch(&tenure.watched(seen_at), limits).await);
            }
            amend(*store, tenure, limits, |note| times.write_to(note)).await;
            Step::Noted
        };
        let ordered = async {
            match self.is_wrapper_gone {
                false => next_order(ties.line, buffer).await,
                true => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = ordered => Step::Ordered(order),
            () = life_ended(ties.life) => Step::LifeEnded,
            () = sleep_until(kill_at) => Step::Kill,
            event = next_event(watch) => Step::Heard(event),
            step = work => step,
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Lost(id) => {
                let lock = self.tenure.rows.iter().find(|(_, row)| row.contender.id == id);
                self.lose(lock.map(|(lock, _)| lock.clone()));
            }
            Event::Called(id, note) => {
                if let Some((_, row)) = self.tenure.rows.iter_mut().find(|(_, row)| row.contender.id == id) {
                    row.note = (*note).clone();
                }
                if let Some(call) = note.call {
                    self.tell(&News::Called(call));
                }
            }
            Event::Moved => {}
            Event::Ended => self.watch_again(),
        }
    }

    fn seen(&mut self, seen: Result<Option<Seen>, Trouble>) {
        match seen {
            Ok(Some(Seen { rows, at })) => {
                (self.is_behind, self.seen_at) = (false, at);
                for (place, row) in rows.into_iter().enumerate() {
                    if row.note.call.is_some() && row.note.call != self.tenure.rows[place].1.note.call {
                        self.heard(Event::Called(row.contender.id, Box::new(row.note)));
                    }
                }
            }
            Ok(None) => self.lose(None),
            Err(_) => self.watch_again(),
        }
    }

    fn watch_again(&mut self) {
        (self.watch, self.is_behind) = (None, true);
        self.watch_at = suspend_aware_now() + PAUSE;
    }

    fn watching(&mut self, watch: Result<S::Watch, Trouble>) {
        match watch {
            Ok(watch) => {
                self.watch = Some(watch);
                self.watch_at = Duration::MAX;
            }
            // The next renewal reports it.
            Err(_) => self.watch_again(),
        }
    }

    fn kept(&mut self, kept: Result<Kept, Trouble>) {
        match kept {
            Ok(Kept::Yes { until, .. }) => {
                self.out_of_trouble();
                if !self.is_long() {
                    self.tenure.ttl = self.store.granted_ttl(self.tenure.lease);
                }
                self.renewed(until);
            }
            Ok(Kept::Gone) => self.lose(None),
            Err(trouble) => self.in_trouble(&trouble),
        }
    }

    fn moved(&mut self, lease: Lease, moved: Result<Option<Duration>, Trouble>) {
        match moved {
            Ok(Some(until)) => {
                self.out_of_trouble();
                self.tenure.lease = lease;
                self.tenure.ttl = self.store.granted_ttl(lease);
                self.ties.page.set_lease(lease.id);
                self.renewed(until);
            }
            Ok(None) => self.lose(None),
            Err(trouble) => self.in_trouble(&trouble),
        }
    }

    /// A long lease is for --at-least, and not renewed: its rows leave it in time.
    fn is_long(&self) -> bool {
        self.tenure.lease.ttl > self.request.ttl
    }

    fn renewed(&mut self, until: Duration) {
        let ttl = self.tenure.ttl;
        self.tenure.until = until;
        self.ties.page.set_ttl(ttl);
        self.ties.page.set_valid_until(until);
        self.renew_at = match self.is_long() {
            true => until.saturating_sub(ttl * 2 / 3),
            false => renew_at(until, ttl, random()),
        };
        self.kill_at = Ending::new(until, ttl, Duration::ZERO).last_kill_at;
    }

    fn lose(&mut self, lock: Option<LockName>) {
        if std::mem::replace(&mut self.is_lost, true) {
            return;
        }
        self.to_look_at = lock.or_else(|| self.tenure.rows.first().map(|(lock, _)| lock.clone()));
        let lock = self.to_look_at.as_ref().map(|lock| lock.encoded().to_owned());
        self.tell(&News::Lost { lock: lock.unwrap_or_default() });
        self.watch = None;
        self.kill_at = suspend_aware_now() + if self.is_wrapper_gone { Duration::ZERO } else { HEARING };
    }

    /// The wrapper has not killed, or not yet; killing twice does no harm.
    fn kill(&mut self) {
        self.ties.victims.kill();
        self.kill_at = suspend_aware_now() + HEARING;
    }

    fn in_trouble(&mut self, trouble: &Trouble) {
        self.renew_at = suspend_aware_now() + PAUSE;
        if !std::mem::replace(&mut self.is_in_trouble, true) {
            self.tell(&News::Trouble { text: trouble.to_string() });
        }
    }

    fn out_of_trouble(&mut self) {
        if std::mem::take(&mut self.is_in_trouble) {
            self.tell(&News::WorksAgain);
        }
    }

    fn tell(&self, news: &News) {
        tell(self.ties.line, news);
    }

    async fn let_go(mut self) {
        // By then the lease has ended.
        let until = (suspend_aware_now() + LEAVING).min(self.tenure.until);
        let limits = Limits::new(until, each_try(self.request.ttl));
        let is_kept = self.tenure.kept_until.is_some_and(|until| suspend_aware_now() < until);
        let left = match (self.is_lost || self.tenure.rows.is_empty(), is_kept) {
            (true, _) => Ok(()),
            (false, true) => {
                // For `list` and `break`; the lease does the rest.
                note_end(self.store, &mut self.tenure, limits).await;
                Ok(())
            }
            (false, false) => self.store.leave(&self.request.all(), self.tenure.lease.id, limits).await.map(drop),
        };
        self.tell(&News::Released { later: left.err().map(|trouble| trouble.to_string()) });
    }
}

/// `None`: one of them is gone.
async fn see<S: RowStore>(store: &mut S, rows: &[(LockName, Row)], limits: Limits) -> Result<Option<Seen>, Trouble> {
    let mut seen = Seen { rows: Vec::new(), at: u64::MAX };
    for (lock, row) in rows {
        let Some((row, at)) = reread(store, lock, row, limits).await? else { return Ok(None) };
        seen.rows.push(row);
        seen.at = seen.at.min(at);
    }
    Ok(Some(seen))
}

async fn note_end<S: RowStore>(store: &mut S, tenure: &mut Tenure, limits: Limits) {
    amend(store, tenure, limits, |note| note.has_ended = true).await;
}

async fn amend<S: RowStore>(store: &mut S, tenure: &mut Tenure, limits: Limits, change: impl Fn(&mut Note)) {
    for (lock, row) in &mut tenure.rows {
        let Ok(Some((mut fresh, _))) = reread(store, lock, row, limits).await else { return };
        change(&mut fresh.note);
        if let Ok(true) = store.amend((lock, &fresh), &fresh.note, limits).await {
            row.note = fresh.note;
        }
    }
}
