//! Redis, 6 or newer, and Valkey: one hash for each lock, with a row in each field.
//!
//! - [`script`]: the requests, each one call of one Lua script; [`rows`]: what comes back
//! - [`session`]: how a request is sent; [`link`]: one connection; [`resp`]: its
//!   protocol; [`login`]: the user and the database; [`url`]: how both are given
//! - [`watch`]: being told of changes
//!
//! What a server forgets when it is started, holders put back: with every request that
//! is about their row they send it along. Until they all had the time for that, nothing
//! is granted: a row of nobody's stands before all others (the *grace period*).

pub mod link;
pub mod login;
pub mod resp;
pub mod rows;
pub mod script;
pub mod session;
pub(super) mod url;
pub mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use self::login::Login;
use self::resp::Value;
use self::rows::{Found, found, grace, key_of, read};
use self::script::{Call, Held, Script, Subject as Listened};
use self::session::{Answer, Session};
use self::watch::{RedisWatch, is_grace, key};
use super::queue::{Id, Mode, State, Until};
use super::row::{LockName, Note, Row};
use super::store::{
    Condition, Entered, Entry, Granted, Kept, Lease, Look, Page, RowStore, Subject, Target, Trouble, Watched,
};
use super::url::Server;
use crate::net::{Dialer, Limits};
use crate::sys::suspend_aware_now;

/// How many locks are listed in one step.
const PAGE: usize = 100;

/// A store of rows in Redis.
pub struct Redis {
    session: Session,
    script: Script,
    /// Our rows that were granted, with their leases, as they were last seen.
    held: BTreeMap<Id, (u64, Held)>,
}

/// A part of the list of all locks, also of those without rows.
struct Names {
    /// Each with its last number and rows.
    names: Vec<(LockName, u64, Vec<Row>)>,
    /// Of the server, in microseconds.
    now: u64,
    next: Option<String>,
}

impl Redis {
    /// The store that a URL names; not connected yet. `identity`: the only one to talk
    /// to, where it is known.
    pub fn new(server: &Server, login: &Login, identity: Option<&str>) -> Self {
        let dialer = Dialer::new(server.addresses.clone(), server.tls.clone());
        let login = Login { account: server.account.clone(), ..login.clone() };
        let session = Session::new(dialer, login, &server.prefix, server.ttl, identity);
        Self { session, script: Script::new(&server.prefix), held: BTreeMap::new() }
    }

    async fn ask(&mut self, call: &Call, limits: Limits) -> Result<Answer, Trouble> {
        self.session.ask(call, limits).await
    }

    /// A row of ours as the server has it now.
    fn remember(&mut self, found: &Found) {
        let row = &found.row;
        if row.contender.state != State::Waiting {
            self.held.insert(row.contender.id, (row.lease, found.text.clone()));
        }
    }

    fn held(&self, id: Id) -> Held {
        self.held.get(&id).map(|(_, text)| text.clone()).unwrap_or_default()
    }

    fn held_rows<'a>(&self, rows: &[(&'a LockName, &Row)]) -> Vec<(&'a LockName, Id, Held)> {
        rows.iter().map(|(lock, row)| (*lock, row.contender.id, self.held(row.contender.id))).collect()
    }

    /// Own rows by their texts; `None`: one is gone.
    fn own_rows(&mut self, rows: &[(&LockName, &Row)], texts: &Value, now: u64) -> Option<Vec<Found>> {
        let mut own = Vec::new();
        for (place, (_, row)) in rows.iter().enumerate() {
            let text = texts.list().get(place).map(Value::bytes).filter(|text| !text.is_empty())?;
            let found = read(row.contender.id.to_string().as_bytes(), text, now);
            self.remember(&found);
            own.push(found);
        }
        Some(own)
    }

    async fn rewrite(&mut self, target: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        let (lock, row) = target;
        let answer = self.ask(&self.script.rewrite(lock, row, note.to_bytes()), limits).await?;
        let text = answer.value(0).bytes();
        if !text.is_empty() && self.held.contains_key(&row.contender.id) {
            self.remember(&read(row.contender.id.to_string().as_bytes(), text, answer.now));
        }
        Ok(!text.is_empty())
    }

    async fn names(&mut self, from: &str, limits: Limits) -> Result<Names, Trouble> {
        let answer = self.ask(&self.script.list(from, PAGE + 1), limits).await?;
        let mut names = Vec::new();
        for entry in answer.value(0).list() {
            let [name, last, rows] = entry.list() else { continue };
            let Some(lock) = name.text().as_deref().and_then(LockName::from_encoded) else { continue };
            let rows = found(rows.list(), answer.now).into_iter().map(|found| found.row).collect();
            names.push((lock, last.number().unwrap_or(0), rows));
        }
        let next = answer.value(0).list().get(PAGE).and_then(|entry| entry.list().first()?.text());
        if next.is_some() {
            names.pop();
        }
        Ok(Names { names, now: answer.now, next })
    }
}

