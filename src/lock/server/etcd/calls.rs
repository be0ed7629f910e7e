//! The requests that a queue of rows needs. Each may be repeated if its answer was
//! lost; every error means that there was no usable answer, and a write may have been
//! done.
//!
//! Keys here are etcd's; the module above gives them their meaning.

use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::answers::{Granted, KeyValue, Plain, Range, Remaining, Renewal, Status, Txn};
use super::gateway::{Gateway, Identity, Reply};
use crate::lock::server::store::Trouble;
use crate::net::{Limits, Unreachable};
use crate::sys::suspend_aware_now;

/// Chosen by us, so that a repeated grant makes one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId(pub i64);

/// etcd's count of changes. A key's place in the queue is the revision in which it was
/// made.
pub type Revision = i64;

/// A range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first key.
    pub from: String,
    /// The first key after the range; `None`: only `from`.
    pub to: Option<String>,
}

impl Span {
    /// One key.
    pub fn one(key: impl Into<String>) -> Self {
        Self { from: key.into(), to: None }
    }

    fn json(&self) -> Value {
        match &self.to {
            None => json!({"key": base64(&self.from)}),
            Some(to) => json!({"key": base64(&self.from), "rangeEnd": base64(to)}),
        }
    }

    fn with(&self, more: Value) -> Value {
        merged(self.json(), more)
    }
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Read {
    span: Span,
    options: Value,
}

impl Read {
    /// Everything, by key.
    pub fn all(span: Span) -> Self {
        Self { span, options: json!({}) }
    }

    /// All keys that were made up to a revision.
    pub fn up_to(span: Span, revision: Revision) -> Self {
        Self { span, options: json!({"maxCreateRevision": revision.to_string()}) }
    }

    /// The `count` newest keys that were made before a revision, newest first.
    pub fn last(span: Span, count: u32, before: Option<Revision>) -> Self {
        let mut options = json!({"limit": count.to_string(), "sortOrder": "DESCEND", "sortTarget": "CREATE"});
        if let Some(before) = before {
            options["maxCreateRevision"] = (before - 1).to_string().into();
        }
        Self { span, options }
    }

    /// Only their number.
    pub fn count(span: Span) -> Self {
        Self { span, options: json!({"countOnly": true}) }
    }

    /// The keys without their values.
    fn keys(span: Span) -> Self {
        Self { span, options: json!({"keysOnly": true}) }
    }

    /// At most `limit`, by key.
    pub fn page(span: Span, limit: u32) -> Self {
        Self { span, options: json!({"limit": limit.to_string()}) }
    }

    fn json(&self) -> Value {
        self.span.with(self.options.clone())
    }

    fn operation(&self) -> Value {
        json!({"requestRange": self.json()})
    }
}

/// Without it a transaction does not write.
#[derive(Clone, Debug)]
pub struct Condition(Value);

impl Condition {
    /// All keys in the span were made in this revision; 0: there are none.
    pub fn made_in(span: &Span, revision: Revision) -> Self {
        Self(span.with(json!({"target": "CREATE", "result": "EQUAL", "createRevision": revision.to_string()})))
    }

    /// There are no keys.
    pub fn empty(span: &Span) -> Self {
        Self::made_in(span, 0)
    }

    /// No key was made or written after this revision. Removed keys do not count.
    pub fn unchanged_since(span: &Span, revision: Revision) -> Self {
        let bound = (revision + 1).to_string();
        Self(span.with(json!({"target": "MOD", "result": "LESS", "modRevision": bound})))
    }

    /// The key was last written in this revision.
    pub fn written_in(key: &str, revision: Revision) -> Self {
        let condition = json!({"target": "MOD", "result": "EQUAL", "modRevision": revision.to_string()});
        Self(Span::one(key).with(condition))
    }
}

/// What a transaction writes.
#[derive(Clone, Debug)]
pub struct Write(Value);

impl Write {
    /// A key that lives as long as the lease.
    pub fn put(key: &str, value: &[u8], lease: LeaseId) -> Self {
        let put = json!({"key": base64(key), "value": BASE64.encode(value), "lease": lease.0.to_string()});
        Self(json!({"requestPut": put}))
    }

    /// A key's value; it keeps its lease.
    pub fn change(key: &str, value: &[u8]) -> Self {
        let put = json!({"key": base64(key), "value": BASE64.encode(value), "ignoreLease": true});
        Self(json!({"requestPut": put}))
    }

