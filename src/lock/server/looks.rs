//! What the rows of a lock say.

use super::news::HolderSeen;
use super::queue::{Id, Mode, State, Until, is_waiting};
use super::row::{FORMAT, LockName, Row, contenders};
use super::store::{Look, RowStore, Subject, Trouble, Watched};
use crate::net::Limits;

pub fn own(look: &Look, id: Id) -> Option<Row> {
    look.rows.iter().find(|row| row.contender.id == id).cloned()
}

/// A row of ours as it is now, and at which moment of the store; `None`: it is gone.
pub async fn reread<S: RowStore>(
    store: &mut S,
    lock: &LockName,
    row: &Row,
    limits: Limits,
) -> Result<Option<(Row, u64)>, Trouble> {
    let me = (row.contender.id, row.contender.mode);
    let look = store.turn(lock, me, limits).await?;
    Ok(own(&look, me.0).map(|row| (row, look.at)))
}

/// The rows that hold the lock, or may take it.
pub fn holders_of(rows: &[Row]) -> Vec<HolderSeen> {
    let all = contenders(rows);
    rows.iter().filter(|row| !is_waiting(&all, row.contender.id)).map(HolderSeen::of).collect()
}

/// For --max-waiters.
pub fn count_counted(rows: &[Row]) -> usize {
    let all = contenders(rows);
    rows.iter().filter(|row| !row.note.replace && is_waiting(&all, row.contender.id)).count()
}

/// Whether a row that is held around us gives as much as `mode`.
pub fn covers(row: &Row, mode: Mode) -> bool {
    match (row.contender.mode, row.contender.state) {
        (Mode::Exclusive, _) => true,
        (Mode::Shared, _) => mode == Mode::Shared,
        (_, State::Granted(Some(held))) => match mode {
            Mode::Slot(slot) => slot == held,
            Mode::AnySlot { of } => held < of,
            Mode::Exclusive | Mode::Shared => false,
        },
        _ => false,
    }
}

/// Refuses rows of a newer lockrun, which this one cannot judge.
pub fn check_format(look: &Look) -> Result<(), Trouble> {
    match look.rows.iter().map(|row| row.note.format).max() {
        Some(format) if format > FORMAT => Err(Trouble::Refused(format!(
            "a newer lockrun uses this store: its rows have format {format}, this lockrun reads up to {FORMAT}; \
             update lockrun on this host"
        ))),
        _ => Ok(()),
    }
}

/// What to watch for a [`Wait`](super::queue::Decision::Wait).
pub fn waits_of(name: &LockName, look: &Look, on: &[(Id, Until)]) -> Vec<Watched> {
    let row = |(id, until): &(Id, Until)| {
        let row = own(look, *id)?;
        let subject = Subject::Row { id: *id, key: row.key, until: *until };
        Some(Watched { lock: name.clone(), subject, since: look.at })
    };
    on.iter().filter_map(row).collect()
}
