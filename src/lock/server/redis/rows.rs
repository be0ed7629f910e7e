//! How a row of a queue is read from the text that `store.lua` writes.

use std::time::Duration;

use super::resp::Value;
use crate::lock::server::queue::{Contender, Id, Mode, State};
use crate::lock::server::row::{Note, Row};

/// The key of the row that stands for the time after the server's start.
const GRACE: &str = "the server has just started";

/// A row, and for how long its lease lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The row.
    pub row: Row,
    /// As it was read, to put it back if the server loses it.
    pub text: Vec<u8>,
    /// Zero if it has ended, MAX if it never does.
    pub expires_in: Duration,
}

/// A list of keys and texts, holders first. `now`: the server's clock, in microseconds.
///
/// A holder's row that was put back may have a later order than waiters that came
/// after it; in front, it excludes them.
pub fn found(rows: &[Value], now: u64) -> Vec<Found> {
    let mut found: Vec<_> = rows.chunks_exact(2).map(|row| read(row[0].bytes(), row[1].bytes(), now)).collect();
    found.sort_by_key(|found| (found.row.contender.state == State::Waiting, found.row.order));
    found
}

/// One that cannot be read is an exclusive one of another program.
pub fn read(key: &[u8], text: &[u8], now: u64) -> Found {
    let key: String = key.iter().copied().map(char::from).collect();
    parse(&key, text, now).unwrap_or_else(|| {
        let id = Id::of_foreign(key.as_bytes());
        let contender = Contender { id, mode: Mode::Exclusive, state: State::Granted(None) };
        let row = Row { contender, order: 0, version: 0, fence: None, lease: 0, key, note: Note::default() };
        Found { row, text: Vec::new(), expires_in: Duration::MAX }
    })
}

fn parse(key: &str, text: &[u8], now: u64) -> Option<Found> {
    let mut fields = text.splitn(10, |byte| *byte == b'|');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (order, version) = (field()?.parse().ok()?, field()?.parse().ok()?);
    let mode = field()?;
    let fence = Some(field()?.parse().ok()?).filter(|fence| *fence > 0);
    let slot = Some(field()?).filter(|slot| !slot.is_empty()).map(str::parse).transpose().ok()?;
    let lease = field()?.parse().ok()?;
    let (_ttl, expires, _skew) = (field()?, field()?.parse::<u64>().ok()?, field()?);
    let note = Note::parse(fields.next()?).unwrap_or_default();
    let mut contender = Contender::from(&note.mode);
    let is_as_noted = match contender.mode {
        Mode::Exclusive => mode == "x",
        Mode::Shared => mode == "s",
        Mode::AnySlot { .. } | Mode::Slot(_) => mode == "p",
    };
    contender.id = Id::parse(key).filter(|_| is_as_noted)?;
    if fence.is_some() {
        contender.state = State::Granted(slot);
    }
    let expires_in = match expires {
        0 => Duration::MAX,
        at => Duration::from_micros(at.saturating_sub(now)),
    };
    let row = Row { contender, order, version, fence, lease, key: key.into(), note };
    Some(Found { row, text: text.into(), expires_in })
}

/// The key as the server has it.
pub fn key_of(key: &str) -> Vec<u8> {
    key.chars().map(|character| u8::try_from(character).unwrap_or(b'?')).collect()
}

/// What holds every lock for some time after the server's start: holders that it has
/// forgotten.
pub fn grace() -> Row {
    let contender = Contender { id: grace_id(), mode: Mode::Exclusive, state: State::Granted(None) };
    // It cannot be asked to let go.
    let note = Note { format: 0, command: GRACE.into(), ..Note::default() };
    Row { contender, order: 0, version: 0, fence: None, lease: 0, key: GRACE.into(), note }
}

/// The id of [`grace`].
pub fn grace_id() -> Id {
    Id::of_foreign(GRACE.as_bytes())
}
