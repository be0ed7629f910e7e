//! How a row of a queue is read from columns.

use std::time::Duration;

use super::answer::{Columns, Rows, number, text};
use crate::lock::server::queue::{Contender, Id, State};
use crate::lock::server::row::{Note, Row};

/// A row, and for how long its lease lives.
pub struct Found {
    /// The row.
    pub row: Row,
    /// Zero if it has ended.
    pub expires_in: Duration,
}

/// The rows of an answer. One that cannot be read is an exclusive one of another
/// program.
pub fn found(rows: &Rows) -> Vec<Found> {
    rows.iter().map(read).collect()
}

/// The same without their leases.
pub fn rows(found: Vec<Found>) -> Vec<Row> {
    found.into_iter().map(|found| found.row).collect()
}

/// An id in the first column.
pub fn id(columns: &Columns) -> Option<Id> {
    Id::parse(text(columns, 0)?)
}

/// In the order of [`COLUMNS`](super::sql::COLUMNS), with the note behind.
fn read(columns: &Columns) -> Found {
    let key = text(columns, 0).unwrap_or_default().to_owned();
    let number_in = |column| number::<u64>(columns, column).unwrap_or(0);
    let note = data_encoding::HEXLOWER_PERMISSIVE.decode(text(columns, 9).unwrap_or_default().as_bytes());
    let note = note.ok().and_then(|note| Note::parse(&note)).unwrap_or_default();
    let fence = Some(number_in(4)).filter(|fence| *fence > 0);
    let mut contender = Contender::from(&note.mode);
    contender.id = id(columns).unwrap_or_else(|| Id::of_foreign(key.as_bytes()));
    if fence.is_some() {
        contender.state = State::Granted(number(columns, 5));
    }
    let microseconds = number::<i64>(columns, 8).unwrap_or(0).max(0);
    Found {
        row: Row { contender, order: number_in(1), version: number_in(2), fence, lease: number_in(6), key, note },
        expires_in: Duration::from_micros(microseconds.unsigned_abs()),
    }
}