    /// A key's lease; it keeps its value.
    pub fn keep_on(key: &str, lease: LeaseId) -> Self {
        let put = json!({"key": base64(key), "lease": lease.0.to_string(), "ignoreValue": true});
        Self(json!({"requestPut": put}))
    }

    /// Removes a key.
    pub fn remove(key: &str) -> Self {
        Self(json!({"requestDeleteRange": {"key": base64(key)}}))
    }
}

/// The result of a conditional write.
pub struct Written {
    /// Whether the conditions held.
    pub done: bool,
    /// The store's revision then.
    pub revision: Revision,
    /// One for each read.
    pub found: Vec<Range>,
}

/// How long a lease lasts if it is not renewed.
#[derive(Clone, Copy, Debug)]
pub struct Lasting {
    /// Until then, by [`suspend_aware_now`].
    pub until: Duration,
    /// Its length, which may be more than was asked for.
    pub ttl: Duration,
}

/// The result of renewing a lease.
#[derive(Debug)]
pub enum Renewed {
    /// The lease lives.
    Until {
        /// How long it lasts now.
        lasting: Lasting,
        /// The keys on it, without values.
        own: Vec<KeyValue>,
        /// The keys in each of the other spans.
        also: Vec<Range>,
    },
    /// The lease has ended, or one of the keys is gone.
    Gone,
}

impl Lasting {
    fn from(sent: Duration, seconds: u64) -> Self {
        let ttl = Duration::from_secs(seconds);
        Self { until: sent.saturating_add(ttl), ttl }
    }
}

/// The requests.
pub struct Calls {
    /// Where they go.
    pub gateway: Gateway,
}

impl Calls {
    /// Makes a lease of at least this many seconds.
    pub async fn grant(&mut self, lease: LeaseId, seconds: u64, limits: Limits) -> Result<Lasting, Trouble> {
        let first_sent = suspend_aware_now();
        let body = json!({"TTL": seconds.to_string(), "ID": lease.0.to_string()});
        let (reply, sent) = self.gateway.ask::<Granted>("lease/grant", &body, Identity::Hidden, limits).await?;
        Ok(match reply {
            Reply::Done(granted) => Lasting::from(sent, granted.ttl),
            // An earlier try made it, perhaps the first.
            Reply::LeaseExists | Reply::NoSuchLease => Lasting::from(first_sent, seconds),
        })
    }

    /// Ends a lease and removes its keys. `false`: there was none.
    pub async fn revoke(&mut self, lease: LeaseId, limits: Limits) -> Result<bool, Trouble> {
        let body = json!({"ID": lease.0.to_string()});
        let (reply, _) = self.gateway.ask::<Plain>("lease/revoke", &body, Identity::Shown, limits).await?;
        Ok(matches!(reply, Reply::Done(_)))
    }

    /// How long a lease lives if it is not renewed; `None`: it is not there.
    pub async fn left(&mut self, lease: LeaseId, limits: Limits) -> Result<Option<Duration>, Trouble> {
        let body = json!({"ID": lease.0.to_string()});
        let (reply, _) = self.gateway.ask::<Remaining>("lease/timetolive", &body, Identity::Shown, limits).await?;
        Ok(match reply {
            Reply::Done(remaining) => remaining.left(),
            Reply::NoSuchLease | Reply::LeaseExists => None,
        })
    }

