//! The messages. Each is one transaction of several statements: a statement sees what
//! was committed before it began, and one that waited for the door of a lock has to
//! see what was committed while it waited. So what decides is never in the statement
//! that takes the door.
//!
//! Names are encoded, ids are hexadecimal, notes are sent as hexadecimal: nothing here
//! needs quoting, whatever the server's settings.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::schema::Schema;
use crate::lock::server::queue::{Id, Mode};
use crate::lock::server::row::{LockName, Note, Row};
use crate::lock::server::store::{Condition, Entry, Lease, Watched};

/// The server's clock. now() is older: that of the transaction's beginning.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
/// In `skew`: the row had its second chance.
const GIVEN_TIME: i64 = 9_000_000_000_000_000;
/// In `expires`: it stays until it is removed.
const NEVER: i64 = 9_000_000_000_000_000_000;
/// The server gives up before its client does.
const LIMITS: &str = "SET LOCAL statement_timeout = 10000; SET LOCAL lock_timeout = 8000; \
                      SET LOCAL idle_in_transaction_session_timeout = 10000;";
/// What is lost by a crash of the server has to be the end of a lease, not a grant.
const DURABLE: &str =
    "SELECT set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true);";
/// A row that comes back after a crash ends with its lease.
const FAST: &str = "SELECT set_config('synchronous_commit', 'off', true);";
/// The columns of a row, for [`super::rows`].
pub const COLUMNS: &str = "id, ord, version, mode, fence, slot, lease, ttl, expires";

/// The writer of messages.
#[derive(Clone, Debug)]
pub struct Sql {
    schema: Schema,
    lock: String,
    contender: String,
}

impl Sql {
    /// For the tables of a schema.
    pub fn new(schema: Schema) -> Self {
        Self { lock: schema.table("lock"), contender: schema.table("contender"), schema }
    }

    fn begin(&self, durability: &str) -> String {
        let store = self.schema.identification();
        // The settings return rows, too: the store's come first.
        format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {LIMITS} {store} {durability}")
    }

