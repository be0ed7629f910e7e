//! etcd, 3.4 or newer, through its HTTP/JSON gateway.
//!
//! - `keys`: where rows are among etcd's keys; `entering`: how they get there;
//!   `events`: what happens to them
//! - [`calls`]: the requests; [`gateway`]: how one is sent; `answers`: what comes back
//! - [`watch`]: streams of changes
//!
//! A lock needs no write of its own: exclusive and shared rows are granted by being the
//! first, and a row's create revision is its fencing token. Only a slot is written,
//! because it does not follow from the order. An uncontended run is three requests: the
//! lease, the row, and the end of the lease, which removes the row.

mod answers;
pub mod calls;
mod entering;
pub mod events;
pub mod gateway;
mod keys;
mod listing;
pub(super) mod url;
mod version;
pub mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use self::answers::{KeyValue, Range};
use self::calls::{Calls, Condition as If, Lasting, LeaseId, Read, Renewed, Span, Write, Written};
use self::events::EtcdWatch;
use self::gateway::Gateway;
use self::keys::Prefix;
use self::version::revokes_living_leases;
use self::watch::Wish;
use super::queue::{Id, Mode, State, Until};
use super::row::{LockName, Note, Row};
use super::store::{
    Condition, Entered, Entry, Granted, Kept, Lease, Look, Page, RowStore, Subject, Target, Trouble, Watched,
};
use super::url::Server;
use crate::net::http::Client;
use crate::net::{Dialer, Limits};

/// In seconds; etcd makes no longer lease.
const LONGEST_LEASE: u64 = 9_000_000_000;

/// A store of rows in etcd.
pub struct Etcd {
    calls: Calls,
    prefix: Prefix,
    version: Option<String>,
    /// Leases that we made or renewed.
    leases: BTreeMap<u64, Lasting>,
    own: BTreeMap<Id, Own>,
}

#[derive(Clone, Copy)]
struct Own {
    order: u64,
    /// The revision of our last write.
    written: u64,
    slot: Option<u32>,
}

impl Etcd {
    /// The store of a URL; not connected yet. `identity`: the only cluster to talk to,
    /// if known (a token, a keeper that replaces another).
    pub fn new(server: &Server, identity: Option<&str>) -> Self {
        let client = Client::new(Dialer::new(server.addresses.clone(), server.tls.clone()));
        let cluster = identity.and_then(|identity| u64::from_str_radix(identity, 16).ok());
        Self {
            calls: Calls { gateway: Gateway::new(client, server.account.clone(), cluster) },
            prefix: Prefix::new(&server.prefix),
            version: None,
            leases: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }

    /// For [`description`](RowStore::description).
    pub async fn ask_version(&mut self, limits: Limits) -> Result<(), Trouble> {
        if self.version.is_none() {
            self.version = Some(self.calls.version(limits).await?);
        }
        Ok(())
    }

    /// Until when the lease lives at least.
    async fn lease(&mut self, lease: Lease, limits: Limits) -> Result<Duration, Trouble> {
        if let Some(lasting) = self.leases.get(&lease.id) {
            return Ok(lasting.until);
        }
        let seconds = lease.ttl.as_secs().saturating_add(u64::from(lease.ttl.subsec_nanos() > 0));
        let seconds = seconds.clamp(1, LONGEST_LEASE);
        let lasting = self.calls.grant(LeaseId(lease.id as i64), seconds, limits).await?;
        self.leases.insert(lease.id, lasting);
        Ok(lasting.until)
    }

    fn remember(&mut self, id: Id, order: u64, written: u64, slot: Option<u32>) {
        self.own.insert(id, Own { order, written, slot });
    }

    /// Requested if we have not entered the row ourselves.
    async fn order_of(&mut self, key: &str, id: Id, limits: Limits) -> Result<Option<u64>, Trouble> {
        if let Some(own) = self.own.get(&id) {
            return Ok(Some(own.order));
        }
        let (found, _) = self.calls.read(&Read::all(Span::one(key)), limits).await?;
        Ok(found.kvs.first().map(|key| key.create_revision.unsigned_abs()))
    }

    /// Writes a note, and the slot beside it, if the row is unchanged.
    async fn rewrite(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        let (_, row) = row;
        let (mut seen, mut slot) = (row.version, slot_of(row.contender.state));
        // Our own writes since then are known.
        if let Some(own) = self.own.get(&row.contender.id).filter(|own| own.written > seen) {
            (seen, slot) = (own.written, own.slot);
        }
        let value = keys::value(note, slot);
        let conditions = [If::written_in(&row.key, seen as i64)];
        let writes = [Write::change(&row.key, &value)];
        let written = self.calls.write(&conditions, &writes, &[], &[Read::all(Span::one(&row.key))], limits).await?;
        let Some(written) = written else { return Ok(false) };
        let at = match first(&written.found) {
            _ if written.done => written.revision,
            // An earlier try of the same request.
            Some(now) if now.value == value && now.create_revision as u64 == row.order => now.mod_revision,
            _ => return Ok(false),
        };
        if let Some(own) = self.own.get_mut(&row.contender.id) {
            own.written = at.unsigned_abs();
        }
        Ok(true)
    }

    fn wish(&self, watched: &Watched) -> Wish {
        let keys = self.prefix.lock(&watched.lock);
        let (span, only_removal) = match &watched.subject {
            Subject::Row { key, until, .. } => (Span::one(key), *until == Until::Gone),
            Subject::Own(id, mode) => (Span::one(keys.row(*id, *mode)), false),
            Subject::Anything => (keys.span(), false),
        };
        Wish { span, only_removal, after: watched.since as i64 }
    }
}

fn slot_of(state: State) -> Option<u32> {
    match state {
        State::Granted(slot) => slot,
        State::Waiting => None,
    }
}

fn first(found: &[Range]) -> Option<&KeyValue> {
    found.iter().find_map(|range| range.kvs.first())
}

impl RowStore for Etcd {
    type Watch = EtcdWatch;

