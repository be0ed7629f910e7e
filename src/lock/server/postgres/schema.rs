//! The tables, made on first use.

use super::answer::Rows;

/// The format of the tables that this lockrun makes, and the newest that it knows.
pub const FORMAT: u32 = 1;

/// Any number that nobody else uses: without the lock, fifty clients that make the
/// tables at once fail although each says IF NOT EXISTS.
const MAKING: i64 = 5_712_060_171_190_226_029;

/// Rows change often and few are there: room in each page spares the index, and dead
/// rows go early.
const BUSY: &str = "autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0";

/// Where the tables are.
#[derive(Clone, Debug)]
pub struct Schema(String);

impl Schema {
    /// By a name of letters, digits and `_`.
    pub fn new(name: &str) -> Self {
        Self(format!("\"{name}\""))
    }

    /// A table's full name.
    pub fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.0)
    }

    /// What makes the tables.
    ///
    /// - `store`: one row, which store this is and of which format
    /// - `lock`: a name, and the last number that was drawn for it. The row named ''
    ///   has the highest number of a name that was removed.
    /// - `contender`: the rows of the queues. `fence` is 0 while it waits; times are in
    ///   microseconds of the server's clock; `skew` is how far that was ahead of the
    ///   contender's own when it was last heard of.
    pub fn creation(&self) -> String {
        let Self(schema) = self;
        format!(
            "BEGIN; SELECT pg_advisory_xact_lock({MAKING}); \
             CREATE SCHEMA IF NOT EXISTS {schema}; \
             CREATE TABLE IF NOT EXISTS {schema}.store (id text PRIMARY KEY, format int NOT NULL); \
             CREATE TABLE IF NOT EXISTS {schema}.lock (name text COLLATE \"C\" PRIMARY KEY, seq bigint NOT NULL) \
             WITH (fillfactor = 20, {BUSY}); \
             CREATE TABLE IF NOT EXISTS {schema}.contender (id text COLLATE \"C\" PRIMARY KEY, \
             name text COLLATE \"C\" NOT NULL, ord bigint NOT NULL, version bigint NOT NULL, mode text NOT NULL, \
             fence bigint NOT NULL, slot bigint, lease bigint NOT NULL, ttl bigint NOT NULL, expires bigint NOT NULL, \
             skew bigint NOT NULL, note bytea NOT NULL) WITH (fillfactor = 50, {BUSY}); \
             CREATE UNIQUE INDEX IF NOT EXISTS contender_ord ON {schema}.contender (name, ord); \
             CREATE UNIQUE INDEX IF NOT EXISTS contender_slot ON {schema}.contender (name, slot); \
             CREATE INDEX IF NOT EXISTS contender_lease ON {schema}.contender (lease); \
             INSERT INTO {schema}.store SELECT md5(random()::text || clock_timestamp()::text), {FORMAT} \
             WHERE NOT EXISTS (SELECT FROM {schema}.store); \
             COMMIT"
        )
    }

    /// The row that every message asks for first.
    pub fn identification(&self) -> String {
        format!("SELECT id, format, pg_is_in_recovery() FROM {};", self.table("store"))
    }

    /// What to do where the tables are not there and may not be made.
    pub fn is_missing(&self) -> String {
        format!(
            "the tables are missing: let a user who may create the schema {} run lockrun once, or 'lockrun list'; then {}",
            self.0,
            self.rights()
        )
    }

    /// What a user needs.
    pub fn rights(&self) -> String {
        let Self(schema) = self;
        format!(
            "GRANT USAGE ON SCHEMA {schema} TO the user; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \
             {schema} TO the user (SELECT is enough for looking)"
        )
    }
}

/// The row of the store.
pub struct StoreRow {
    /// Which store it is.
    pub id: String,
    /// The format of its tables.
    pub format: u32,
    /// Whether the server is a standby, whose rows may be old.
    pub is_standby: bool,
}

impl StoreRow {
    /// From the answer to [`identification`](Schema::identification).
    pub fn read(rows: &Rows) -> Option<Self> {
        let row = rows.first()?;
        let column = |number: usize| row.get(number)?.as_deref();
        Some(Self { id: column(0)?.to_owned(), format: column(1)?.parse().ok()?, is_standby: column(2)? == "t" })
    }
}
