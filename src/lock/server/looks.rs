//! What the rows of a lock say, for those who contend for it or look at it.

use super::news::HolderSeen;
use super::queue::{Id, Mode, State, Until, is_waiting};
use super::row::{FORMAT, LockName, Row, contenders};
use super::store::{Look, Subject, Trouble, Watched};

/// Our row among others.
pub fn own(look: &Look, id: Id) -> Option<Row> {
    look.rows.iter().find(|row| row.contender.id == id).cloned()
}

/// Those who hold the lock, or are kept from it by nobody.
pub fn holders_of(rows: &[Row]) -> Vec<HolderSeen> {
    let all = contenders(rows);
    rows.iter().filter(|row| !is_waiting(&all, row.contender.id)).map(HolderSeen::of).collect()
}

/// How many --max-waiters counts.
pub fn count_counted(rows: &[Row]) -> usize {
    let all = contenders(rows);
    rows.iter().filter(|row| !row.note.replace && is_waiting(&all, row.contender.id)).count()
}

/// Whether a row that is held around us gives as much as is asked for.
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

/// An older lockrun cannot judge what a newer one wrote.
///
/// # Errors
/// There is such a row.
pub fn check_format(look: &Look) -> Result<(), Trouble> {
    match look.rows.iter().map(|row| row.note.format).max() {
        Some(format) if format > FORMAT => Err(Trouble::Refused(format!(
            "a newer lockrun uses this store: its rows have format {format}, this lockrun reads up to {FORMAT}; \
             update lockrun on this host"
        ))),
        _ => Ok(()),
    }
}

/// What to watch to be woken as [`Wait`](super::queue::Decision::Wait) says.
pub fn waits_of(name: &LockName, look: &Look, on: &[(Id, Until)]) -> Vec<Watched> {
    let row = |(id, until): &(Id, Until)| {
        let row = own(look, *id)?;
        let subject = Subject::Row { id: *id, key: row.key, until: *until };
        Some(Watched { lock: name.clone(), subject, since: look.at })
    };
    on.iter().filter_map(row).collect()
}