    /// Renews a lease, and proves that this counts.
    ///
    /// A leader that has been deposed goes on renewing for as long as an election
    /// takes, while the leases of its successor run from the start of the new term. So
    /// the keys are then read with a quorum, from the same server. In the same term, no
    /// later leader can have existed at the renewal. In another term the lease is
    /// renewed again.
    ///
    /// "No such lease" is not believed while the keys are there: a new leader may not
    /// have read its own log to the end.
    pub async fn keep(
        &mut self,
        lease: LeaseId,
        keys: &[(String, Revision)],
        also: &[Span],
        limits: Limits,
    ) -> Result<Renewed, Trouble> {
        let own = keys.iter().map(|(key, _)| Read::keys(Span::one(key)));
        let reads: Vec<_> = own.chain(also.iter().cloned().map(Read::keys)).collect();
        while suspend_aware_now() < limits.until {
            let body = json!({"ID": lease.0.to_string()});
            let (reply, sent) = self.gateway.ask::<Renewal>("lease/keepalive", &body, Identity::Hidden, limits).await?;
            let connection = self.gateway.connection();
            let renewed = match reply {
                Reply::Done(renewal) if renewal.ttl() > 0 => Some((renewal.ttl(), renewal.term())),
                _ if keys.is_empty() => return Ok(Renewed::Gone),
                _ => None,
            };
            if keys.is_empty()
                && let Some((ttl, _)) = renewed
            {
                let lasting = Lasting::from(sent, ttl);
                return Ok(Renewed::Until { lasting, own: Vec::new(), also: Vec::new() });
            }
            let mut read = self.read_together(&reads, limits).await?;
            let there = keys
                .iter()
                .zip(&read.ranges)
                .all(|((_, made), range)| range.kvs.first().is_some_and(|key| key.create_revision == *made));
            if !there {
                return Ok(Renewed::Gone);
            }
            if let Some((ttl, term)) = renewed
                && term == read.term
                && connection == self.gateway.connection()
            {
                let lasting = Lasting::from(sent, ttl);
                let also = read.ranges.split_off(keys.len());
                let own = read.ranges.into_iter().flat_map(|range| range.kvs).collect();
                return Ok(Renewed::Until { lasting, own, also });
            }
            crate::net::pause_randomly(0).await;
        }
        Err(Trouble::Unreachable(Unreachable { faults: Vec::new(), was_sent: true }))
    }

    /// Reads one span.
    pub async fn read(&mut self, read: &Read, limits: Limits) -> Result<(Range, Revision), Trouble> {
        let (reply, _) = self.gateway.ask::<Range>("kv/range", &read.json(), Identity::Shown, limits).await?;
        Ok(match reply {
            Reply::Done(range) => {
                let revision = range.revision();
                (range, revision)
            }
            Reply::NoSuchLease | Reply::LeaseExists => (Range::default(), 0),
        })
    }

    /// Reads several spans at one revision.
    pub async fn read_together(&mut self, reads: &[Read], limits: Limits) -> Result<ReadTogether, Trouble> {
        let body = json!({"success": operations(reads)});
        let (reply, _) = self.gateway.ask::<Txn>("kv/txn", &body, Identity::Shown, limits).await?;
        let Reply::Done(txn) = reply else {
            return Ok(ReadTogether { ranges: Vec::new(), revision: 0, term: 0 });
        };
        let (revision, term) = (txn.revision(), txn.term());
        let mut ranges: Vec<_> = txn.ranges().collect();
        ranges.resize_with(reads.len(), Range::default);
        Ok(ReadTogether { ranges, revision, term })
    }

    /// Writes if all conditions hold, and reads in the same step. `None`: the lease has
    /// ended.
    pub async fn write(
        &mut self,
        conditions: &[Condition],
        writes: &[Write],
        then: &[Read],
        otherwise: &[Read],
        limits: Limits,
    ) -> Result<Option<Written>, Trouble> {
        let compare: Vec<_> = conditions.iter().map(|condition| condition.0.clone()).collect();
        let mut success: Vec<_> = writes.iter().map(|write| write.0.clone()).collect();
        success.extend(operations(then));
        let body = json!({"compare": compare, "success": success, "failure": operations(otherwise)});
        let (reply, _) = self.gateway.ask::<Txn>("kv/txn", &body, Identity::Shown, limits).await?;
        let Reply::Done(txn) = reply else {
            return Ok(None);
        };
        let (done, revision) = (txn.succeeded, txn.revision());
        let mut found: Vec<_> = txn.ranges().collect();
        found.resize_with(if done { then.len() } else { otherwise.len() }, Range::default);
        Ok(Some(Written { done, revision, found }))
    }

    /// The version of the server that answers.
    pub async fn version(&mut self, limits: Limits) -> Result<String, Trouble> {
        let (reply, _) = self.gateway.ask::<Status>("maintenance/status", &json!({}), Identity::Shown, limits).await?;
        Ok(match reply {
            Reply::Done(status) => status.version,
            Reply::NoSuchLease | Reply::LeaseExists => String::new(),
        })
    }
}

/// Several reads at one revision.
pub struct ReadTogether {
    /// One for each read.
    pub ranges: Vec<Range>,
    /// The store's.
    pub revision: Revision,
    /// Of the server's leader.
    pub term: u64,
}

fn operations(reads: &[Read]) -> Vec<Value> {
    reads.iter().map(Read::operation).collect()
}

fn base64(key: &str) -> String {
    BASE64.encode(key.as_bytes())
}

fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

/// The name of a key.
pub fn key_of(found: &KeyValue) -> String {
    String::from_utf8_lossy(&found.key).into_owned()
}