    fn description(&self) -> String {
        let address = self.address();
        match &self.version {
            None => format!("etcd at {address}"),
            Some(version) if revokes_living_leases(version) => format!(
                "etcd {version} at {address}; before 3.4.31 and 3.5.13 it may take locks from living holders \
                 when its leader was frozen"
            ),
            Some(version) => format!("etcd {version} at {address}"),
        }
    }

    fn identity(&self) -> Option<String> {
        self.calls.gateway.cluster().map(|cluster| format!("{cluster:x}"))
    }

    fn address(&self) -> String {
        self.calls.gateway.address().to_string()
    }

    fn granted_ttl(&self, lease: Lease) -> Duration {
        self.leases.get(&lease.id).map_or(lease.ttl, |lasting| lasting.ttl)
    }

    async fn look(&mut self, lock: &LockName, limits: Limits) -> Result<Look, Trouble> {
        let keys = self.prefix.lock(lock);
        let (found, at) = self.calls.read(&Read::all(keys.span()), limits).await?;
        Ok(Look { rows: keys.rows(found.kvs), at: at.unsigned_abs() })
    }

    async fn enter(
        &mut self,
        lease: Lease,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        limits: Limits,
    ) -> Result<Entered, Trouble> {
        loop {
            let until = self.lease(lease, limits).await?;
            let entered = match condition {
                Condition::Always => self.append(lease.id, entries, limits).await?.map(Some),
                condition => self.enter_if(lease.id, entries, condition, limits).await?,
            };
            match entered {
                Some(Some(looks)) => return Ok(Entered::Yes { looks, until }),
                Some(None) => return Ok(Entered::No),
                // It ended before we got here; nothing was on it yet.
                None => drop(self.leases.remove(&lease.id)),
            }
        }
    }

    async fn turn(&mut self, lock: &LockName, me: (Id, Mode), limits: Limits) -> Result<Look, Trouble> {
        let (id, mode) = me;
        let keys = self.prefix.lock(lock);
        let key = keys.row(id, mode);
        let Some(order) = self.order_of(&key, id, limits).await? else {
            return self.look(lock, limits).await;
        };
        let before = Some(order as i64);
        let own = Read::all(Span::one(&key));
        let reads: Vec<_> = match mode {
            Mode::Exclusive => vec![own, Read::last(keys.span(), 1, before)],
            Mode::Shared => {
                [own].into_iter().chain(keys.without_shared().map(|span| Read::last(span, 1, before))).collect()
            }
            Mode::AnySlot { .. } | Mode::Slot(_) => vec![Read::up_to(keys.span(), order as i64)],
        };
        let read = self.calls.read_together(&reads, limits).await?;
        let rows = keys.rows(read.ranges.into_iter().flat_map(|range| range.kvs).collect());
        Ok(Look { rows, at: read.revision.unsigned_abs() })
    }

    async fn grant(
        &mut self,
        lock: &LockName,
        me: Id,
        slot: Option<u32>,
        look: &Look,
        limits: Limits,
    ) -> Result<Granted, Trouble> {
        let Some(row) = look.rows.iter().find(|row| row.contender.id == me) else { return Ok(Granted::Gone) };
        if slot.is_none() {
            // Nothing is written: the order grants.
            let now = self.turn(lock, (me, row.contender.mode), limits).await?;
            let now = now.rows.iter().find(|row| row.contender.id == me);
            return Ok(match now.map(|row| row.fence) {
                Some(Some(fence)) => Granted::Yes { fence },
                Some(None) => Granted::Stale,
                None => Granted::Gone,
            });
        }
        // A call that came meanwhile must not be overwritten.
        let conditions = [If::written_in(&row.key, row.version as i64)];
        let writes = [Write::change(&row.key, &keys::value(&row.note, slot))];
        let own = [Read::all(Span::one(&row.key))];
        let Some(written) = self.calls.write(&conditions, &writes, &[], &own, limits).await? else {
            return Ok(Granted::Gone);
        };
        let now = first(&written.found);
        let at = match now {
            _ if written.done => written.revision,
            Some(now) if now.create_revision as u64 != row.order => return Ok(Granted::Gone),
            // An earlier try did it.
            Some(now) if keys::parse(&now.value).is_some_and(|(_, written)| written == slot) => now.mod_revision,
            Some(_) => return Ok(Granted::Stale),
            None => return Ok(Granted::Gone),
        };
        self.remember(me, row.order, at.unsigned_abs(), slot);
        Ok(Granted::Yes { fence: row.order })
    }