/// The rows of one lock, `[LAST NUMBER, [ID, TEXT, ...]]`.
fn look(value: &Value, answer: &Answer) -> (Look, Vec<Found>) {
    let [last, rows] = value.list() else { return (Look { rows: Vec::new(), at: 0 }, Vec::new()) };
    let found = found(rows.list(), answer.now);
    let rows = found.iter().map(|found| found.row.clone());
    let rows = (!answer.grace.is_zero()).then(grace).into_iter().chain(rows).collect();
    (Look { rows, at: last.number().unwrap_or(0) }, found)
}

impl RowStore for Redis {
    type Watch = RedisWatch;

    fn description(&self) -> String {
        format!("{} at {}", self.session.version().unwrap_or("Redis"), self.session.address())
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
        let answer = self.ask(&self.script.look(lock), limits).await?;
        Ok(look(answer.value(0), &answer).0)
    }

    async fn enter(
        &mut self,
        lease: Lease,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        limits: Limits,
    ) -> Result<Entered, Trouble> {
        let answer = self.ask(&self.script.enter(lease, entries, condition), limits).await?;
        // A row that an earlier try entered has less time left.
        let mut left = lease.ttl;
        let mut looks = Vec::new();
        for (entry, value) in entries.iter().zip(answer.value(0).list()) {
            let (look, found) = look(value, &answer);
            let Some(own) = found.iter().find(|found| found.row.contender.id == entry.id) else {
                return Ok(Entered::No);
            };
            let needs_grant = entry.granted.is_some() || matches!(condition, Condition::Empty);
            if needs_grant && own.row.contender.state == State::Waiting {
                return Ok(Entered::No);
            }
            left = left.min(own.expires_in);
            self.remember(own);
            looks.push(look);
        }
        Ok(Entered::Yes { looks, until: answer.sent + left })
    }

    async fn turn(&mut self, lock: &LockName, me: (Id, Mode), limits: Limits) -> Result<Look, Trouble> {
        let answer = self.ask(&self.script.turn(lock, me.0, self.held(me.0)), limits).await?;
        let (look, found) = look(answer.value(0), &answer);
        if let Some(own) = found.iter().find(|found| found.row.contender.id == me.0) {
            self.remember(own);
        }
        Ok(look)
    }

    async fn grant(
        &mut self,
        lock: &LockName,
        me: Id,
        slot: Option<u32>,
        _look: &Look,
        limits: Limits,
    ) -> Result<Granted, Trouble> {
        let answer = self.ask(&self.script.grant(lock, me, slot), limits).await?;
        Ok(match answer.value(0).bytes() {
            b"gone" => Granted::Gone,
            b"stale" => Granted::Stale,
            text => {
                let found = read(me.to_string().as_bytes(), text, answer.now);
                self.remember(&found);
                found.row.fence.map_or(Granted::Stale, |fence| Granted::Yes { fence })
            }
        })
    }

    async fn keep(
        &mut self,
        lease: Lease,
        rows: &[(&LockName, &Row)],
        waits: &[Watched],
        limits: Limits,
    ) -> Result<Kept, Trouble> {
        let waits_for = |watched: &&Watched| matches!(watched.subject, Subject::Row { .. });
        let (on_grace, waits): (Vec<_>, Vec<_>) = waits.iter().filter(waits_for).partition(|watched| is_grace(watched));
        let asked: Vec<_> = waits.iter().map(|watched| (&watched.lock, key_of(&key(watched)))).collect();
        let answer = self.ask(&self.script.keep(&self.held_rows(rows), &asked), limits).await?;
        let Some(own) = self.own_rows(rows, answer.value(0), answer.now) else { return Ok(Kept::Gone) };
        let ttl = own.iter().map(|found| found.expires_in).min().unwrap_or(lease.ttl);
        let is_over = |(watched, text): (&&Watched, &Value)| {
            let Subject::Row { key, until, .. } = &watched.subject else { return false };
            let row = read(&key_of(key), text.bytes(), answer.now).row;
            text.bytes().is_empty() || *until == Until::Settled && row.contender.state != State::Waiting
        };
        let is_our_turn =
            waits.iter().zip(answer.value(1).list()).any(is_over) || !on_grace.is_empty() && answer.grace.is_zero();
        Ok(Kept::Yes { until: answer.sent.saturating_add(ttl), is_our_turn })
    }

