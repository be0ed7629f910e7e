//! A token's locks on a server, in the keeper, from the grant on.
//!
//! The rows were entered on a short lease, because what nobody renews must not block
//! others for an hour. Without an owner they now move to a lease as long as the token
//! is good for, and once the token is printed, no process is needed. For an owner the
//! keeper stays and renews the short lease until the owner ends or the token expires.
//!
//! Before the token is printed, the end of the wrapper gives the locks back. There is
//! no command to end, so the locks are not lost before the store says so.

use std::time::{Duration, SystemTime};

use super::contend::random;
use super::lease::{LEAVING, PAUSE, each_try, renew_at};
use super::looks::reread;
use super::news::{News, Order};
use super::request::{Request, Tenure, TokenTerms};
use super::row::{Call, LockName, Note, Row};
use super::store::{Event, Kept, Lease, RowStore, Trouble, next_event};
use super::ties::{Ties, life_ended, next_order, tell};
use crate::net::Limits;
use crate::record::timestamp;
use crate::sys::{Awaited, sleep_until, suspend_aware_now};

pub struct Vigil<'a, S: RowStore> {
    store: &'a mut S,
    request: &'a Request,
    terms: TokenTerms,
    tenure: Tenure,
    ties: Ties<'a>,
    owner: Option<Awaited>,
    is_printed: bool,
    /// As the rows say, to notice a renewal.
    expires: Option<String>,
    expires_at: Duration,
    watch: Option<S::Watch>,
    watch_at: Duration,
    renew_at: Duration,
}

enum Step<W> {
    Ordered(Option<Order>),
    Over,
    Heard(Event),
    Watching(Result<W, Trouble>),
    Kept(Result<Kept, Trouble>),
}

/// Why a token cannot stand for the locks.
enum Unsettled {
    Lost,
    Called(Call),
}

impl<'a, S: RowStore> Vigil<'a, S> {
    /// For rows that were granted.
    pub fn new(
        store: &'a mut S,
        request: &'a Request,
        terms: TokenTerms,
        tenure: Tenure,
        ties: Ties<'a>,
        owner: Option<Awaited>,
    ) -> Self {
        ties.page.set_lease(tenure.lease.id);
        ties.page.set_valid_until(Duration::MAX);
        let renew_at = renew_at(tenure.until, tenure.ttl, random());
        Self {
            store,
            request,
            terms,
            tenure,
            ties,
            owner,
            is_printed: false,
            expires: None,
            expires_at: Duration::MAX,
            watch: None,
            watch_at: suspend_aware_now(),
            renew_at,
        }
    }

    /// Until the token stands alone, or there is a reason to let go; then lets go.
    pub async fn run(mut self) {
        let mut buffer = vec![0; 4096];
        let settled = {
            let Self { store, request, terms, tenure, ties, owner, .. } = &mut self;
            tokio::select! {
                biased;
                () = told_to_let_go(ties, &mut buffer) => None,
                () = over(ties, owner.as_ref(), false, Duration::MAX) => None,
                settled = settle(*store, request, *terms, tenure, ties.page) => Some(settled),
            }
        };
        match settled {
            None => return self.let_go().await,
            Some(Err(Unsettled::Lost)) => return self.lose(None).await,
            Some(Err(Unsettled::Called(call))) => {
                self.tell(&News::Called(call));
                return self.let_go().await;
            }
            Some(Ok(expires)) => self.expires = expires,
        }
        if !self.stands_alone() {
            self.expires_at = self.terms.term.map_or(Duration::MAX, |term| suspend_aware_now().saturating_add(term));
        }
        self.tell(&News::Settled);
        loop {
            match self.step(&mut buffer).await {
                Step::Ordered(Some(Order::Stand)) if self.stands_alone() => return self.leave_alone().await,
                Step::Ordered(Some(Order::Stand)) => self.is_printed = true,
                Step::Ordered(Some(Order::Started(_) | Order::LookAgain | Order::Heard | Order::Expires(_))) => {}
                Step::Ordered(Some(Order::Release) | None) | Step::Over => return self.let_go().await,
                Step::Heard(Event::Lost(id)) => return self.lose(Some(id)).await,
                Step::Heard(Event::Called(_, note)) => {
                    if let Some(call) = note.call {
                        self.tell(&News::Called(call));
                        return self.let_go().await;
                    }
                    self.renewed(&note);
                }
                Step::Heard(Event::Moved) => {}
                Step::Heard(Event::Ended) | Step::Watching(Err(_)) => {
                    self.watch = None;
                    self.watch_at = suspend_aware_now() + PAUSE;
                }
                Step::Watching(Ok(watch)) => (self.watch, self.watch_at) = (Some(watch), Duration::MAX),
                Step::Kept(Ok(Kept::Yes { until, .. })) => self.renew_at = renew_at(until, self.tenure.ttl, random()),
                Step::Kept(Ok(Kept::Gone)) => return self.lose(None).await,
                Step::Kept(Err(_)) => self.renew_at = suspend_aware_now() + PAUSE,
            }
        }
    }