    async fn keep(
        &mut self,
        lease: Lease,
        rows: &[(&LockName, &Row)],
        waits: &[Watched],
        limits: Limits,
    ) -> Result<Kept, Trouble> {
        let own: Vec<_> = rows.iter().map(|(_, row)| (row.key.clone(), row.order as i64)).collect();
        let also: Vec<_> = waits.iter().map(|watched| self.wish(watched)).collect();
        let spans: Vec<_> = also.iter().map(|wish| wish.span.clone()).collect();
        let renewed = self.calls.keep(LeaseId(lease.id as i64), &own, &spans, limits).await?;
        let Renewed::Until { lasting, own, also: found } = renewed else { return Ok(Kept::Gone) };
        self.leases.insert(lease.id, lasting);
        let was_called = rows.iter().zip(&own).any(|((_, row), now)| {
            let written = self.own.get(&row.contender.id).map_or(0, |own| own.written);
            now.mod_revision.unsigned_abs() > written.max(row.version)
        });
        let has_moved = waits.iter().zip(&also).zip(&found).any(|((watched, wish), range)| {
            let changed = range.kvs.iter().any(|key| key.mod_revision > wish.after);
            match watched.subject {
                Subject::Row { .. } => range.kvs.is_empty() || (!wish.only_removal && changed),
                Subject::Own(..) => false,
                Subject::Anything => changed,
            }
        });
        // Not on the way to the grant, where each request counts.
        let _ = self.ask_version(limits).await;
        Ok(Kept::Yes { until: lasting.until, is_our_turn: was_called || has_moved })
    }

    async fn move_to(
        &mut self,
        lease: Option<Lease>,
        rows: &[(&LockName, &Row)],
        limits: Limits,
    ) -> Result<Option<Duration>, Trouble> {
        let conditions: Vec<_> =
            rows.iter().map(|(_, row)| If::made_in(&Span::one(&row.key), row.order as i64)).collect();
        loop {
            let until = match lease {
                Some(lease) => self.lease(lease, limits).await?,
                None => Duration::MAX,
            };
            let id = LeaseId(lease.map_or(0, |lease| lease.id as i64));
            let writes: Vec<_> = rows.iter().map(|(_, row)| Write::keep_on(&row.key, id)).collect();
            match self.calls.write(&conditions, &writes, &[], &[], limits).await? {
                // The old lease is not renewed any more and ends by itself.
                Some(Written { done: true, revision, .. }) => {
                    for (_, row) in rows {
                        if let Some(own) = self.own.get_mut(&row.contender.id) {
                            own.written = revision.unsigned_abs();
                        }
                    }
                    return Ok(Some(until));
                }
                Some(_) => return Ok(None),
                None => drop(self.leases.remove(&(id.0 as u64))),
            }
        }
    }

    async fn amend(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        self.rewrite(row, note, limits).await
    }

    async fn left(&mut self, _lock: &LockName, lease: u64, limits: Limits) -> Result<Option<Duration>, Trouble> {
        self.calls.left(LeaseId(lease as i64), limits).await
    }

    async fn leave(&mut self, _locks: &[&LockName], lease: u64, limits: Limits) -> Result<bool, Trouble> {
        self.leases.remove(&lease);
        self.calls.revoke(LeaseId(lease as i64), limits).await
    }

    async fn watch(&mut self, watched: &[Watched], limits: Limits) -> Result<EtcdWatch, Trouble> {
        let wishes: Vec<_> = watched.iter().map(|watched| self.wish(watched)).collect();
        let own = watched.iter().filter_map(|watched| match watched.subject {
            Subject::Own(id, mode) => Some((self.prefix.lock(&watched.lock).row(id, mode), id)),
            Subject::Row { .. } | Subject::Anything => None,
        });
        let own = own.collect();
        Ok(EtcdWatch { watch: self.calls.watch(&wishes, limits).await?, own })
    }

    async fn call(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        self.rewrite(row, note, limits).await
    }

    async fn remove(&mut self, row: Target<'_>, limits: Limits) -> Result<bool, Trouble> {
        let (_, row) = row;
        let conditions = [If::made_in(&Span::one(&row.key), row.order as i64)];
        let written = self.calls.write(&conditions, &[Write::remove(&row.key)], &[], &[], limits).await?;
        Ok(written.is_some_and(|written| written.done))
    }

    async fn list(&mut self, from: Option<&str>, limits: Limits) -> Result<Page, Trouble> {
        self.page(from, limits).await
    }

    async fn prune(&mut self, _unused: Duration, _dry_run: bool, _limits: Limits) -> Result<usize, Trouble> {
        Ok(0)
    }
}