    async fn move_to(
        &mut self,
        lease: Option<Lease>,
        rows: &[(&LockName, &Row)],
        limits: Limits,
    ) -> Result<Option<Duration>, Trouble> {
        let answer = self.ask(&self.script.move_to(lease, &self.held_rows(rows)), limits).await?;
        let moved = self.own_rows(rows, answer.value(0), answer.now);
        Ok(moved.map(|_| lease.map_or(Duration::MAX, |lease| answer.sent + lease.ttl)))
    }

    async fn amend(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        self.rewrite(row, note, limits).await
    }

    async fn left(&mut self, lock: &LockName, lease: u64, limits: Limits) -> Result<Option<Duration>, Trouble> {
        let answer = self.ask(&self.script.left(lock, lease), limits).await?;
        Ok(answer.value(0).number().map(Duration::from_micros))
    }

    async fn leave(&mut self, locks: &[&LockName], lease: u64, limits: Limits) -> Result<bool, Trouble> {
        let answer = self.ask(&self.script.leave(locks, lease), limits).await?;
        self.held.retain(|_, (on, _)| *on != lease);
        Ok(answer.value(0).number().is_some_and(|rows| rows > 0))
    }

    /// The other connection listens before the rows are looked at.
    async fn watch(&mut self, watched: &[Watched], limits: Limits) -> Result<RedisWatch, Trouble> {
        let listened = |watched: &Watched| match watched.subject {
            Subject::Anything => Listened::Anything(watched.lock.clone()),
            Subject::Own(id, _) => Listened::Row(watched.lock.clone(), key_of(&key(watched)), self.held(id)),
            Subject::Row { .. } => Listened::Row(watched.lock.clone(), key_of(&key(watched)), Held::new()),
        };
        let subjects: Vec<_> = watched.iter().filter(|watched| !is_grace(watched)).map(listened).collect();
        let mut heard = subjects.iter().map(|subject| self.script.channel(subject));
        let channel = |watched: &Watched| if is_grace(watched) { None } else { heard.next() };
        let channels: Vec<_> = watched.iter().map(channel).map(Option::unwrap_or_default).collect();
        let link = self.session.listen(&channels, limits).await?;
        let answer = self.ask(&self.script.watch(&subjects), limits).await?;
        Ok(RedisWatch::new(link, watched, channels, &answer))
    }

    async fn call(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        self.rewrite(row, note, limits).await
    }

    async fn remove(&mut self, row: Target<'_>, limits: Limits) -> Result<bool, Trouble> {
        let (lock, row) = row;
        let answer = self.ask(&self.script.remove(lock, row), limits).await?;
        self.held.remove(&row.contender.id);
        Ok(answer.value(0).number() == Some(1))
    }

    async fn list(&mut self, from: Option<&str>, limits: Limits) -> Result<Page, Trouble> {
        let Names { names, next, .. } = self.names(from.unwrap_or_default(), limits).await?;
        let used = |(lock, _, rows): (LockName, u64, Vec<Row>)| (!rows.is_empty()).then_some((lock, rows));
        Ok(Page { locks: names.into_iter().filter_map(used).collect(), next })
    }

    async fn prune(&mut self, unused: Duration, dry_run: bool, limits: Limits) -> Result<usize, Trouble> {
        let (mut pruned, mut from) = (0, Some(String::new()));
        while let Some(first) = from {
            let Names { names, now, next } = self.names(&first, limits).await?;
            let since = u64::try_from(unused.as_micros()).map_or(0, |unused| now.saturating_sub(unused));
            for (lock, last, _) in names.iter().filter(|(_, _, rows)| rows.is_empty()) {
                if suspend_aware_now() >= limits.until {
                    return Ok(pruned);
                }
                pruned += match dry_run {
                    true => usize::from(*last < since),
                    false => {
                        let answer = self.ask(&self.script.prune(lock, unused), limits).await?;
                        usize::from(answer.value(0).number() == Some(1))
                    }
                };
            }
            from = next;
        }
        Ok(pruned)
    }
}
