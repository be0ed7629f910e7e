//! PostgreSQL, 12 or newer, directly or through a pooler: a table with leases.
//!
//! - [`schema`]: the tables; [`sql`]: the messages; [`rows`]: what comes back
//! - [`session`]: how a message is sent; [`link`]: one connection; [`login`]: as whom;
//!   [`url`]: where
//! - [`watch`]: being told of changes
//!
//! A message is one transaction, and so one round trip. Those that add, grant or
//! remove a row take the *door* of the lock first, the row of its name: that orders
//! them, and draws the number that is order, version and fence.

pub mod answer;
pub mod link;
pub mod login;
pub mod rows;
pub mod schema;
pub mod session;
pub mod sql;
pub(super) mod url;
pub mod watch;

use std::time::Duration;

use self::answer::{Answer, Rows, first_number, number, text};
use self::login::Login;
use self::rows::{Found, found, id, rows};
use self::schema::Schema;
use self::session::{Reply, Session};
use self::sql::Sql;
use self::watch::PostgresWatch;
use super::queue::{Id, Mode, State, Until};
use super::row::{LockName, Note, Row};
use super::store::{
    Condition, Entered, Entry, Granted, Kept, Lease, Look, Page, RowStore, Subject, Target, Trouble, Watched,
};
use super::url::Server;
use crate::net::{Dialer, Limits};
use crate::sys::suspend_aware_now;

/// How many locks `list` asks for at a time.
const PAGE: usize = 200;

/// The client's first words where it wants TLS: SSLRequest.
const TLS_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

/// A store of rows in PostgreSQL.
pub struct Postgres {
    session: Session,
    sql: Sql,
}

impl Postgres {
    /// The store that a URL names; not connected yet. `identity`: the only one to talk
    /// to, where it is known.
    pub fn new(server: &Server, login: &Login, identity: Option<&str>) -> Self {
        let dialer = Dialer::new(server.addresses.clone(), server.tls.clone()).asking_for_tls(TLS_REQUEST, b'S');
        let schema = Schema::new(&server.prefix);
        let login = login.clone().with(server.account.clone());
        Self { sql: Sql::new(schema.clone()), session: Session::new(dialer, login, schema, identity) }
    }

    /// An answer, of which every message but a grant is sure.
    async fn ask(&mut self, message: &str, limits: Limits) -> Result<(Answer, Duration), Trouble> {
        match self.session.ask(message, limits).await? {
            (Reply::Done(answer), sent) => Ok((answer, sent)),
            (Reply::SlotTaken, _) => Err(Trouble::Refused("PostgreSQL says: a row is there twice".into())),
        }
    }

    async fn rewrite(&mut self, target: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        let (lock, row) = target;
        let (answer, _) = self.ask(&self.sql.rewrite(lock, row, note), limits).await?;
        // True also where an earlier try of the same request wrote it.
        Ok(answer.last(1).first().and_then(|rows| text(rows.first()?, 0)) == Some("t"))
    }
}

/// What one lock's rows look like.
struct Seen {
    found: Vec<Found>,
    at: u64,
}

impl Seen {
    fn read(answer: &[Rows]) -> Self {
        Self { at: first_number(answer.first()).unwrap_or(0), found: answer.get(1).map(found).unwrap_or_default() }
    }

    fn look(self) -> Look {
        Look { rows: rows(self.found), at: self.at }
    }
}

impl RowStore for Postgres {
    type Watch = PostgresWatch;

    fn description(&self) -> String {
        let version = self.session.version().map(|version| format!(" {version}")).unwrap_or_default();
        let pooled = match self.session.is_pooled() {
            true => "; a pooler is in between, so waiters look once a second",
            false => "",
        };
        format!("PostgreSQL{version} at {}{pooled}", self.session.address())
    }

    fn identity(&self) -> Option<String> {
        self.session.identity().map(str::to_owned)
    }

    fn address(&self) -> String {
        self.session.address().to_string()
    }