    fn read_only(&self) -> String {
        let store = self.schema.identification();
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LIMITS} {store}")
    }

    /// Makes the lock's row, keeps others out until the end of the transaction, and
    /// draws a number: order, version and fence.
    fn door(&self, lock: &str) -> String {
        let Self { lock: table, .. } = self;
        format!(
            "INSERT INTO {table} AS l VALUES ('{lock}', GREATEST({NOW}, (SELECT seq + 1 FROM {table} WHERE name = ''))) \
             ON CONFLICT (name) DO UPDATE SET seq = GREATEST(l.seq + 1, {NOW});"
        )
    }

    /// Removes rows whose lease has ended. One that was last heard of when the server's
    /// clock and ours were differently far apart than now has perhaps ended by a step
    /// of a clock: it gets its time once more, and a living holder renews meanwhile. One
    /// that ends too late is cut, because the server's clock was set back; it may be set
    /// right again, so that counts as heard of.
    fn purge(&self, condition: &str) -> String {
        let Self { contender, .. } = self;
        let wall = wall_clock();
        let is_odd = format!("abs(skew - ({NOW} - {wall})) >= GREATEST(ttl / 2, 1000000)");
        let gone = self.tell_gone(&format!(
            "DELETE FROM {contender} WHERE {condition} AND expires <= {NOW} AND (skew = {GIVEN_TIME} OR NOT ({is_odd}))"
        ));
        format!(
            "UPDATE {contender} SET expires = {NOW} + ttl, \
             skew = CASE WHEN expires <= {NOW} THEN {GIVEN_TIME} ELSE {NOW} - {wall} END \
             WHERE {condition} AND expires < {NEVER} AND (expires > {NOW} + ttl + 1000000 \
             OR expires <= {NOW} AND skew <> {GIVEN_TIME} AND {is_odd}); {gone}"
        )
    }

    /// Deletes, and tells who waits for these rows.
    fn tell_gone(&self, delete: &str) -> String {
        format!("WITH changed AS ({delete} RETURNING id, name) {}", self.tell_changed())
    }

    /// Rings for the rows of `changed`.
    fn tell_changed(&self) -> &'static str {
        "SELECT id, pg_notify('lr_' || id, ''), \
         pg_notify('lrn_' || left(encode(sha256(convert_to(name, 'UTF8')), 'hex'), 40), '') FROM changed;"
    }

    /// The last number of a lock, then its rows.
    fn rows(&self, lock: &str, condition: &str) -> String {
        let Self { lock: table, contender, .. } = self;
        format!(
            "SELECT seq FROM {table} WHERE name = '{lock}'; \
             SELECT {COLUMNS} - {NOW}, encode(note, 'hex') FROM {contender} WHERE name = '{lock}' {condition} \
             ORDER BY ord;"
        )
    }

    /// Everything of a lock, without a write.
    pub fn look(&self, lock: &LockName) -> String {
        let rows = self.rows(lock.encoded(), &format!("AND expires > {NOW}"));
        format!("{} {rows} COMMIT", self.read_only())
    }

    /// What decides about a row.
    pub fn turn(&self, lock: &LockName) -> String {
        let name = lock.encoded();
        format!("{} {} {} COMMIT", self.begin(FAST), self.purge(&format!("name = '{name}'")), self.rows(name, ""))
    }

    /// Enters rows; then the rows of each lock.
    pub fn enter(&self, lease: Lease, entries: &[Entry<'_>], condition: Condition<'_>) -> String {
        let Self { lock: table, contender, .. } = self;
        let mut sql = self.begin(DURABLE);
        // Everybody in the same order.
        let mut doors: Vec<_> = entries.iter().map(|entry| entry.lock.encoded()).collect();
        doors.sort_unstable();
        for name in &doors {
            let _ = write!(sql, "{} {}", self.door(name), self.purge(&format!("name = '{name}'")));
        }
        let conditions: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(place, entry)| {
                let others =
                    format!("SELECT FROM {contender} WHERE name = '{}' AND id <> '{}'", entry.lock.encoded(), entry.id);
                match condition {
                    Condition::Always => "true".into(),
                    Condition::Empty => format!("NOT EXISTS ({others})"),
                    Condition::Unchanged(looks) => match looks.get(place).filter(|look| !look.rows.is_empty()) {
                        Some(look) => {
                            let known = ids(look.rows.iter().map(|row| row.contender.id));
                            format!("NOT EXISTS ({others} AND NOT (id IN ({known}) AND version <= {}))", look.at)
                        }
                        None => format!("NOT EXISTS ({others})"),
                    },
                }
            })
            .collect();
        let _ = write!(
            sql,
            "SELECT set_config('lockrun.may_enter', CASE WHEN {} THEN 'yes' ELSE 'no' END, true);",
            conditions.join(" AND ")
        );
        let wall = wall_clock();
        let ttl = lease.ttl.as_micros();
        for entry in entries {
            let (name, id, mode) = (entry.lock.encoded(), entry.id, letter(entry.mode));
            let others = format!("SELECT FROM {contender} c WHERE c.name = '{name}'");
            let is_granted = match (entry.granted, condition, entry.mode) {
                (Some(_), ..) | (_, Condition::Empty, Mode::Exclusive | Mode::Shared) => "true".into(),
                (_, Condition::Always, Mode::Exclusive) => format!("NOT EXISTS ({others})"),
                (_, Condition::Always, Mode::Shared) => format!("NOT EXISTS ({others} AND c.mode <> 's')"),
                _ => "false".into(),
            };
            let slot = number(entry.granted.flatten());
            let note = hex(entry.note);
            let _ = write!(
                sql,
                "WITH changed AS (INSERT INTO {contender} \
                 SELECT '{id}', name, seq, seq, '{mode}', CASE WHEN {is_granted} THEN seq ELSE 0 END, {slot}, \
                 {lease}, {ttl}, {NOW} + {ttl}, {NOW} - {wall}, {note} FROM {table} \
                 WHERE name = '{name}' AND current_setting('lockrun.may_enter') = 'yes' \
                 ON CONFLICT (id) DO NOTHING RETURNING id, name) {}",
                self.tell_changed(),
                lease = lease.id,
            );
        }
        for entry in entries {
            sql.push_str(&self.rows(entry.lock.encoded(), ""));
        }
        sql + "COMMIT"
    }

    /// Writes a grant; then the row's fence, whoever wrote it.
    pub fn grant(&self, lock: &LockName, me: Id, slot: Option<u32>) -> String {
        let Self { lock: table, contender, .. } = self;
        let (name, slot) = (lock.encoded(), number(slot));
        format!(
            "{} {} WITH changed AS (UPDATE {contender} c SET fence = l.seq, version = l.seq, slot = {slot} \
             FROM {table} l WHERE c.id = '{me}' AND c.fence = 0 AND l.name = '{name}' RETURNING c.id, c.name) {} \
             SELECT fence FROM {contender} WHERE id = '{me}'; COMMIT",
            self.begin(DURABLE),
            self.door(name),
            self.tell_changed(),
        )
    }

    /// Renews; returns the rows that were. Then which of the rows that are waited for
    /// are there, and whether they wait themselves.
    pub fn keep(&self, lease: Lease, waits: &[(Id, &LockName)]) -> String {
        let Self { contender, .. } = self;
        let wall = wall_clock();
        let mut sql = format!(
            "{} UPDATE {contender} SET expires = {NOW} + ttl, skew = {NOW} - {wall} WHERE lease = {} \
             RETURNING id, ord, ttl;",
            self.begin(DURABLE),
            lease.id
        );
        if !waits.is_empty() {
            let ids = ids(waits.iter().map(|(id, _)| *id));
            let _ = write!(
                sql,
                "{} SELECT id, fence FROM {contender} WHERE id IN ({ids});",
                self.purge(&format!("id IN ({ids})"))
            );
        }
        sql + "COMMIT"
    }

    /// Puts rows on another lease; returns those that were there.
    pub fn move_to(&self, lease: Option<Lease>, rows: &[(&LockName, &Row)]) -> String {
        let Self { lock: table, contender, .. } = self;
        let mut sql = self.begin(DURABLE);
        let mut names: Vec<_> = rows.iter().map(|(lock, _)| lock.encoded()).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().for_each(|name| sql.push_str(&self.door(name)));
        let (id, ttl, expires) = match lease {
            Some(lease) => (lease.id, lease.ttl.as_micros(), format!("{NOW} + {}", lease.ttl.as_micros())),
            None => (0, 0, NEVER.to_string()),
        };
        let wall = wall_clock();
        let rows: Vec<_> = rows.iter().map(|(_, row)| format!("('{}', {})", row.contender.id, row.order)).collect();
        let _ = write!(
            sql,
            "UPDATE {contender} c SET lease = {id}, ttl = {ttl}, expires = {expires}, skew = {NOW} - {wall}, \
             version = l.seq FROM {table} l WHERE l.name = c.name AND (c.id, c.ord) IN ({}) RETURNING c.id; COMMIT",
            rows.join(", ")
        );
        sql
    }

    /// Writes a note, if the row is as it was seen; then the row's note.
    pub fn rewrite(&self, lock: &LockName, row: &Row, note: &Note) -> String {
        let Self { lock: table, contender, .. } = self;
        let (id, note) = (row.contender.id, hex(note));
        format!(
            "{} {} WITH changed AS (UPDATE {contender} c SET note = {note}, version = l.seq FROM {table} l \
             WHERE l.name = c.name AND c.id = '{id}' AND c.ord = {} AND c.version = {} RETURNING c.id, c.name) {} \
             SELECT note = {note} FROM {contender} WHERE id = '{id}' AND ord = {}; COMMIT",
            self.begin(DURABLE),
            self.door(lock.encoded()),
            row.order,
            row.version,
            self.tell_changed(),
            row.order,
        )
    }

    /// For how long a lease lives, if it has rows.
    pub fn left(&self, lease: u64) -> String {
        let Self { contender, .. } = self;
        format!(
            "{} SELECT expires - {NOW} FROM {contender} WHERE lease = {lease} ORDER BY expires LIMIT 1; COMMIT",
            self.read_only()
        )
    }

    /// Ends a lease; returns the rows that were on it.
    pub fn leave(&self, lease: u64) -> String {
        let Self { lock: table, contender, .. } = self;
        let names = format!("SELECT name FROM {contender} WHERE lease = {lease}");
        format!(
            "{} SELECT FROM {table} WHERE name IN ({names}) ORDER BY name FOR UPDATE; \
             UPDATE {table} SET seq = GREATEST(seq + 1, {NOW}) WHERE name IN ({names}); {} COMMIT",
            self.begin(FAST),
            self.tell_gone(&format!("DELETE FROM {contender} WHERE lease = {lease}"))
        )
    }

    /// Removes a row; returns it if it was there.
    pub fn remove(&self, lock: &LockName, row: &Row) -> String {
        let Self { contender, .. } = self;
        let delete = format!("DELETE FROM {contender} WHERE id = '{}' AND ord = {}", row.contender.id, row.order);
        format!("{} {} {} COMMIT", self.begin(DURABLE), self.door(lock.encoded()), self.tell_gone(&delete))
    }

    /// Listens for what is watched; then how it is now: the rows, and the last numbers
    /// of the locks.
    pub fn watch(&self, watched: &[Watched]) -> String {
        let Self { lock: table, contender, .. } = self;
        let mut sql = format!("{} UNLISTEN *;", self.begin(FAST));
        for channel in watched.iter().map(channel) {
            let _ = write!(sql, "LISTEN \"{channel}\";");
        }
        let ids = ids(watched.iter().filter_map(super::watch::row_of));
        let names: Vec<_> = watched.iter().map(|watched| format!("'{}'", watched.lock.encoded())).collect();
        // A new transaction: it sees what was committed before we listened.
        let _ = write!(
            sql,
            "COMMIT; {} SELECT {COLUMNS} - {NOW}, encode(note, 'hex') FROM {contender} WHERE id IN ({ids}); \
             SELECT name, seq FROM {table} WHERE name IN ({}); COMMIT",
            self.read_only(),
            names.join(", ")
        );
        sql
    }

    /// The rows of some locks, in the order of their names.
    pub fn list(&self, from: Option<&str>, locks: usize) -> String {
        let Self { contender, .. } = self;
        let from = from.unwrap_or_default();
        format!(
            "{} SELECT {COLUMNS} - {NOW}, encode(note, 'hex'), name FROM {contender} WHERE expires > {NOW} AND name IN \
             (SELECT DISTINCT name FROM {contender} WHERE name >= '{from}' ORDER BY name LIMIT {}) \
             ORDER BY name, ord; COMMIT",
            self.read_only(),
            locks + 1
        )
    }

    /// Names without rows that nobody has used for so long.
    pub fn unused(&self, unused: Duration) -> String {
        let Self { lock: table, contender, .. } = self;
        format!(
            "{} SELECT name FROM {table} l WHERE name <> '' AND seq < {NOW} - {} AND NOT EXISTS \
             (SELECT FROM {contender} c WHERE c.name = l.name); COMMIT",
            self.read_only(),
            unused.as_micros()
        )
    }

    /// Removes a name without rows. The highest number stays, so that fences rise on.
    pub fn prune(&self, name: &str) -> String {
        let Self { lock: table, contender, .. } = self;
        format!(
            "{} SELECT FROM {table} WHERE name = '{name}' FOR UPDATE; \
             WITH d AS (DELETE FROM {table} l WHERE name = '{name}' AND NOT EXISTS \
             (SELECT FROM {contender} c WHERE c.name = l.name) RETURNING seq), \
             floor AS (INSERT INTO {table} AS l SELECT '', seq FROM d \
             ON CONFLICT (name) DO UPDATE SET seq = GREATEST(l.seq, excluded.seq)) \
             SELECT seq FROM d; COMMIT",
            self.begin(DURABLE)
        )
    }
}

/// Where changes of a row, or of everything about a lock, are told.
pub fn channel(watched: &Watched) -> String {
    match super::watch::row_of(watched) {
        Some(id) => format!("lr_{id}"),
        None => {
            let hash = Sha256::digest(watched.lock.encoded());
            let hash: String = hash[..20].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("lrn_{hash}")
        }
    }
}

fn letter(mode: Mode) -> char {
    match mode {
        Mode::Exclusive => 'x',
        Mode::Shared => 's',
        Mode::AnySlot { .. } | Mode::Slot(_) => 'p',
    }
}

fn number(slot: Option<u32>) -> String {
    slot.map_or_else(|| "NULL::bigint".into(), |slot| slot.to_string())
}

fn hex(note: &Note) -> String {
    let digits: String = note.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("decode('{digits}', 'hex')")
}

/// A list of ids, which is never empty.
fn ids(ids: impl Iterator<Item = Id>) -> String {
    let mut list = String::from("''");
    ids.for_each(|id| list.push_str(&format!(", '{id}'")));
    list
}

/// Ours, in microseconds.
fn wall_clock() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}
