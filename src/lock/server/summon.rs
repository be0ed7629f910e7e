//! Making a holder let go: a call in its row, and the row's removal if nobody answers.

use std::time::Duration;

use super::row::{Call, LockName, Note, Row};
use super::store::{RowStore, Trouble};
use crate::net::Limits;
use crate::sys::suspend_aware_now;

/// Where a row has no --kill-after.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// The caller: `pid 4242 on db1 (deploy.sh), user root`.
pub fn described(note: &Note) -> String {
    format!("pid {} on {} ({}), user {}", note.pid, note.host, note.command, note.user)
}

/// When a row that is called now is removed if nobody answers.
pub fn removal_at(row: &Row, kill_after: Option<Duration>, ttl: Duration) -> Duration {
    let noted = row.note.kill_after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    suspend_aware_now().saturating_add(kill_after.or(noted).unwrap_or(KILL_AFTER)).saturating_add(ttl / 3)
}

/// Calls a row, or removes it if no process stands behind it. Returns when to remove it
/// if it is still there; `None`: nothing is left to do, or the row has changed: look
/// again.
pub async fn summon<S: RowStore>(
    store: &mut S,
    lock: &LockName,
    row: &Row,
    call: Call,
    removal_at: Duration,
    limits: Limits,
) -> Result<Option<Duration>, Trouble> {
    let is_alone = row.note.has_ended || (row.note.token && row.note.owner.is_none());
    if is_alone {
        store.remove((lock, row), limits).await?;
        return Ok(None);
    }
    let note = Note { call: Some(call), ..row.note.clone() };
    Ok(store.call((lock, row), &note, limits).await?.then_some(removal_at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lock::server::queue::{Contender, Id, Mode, State};

    proptest! {
        #[test]
        fn hostile_notes_put_no_removal_into_the_past(
            text in crate::hostile::text(include_str!("../../../tests/corpus/rows")),
        ) {
            let contender = Contender { id: Id(1), mode: Mode::Exclusive, state: State::Waiting };
            let note = Note::parse(&text).unwrap_or_default();
            let row = Row { contender, order: 1, version: 1, fence: None, lease: 0, key: String::new(), note };
            prop_assert!(removal_at(&row, None, Duration::from_secs(60)) >= suspend_aware_now());
        }
    }
}