    fn granted_ttl(&self, lease: Lease) -> Duration {
        lease.ttl
    }

    async fn look(&mut self, lock: &LockName, limits: Limits) -> Result<Look, Trouble> {
        let (answer, _) = self.ask(&self.sql.look(lock), limits).await?;
        Ok(Seen::read(&answer.last(2)).look())
    }

    async fn enter(
        &mut self,
        lease: Lease,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        limits: Limits,
    ) -> Result<Entered, Trouble> {
        let message = self.sql.enter(lease, entries, condition);
        let (answer, sent) = match self.session.ask(&message, limits).await? {
            (Reply::Done(answer), sent) => (answer, sent),
            (Reply::SlotTaken, _) => return Ok(Entered::No),
        };
        let answer = answer.last(entries.len() * 2);
        // A row that an earlier try entered has less time left.
        let mut left = lease.ttl;
        let mut looks = Vec::new();
        for (entry, answer) in entries.iter().zip(answer.chunks(2)) {
            let seen = Seen::read(answer);
            let Some(own) = seen.found.iter().find(|found| found.row.contender.id == entry.id) else {
                return Ok(Entered::No);
            };
            let needs_grant = entry.granted.is_some() || matches!(condition, Condition::Empty);
            if needs_grant && own.row.contender.state == State::Waiting {
                return Ok(Entered::No);
            }
            left = left.min(own.expires_in);
            looks.push(seen.look());
        }
        Ok(Entered::Yes { looks, until: sent + left })
    }

    async fn turn(&mut self, lock: &LockName, _me: (Id, Mode), limits: Limits) -> Result<Look, Trouble> {
        let (answer, _) = self.ask(&self.sql.turn(lock), limits).await?;
        Ok(Seen::read(&answer.last(2)).look())
    }

    async fn grant(
        &mut self,
        lock: &LockName,
        me: Id,
        slot: Option<u32>,
        _look: &Look,
        limits: Limits,
    ) -> Result<Granted, Trouble> {
        let message = self.sql.grant(lock, me, slot);
        let answer = match self.session.ask(&message, limits).await? {
            (Reply::Done(answer), _) => answer,
            (Reply::SlotTaken, _) => return Ok(Granted::Stale),
        };
        Ok(match first_number(answer.last(1).first()) {
            None => Granted::Gone,
            Some(0) => Granted::Stale,
            Some(fence) => Granted::Yes { fence },
        })
    }

    async fn keep(
        &mut self,
        lease: Lease,
        rows: &[(&LockName, &Row)],
        waits: &[Watched],
        limits: Limits,
    ) -> Result<Kept, Trouble> {
        let waits: Vec<_> = waits
            .iter()
            .filter_map(|watched| match &watched.subject {
                Subject::Row { id, until, .. } => Some((*id, *until, &watched.lock)),
                Subject::Own(..) | Subject::Anything => None,
            })
            .collect();
        let asked: Vec<_> = waits.iter().map(|(id, _, lock)| (*id, *lock)).collect();
        let (answer, sent) = self.ask(&self.sql.keep(lease, &asked), limits).await?;
        let mut answer = answer.last(if waits.is_empty() { 1 } else { 3 });
        let there = if waits.is_empty() { Rows::new() } else { answer.pop().unwrap_or_default() };
        let renewed = answer.into_iter().next().unwrap_or_default();
        let is_renewed = |row: &Row| {
            renewed.iter().any(|columns| id(columns) == Some(row.contender.id) && number(columns, 1) == Some(row.order))
        };
        if !rows.iter().all(|(_, row)| is_renewed(row)) {
            return Ok(Kept::Gone);
        }
        let ttl = renewed.iter().filter_map(|columns| number(columns, 2)).map(Duration::from_micros).min();
        let is_over = |(id_of, until, _): &(Id, Until, &LockName)| {
            let row = there.iter().find(|columns| id(columns) == Some(*id_of));
            row.is_none_or(|columns| *until == Until::Settled && number::<u64>(columns, 1) != Some(0))
        };
        let is_our_turn = waits.iter().any(is_over);
        Ok(Kept::Yes { until: sent + ttl.unwrap_or(lease.ttl), is_our_turn })
    }