    /// Whether the locks need no process once the token is printed.
    fn stands_alone(&self) -> bool {
        !self.terms.has_owner || self.tenure.rows.is_empty()
    }

    async fn step(&mut self, buffer: &mut [u8]) -> Step<S::Watch> {
        let is_kept = !self.stands_alone();
        let Self { store, request, tenure, ties, owner, watch, .. } = self;
        let (is_printed, expires_at) = (self.is_printed, self.expires_at);
        let (watch_at, renew_at) = (self.watch_at, if is_kept { self.renew_at } else { Duration::MAX });
        let work = async {
            sleep_until(watch_at.min(renew_at)).await;
            let each = each_try(request.ttl);
            let limits = Limits::new(suspend_aware_now() + each, each);
            if renew_at <= suspend_aware_now() {
                return Step::Kept(store.keep(tenure.lease, &tenure.rows(), &[], limits).await);
            }
            Step::Watching(store.watch(&tenure.watched(0), limits).await)
        };
        let ordered = async {
            match is_printed {
                false => next_order(ties.line, buffer).await,
                true => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = ordered => Step::Ordered(order),
            () = over(ties, owner.as_ref(), is_printed, expires_at) => Step::Over,
            event = next_event(watch) => Step::Heard(event),
            step = work => step,
        }
    }

    /// A renewal from elsewhere has written a new expiry.
    fn renewed(&mut self, note: &Note) {
        if note.expires == self.expires {
            return;
        }
        self.expires.clone_from(&note.expires);
        let term = note.extended_by.filter(|_| note.expires.is_some());
        let term = term.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.expires_at = term.map_or(Duration::MAX, |term| suspend_aware_now().saturating_add(term));
    }

    /// The lease that the rows were entered on has none any more.
    async fn leave_alone(self) {
        let limits = Limits::new(suspend_aware_now() + LEAVING, each_try(self.request.ttl));
        let _ = self.store.leave(&self.request.all(), self.request.seed.lease(self.tenure.attempt, 0), limits).await;
    }

    async fn lose(self, id: Option<super::queue::Id>) {
        let row = self.tenure.rows.iter().find(|(_, row)| id.is_none_or(|id| row.contender.id == id));
        let lock = row.map(|(lock, _)| lock.encoded().to_owned()).unwrap_or_default();
        self.tell(&News::Lost { lock });
        // What is left of a set.
        self.let_go().await;
    }

    async fn let_go(self) {
        let limits = Limits::new(suspend_aware_now() + LEAVING, each_try(self.request.ttl));
        let mut left = Ok(());
        // A move whose answer was lost may have been carried out, so whatever lease the
        // rows are on, they are removed first.
        if !self.terms.has_owner {
            for (lock, row) in &self.tenure.rows {
                left = left.and(self.store.remove((lock, row), limits).await.map(drop));
            }
            let _ = self.store.leave(&self.request.all(), long_lease(self.request, &self.tenure), limits).await;
        }
        if !self.tenure.rows.is_empty() {
            let first = self.request.seed.lease(self.tenure.attempt, 0);
            left = left.and(self.store.leave(&self.request.all(), first, limits).await.map(drop));
        }
        self.tell(&News::Released { later: left.err().map(|trouble| trouble.to_string()) });
    }

    fn tell(&self, news: &News) {
        tell(self.ties.line, news);
    }
}

async fn told_to_let_go(ties: &Ties<'_>, buffer: &mut [u8]) {
    while !matches!(next_order(ties.line, buffer).await, Some(Order::Release) | None) {}
}

/// Moves the rows to the lease that they stay on, and has them say that they are a
/// token's. Returns when it expires.
async fn settle<S: RowStore>(
    store: &mut S,
    request: &Request,
    terms: TokenTerms,
    tenure: &mut Tenure,
    page: &super::page::Page,
) -> Result<Option<String>, Unsettled> {
    let each = each_try(request.ttl);
    let limits = || Limits::new(suspend_aware_now() + each, each);
    // Later nobody renews the lease that they are on.
    let until = tenure.until.min(suspend_aware_now() + request.ttl);
    if !terms.has_owner && !tenure.rows.is_empty() {
        let lease = terms.term.map(|ttl| Lease { id: long_lease(request, tenure), ttl });
        loop {
            match store.move_to(lease, &tenure.rows(), limits()).await {
                Ok(Some(_)) => break,
                Ok(None) => return Err(Unsettled::Lost),
                Err(_) if suspend_aware_now() >= until => return Err(Unsettled::Lost),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        page.set_lease(lease.map_or(0, |lease| lease.id));
    }
    let now = SystemTime::now();
    let expires = terms.term.and_then(|term| now.checked_add(term)).map(timestamp);
    for (lock, row) in &mut tenure.rows {
        loop {
            match mark(store, lock, row, now, expires.as_deref(), limits()).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(Ok(unsettled)) => return Err(unsettled),
                Err(Err(_)) if suspend_aware_now() >= until => return Err(Unsettled::Lost),
                Err(Err(_)) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
    Ok(expires)
}

/// `false`: the row has changed meanwhile.
async fn mark<S: RowStore>(
    store: &mut S,
    lock: &LockName,
    row: &Row,
    now: SystemTime,
    expires: Option<&str>,
    limits: Limits,
) -> Result<bool, Result<Unsettled, Trouble>> {
    let Some((fresh, _)) = reread(store, lock, row, limits).await.map_err(Err)? else {
        return Err(Ok(Unsettled::Lost));
    };
    if let Some(call) = fresh.note.call {
        return Err(Ok(Unsettled::Called(call)));
    }
    let note = Note {
        token: true,
        // The process of acquire ends now.
        pid: fresh.note.owner.unwrap_or_default(),
        since: Some(timestamp(now)),
        expires: expires.map(str::to_owned),
        ..fresh.note.clone()
    };
    store.amend((lock, &fresh), &note, limits).await.map_err(Err)
}

/// Nothing holds the locks any more: the wrapper ended before the token was printed, or
/// the owner has ended, or the time is up.
async fn over(ties: &Ties<'_>, owner: Option<&Awaited>, is_printed: bool, expires_at: Duration) {
    let owner_ended = async {
        match owner {
            Some(owner) => owner.ready().await,
            None => std::future::pending().await,
        }
    };
    let life_ended = async {
        match is_printed {
            false => life_ended(ties.life).await,
            true => std::future::pending().await,
        }
    };
    tokio::select! {
        () = owner_ended => {}
        () = life_ended => {}
        () = sleep_until(expires_at) => {}
    }
}

/// The lease of a token that stands alone.
fn long_lease(request: &Request, tenure: &Tenure) -> u64 {
    request.seed.lease(tenure.attempt, 1)
}