    async fn move_to(
        &mut self,
        lease: Option<Lease>,
        rows: &[(&LockName, &Row)],
        limits: Limits,
    ) -> Result<Option<Duration>, Trouble> {
        let (answer, sent) = self.ask(&self.sql.move_to(lease, rows), limits).await?;
        let moved = answer.last(1).first().map_or(0, Vec::len);
        let until = lease.map_or(Duration::MAX, |lease| sent + lease.ttl);
        Ok((moved == rows.len()).then_some(until))
    }

    async fn amend(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        self.rewrite(row, note, limits).await
    }

    async fn left(&mut self, _lock: &LockName, lease: u64, limits: Limits) -> Result<Option<Duration>, Trouble> {
        let (answer, _) = self.ask(&self.sql.left(lease), limits).await?;
        let left = answer.last(1).first().and_then(|rows| number::<i64>(rows.first()?, 0));
        Ok(left.map(|left| Duration::from_micros(left.max(0).unsigned_abs())))
    }

    async fn leave(&mut self, _locks: &[&LockName], lease: u64, limits: Limits) -> Result<bool, Trouble> {
        let (answer, _) = self.ask(&self.sql.leave(lease), limits).await?;
        Ok(answer.last(1).first().is_some_and(|gone| !gone.is_empty()))
    }

    async fn watch(&mut self, watched: &[Watched], limits: Limits) -> Result<PostgresWatch, Trouble> {
        let (answer, _) = self.ask(&self.sql.watch(watched), limits).await?;
        let Some(link) = self.session.link() else {
            return Err(Trouble::Refused("PostgreSQL: the connection has gone".into()));
        };
        Ok(PostgresWatch::new(link, self.sql.clone(), watched, answer))
    }

    async fn call(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        self.rewrite(row, note, limits).await
    }

    async fn remove(&mut self, row: Target<'_>, limits: Limits) -> Result<bool, Trouble> {
        let (lock, row) = row;
        let (answer, _) = self.ask(&self.sql.remove(lock, row), limits).await?;
        Ok(answer.last(1).first().is_some_and(|gone| !gone.is_empty()))
    }

    async fn list(&mut self, from: Option<&str>, limits: Limits) -> Result<Page, Trouble> {
        let (answer, _) = self.ask(&self.sql.list(from, PAGE), limits).await?;
        let mut locks: Vec<(LockName, Vec<Row>)> = Vec::new();
        for columns in answer.last(1).first().into_iter().flatten() {
            let Some(name) = text(columns, 10).and_then(LockName::from_encoded) else { continue };
            let row = rows(found(&vec![columns.clone()]));
            match locks.last_mut().filter(|(last, _)| *last == name) {
                Some((_, rows)) => rows.extend(row),
                None => locks.push((name, row)),
            }
        }
        let next = (locks.len() > PAGE).then(|| locks[PAGE].0.encoded().to_owned());
        locks.truncate(PAGE);
        Ok(Page { locks, next })
    }

    async fn prune(&mut self, unused: Duration, dry_run: bool, limits: Limits) -> Result<usize, Trouble> {
        let (answer, _) = self.ask(&self.sql.unused(unused), limits).await?;
        let names = answer.last(1).into_iter().next().unwrap_or_default();
        let names: Vec<_> = names.iter().filter_map(|columns| text(columns, 0)).collect();
        if dry_run {
            return Ok(names.len());
        }
        let mut pruned = 0;
        for name in names {
            if suspend_aware_now() >= limits.until {
                break;
            }
            let (answer, _) = self.ask(&self.sql.prune(name), limits).await?;
            pruned += answer.last(1).first().map_or(0, Vec::len);
        }
        Ok(pruned)
    }
}
