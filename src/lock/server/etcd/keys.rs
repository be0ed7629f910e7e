//! Where rows are among etcd's keys, and how a row is read from one.
//!
//! ```text
//! PREFIX/NAME/x<id>   a row that asks for the whole lock; NAME is encoded
//! PREFIX/NAME/s<id>   a row that asks for a share
//! PREFIX/NAME/p<id>   a row that asks for a slot of a pool
//! ```
//!
//! The value is the row's note, with its slot once it has one. The order of a row is
//! its create revision, which later writes do not change. `etcdctl lock PREFIX/NAME`
//! and Go's concurrency.Mutex put keys below `PREFIX/NAME/` as well, named by a
//! hexadecimal number: they count as exclusive rows, and they wait for any older key of
//! ours.

use serde_json::Value;

use super::answers::KeyValue;
use super::calls::Span;
use crate::lock::server::queue::{Contender, Id, Mode, State};
use crate::lock::server::row::{LockName, Note, Row};

const EXCLUSIVE: char = 'x';
const SHARED: char = 's';
/// The next letter: no key of ours begins with it.
const AFTER_SHARED: char = 't';
const SLOT: char = 'p';

/// In a note.
const SLOT_FIELD: &str = "slot";

/// The beginning of all keys of lockrun.
#[derive(Clone, Debug)]
pub struct Prefix(String);

impl Prefix {
    /// `jobs` for keys like `jobs/NAME/…`.
    pub fn new(prefix: &str) -> Self {
        Self(format!("{prefix}/"))
    }

    pub fn lock(&self, name: &LockName) -> LockKeys {
        self.lock_of_encoded(name.encoded())
    }

    pub fn lock_of_encoded(&self, encoded: &str) -> LockKeys {
        LockKeys { base: format!("{}{encoded}/", self.0) }
    }

    pub fn span(&self) -> Span {
        Span { from: self.0.clone(), to: Some(after(&self.0)) }
    }

    /// The lock that a key belongs to.
    pub fn encoded_name<'a>(&self, key: &'a str) -> Option<&'a str> {
        Some(key.strip_prefix(&self.0)?.split_once('/')?.0)
    }
}

#[derive(Clone, Debug)]
pub struct LockKeys {
    base: String,
}

impl LockKeys {
    /// All keys, with those of other programs.
    pub fn span(&self) -> Span {
        Span { from: self.base.clone(), to: Some(after(&self.base)) }
    }

    /// All but the shared rows.
    pub fn without_shared(&self) -> [Span; 2] {
        let Span { from, to } = self.span();
        let shared = format!("{}{SHARED}", self.base);
        [Span { from, to: Some(shared) }, Span { from: format!("{}{AFTER_SHARED}", self.base), to }]
    }

    pub fn row(&self, id: Id, mode: Mode) -> String {
        let class = match mode {
            Mode::Exclusive => EXCLUSIVE,
            Mode::Shared => SHARED,
            Mode::AnySlot { .. } | Mode::Slot(_) => SLOT,
        };
        format!("{}{class}{id}", self.base)
    }

    /// The rows in these keys, in their order. A row may be shown as granted too early
    /// if not all rows before it are among them.
    pub fn rows(&self, found: Vec<KeyValue>) -> Vec<Row> {
        let mut rows: Vec<_> = found.into_iter().map(|key| self.read(key)).collect();
        rows.sort_by(|one, other| (one.order, &one.key).cmp(&(other.order, &other.key)));
        // Found by two reads of a transaction.
        rows.dedup_by(|one, other| one.key == other.key);
        grant_by_order(&mut rows);
        rows
    }

    fn read(&self, found: KeyValue) -> Row {
        let key = super::calls::key_of(&found);
        let own = key.strip_prefix(&self.base).and_then(|name| {
            let class = name.chars().next().filter(|class| [EXCLUSIVE, SHARED, SLOT].contains(class))?;
            Some((class, Id::parse(&name[1..])?))
        });
        let (contender, note) = match own {
            Some((class, id)) => read_own(class, id, &found.value),
            // Holds the lock once it is the first.
            None => {
                (Contender { state: State::Waiting, ..holds_everything(Id::of_foreign(&found.key)) }, Note::default())
            }
        };
        let order = found.create_revision.unsigned_abs();
        Row {
            contender,
            order,
            version: found.mod_revision.unsigned_abs(),
            fence: matches!(contender.state, State::Granted(_)).then_some(order),
            lease: found.lease.unsigned_abs(),
            key,
            note,
        }
    }
}

/// The first key after all with this beginning.
fn after(prefix: &str) -> String {
    // '0' follows '/'.
    format!("{}0", prefix.trim_end_matches('/'))
}

/// The class decides about whole locks, because a contender reads only the classes that
/// exclude it.
fn read_own(class: char, id: Id, value: &[u8]) -> (Contender, Note) {
    let Some((note, slot)) = parse(value) else {
        let mode = if class == SHARED { Mode::Shared } else { Mode::Exclusive };
        return (Contender { mode, ..holds_everything(id) }, Note::default());
    };
    let state = slot.map_or(State::Waiting, |slot| State::Granted(Some(slot)));
    let contender = match class {
        EXCLUSIVE => Contender { id, mode: Mode::Exclusive, state: State::Waiting },
        SHARED => Contender { id, mode: Mode::Shared, state: State::Waiting },
        _ => match Contender::from(&note.mode) {
            Contender { mode: mode @ (Mode::AnySlot { .. } | Mode::Slot(_)), .. } => Contender { id, mode, state },
            _ => holds_everything(id),
        },
    };
    (contender, note)
}

fn holds_everything(id: Id) -> Contender {
    Contender { id, mode: Mode::Exclusive, state: State::Granted(None) }
}

/// Exclusive and shared rows are granted by being the first; nothing is written.
fn grant_by_order(rows: &mut [Row]) {
    let only_shared_before = rows.iter().take_while(|row| row.contender.mode == Mode::Shared).count();
    for (position, row) in rows.iter_mut().enumerate() {
        let is_first = match row.contender.mode {
            Mode::Exclusive => position == 0,
            Mode::Shared => position < only_shared_before,
            Mode::AnySlot { .. } | Mode::Slot(_) => false,
        };
        if is_first && row.contender.state == State::Waiting {
            row.contender.state = State::Granted(None);
            row.fence = Some(row.order);
        }
    }
}

pub fn value(note: &Note, slot: Option<u32>) -> Vec<u8> {
    let mut note = note.clone();
    if let Some(slot) = slot {
        note.unknown.insert(SLOT_FIELD.into(), slot.into());
    }
    note.to_bytes()
}

/// A note, and the slot beside it.
pub fn parse(value: &[u8]) -> Option<(Note, Option<u32>)> {
    let mut note = Note::parse(value)?;
    let slot = note.unknown.remove(SLOT_FIELD);
    let slot = slot.as_ref().and_then(Value::as_u64).and_then(|slot| u32::try_from(slot).ok());
    Some((note, slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::server::queue::decide;
    use crate::lock::server::row::NotedMode;
    use proptest::prelude::*;

    fn keys() -> LockKeys {
        Prefix::new("jobs").lock(&LockName::new(b"a b"))
    }

    fn found(key: &str, made: i64, value: &[u8]) -> KeyValue {
        KeyValue {
            key: format!("jobs/a%20b/{key}").into_bytes(),
            value: value.into(),
            create_revision: made,
            mod_revision: made + 1,
            lease: 7,
        }
    }

    fn own(class: char, id: u128) -> String {
        format!("{class}{}", Id(id))
    }

    fn states(rows: &[Row]) -> Vec<(Mode, State, Option<u64>)> {
        rows.iter().map(|row| (row.contender.mode, row.contender.state, row.fence)).collect()
    }

    const HAS: State = State::Granted(None);
    const WAITS: State = State::Waiting;

    #[test]
    fn a_lock_is_no_part_of_another() {
        let keys = keys();
        let span = keys.span();
        assert_eq!((span.from.as_str(), span.to.as_deref()), ("jobs/a%20b/", Some("jobs/a%20b0")));
        let [before, behind] = keys.without_shared();
        let row = |mode| keys.row(Id(1), mode);
        let is_in = |span: &Span, key: &str| span.from.as_str() <= key && key < span.to.as_deref().unwrap();
        let shared = row(Mode::Shared);
        assert!(is_in(&span, &shared) && !is_in(&before, &shared) && !is_in(&behind, &shared));
        let others = [row(Mode::Exclusive), row(Mode::Slot(0)), "jobs/a%20b/694d8e1".into(), "jobs/a%20b/other".into()];
        assert!(others.iter().all(|key| is_in(&before, key) || is_in(&behind, key)));
        assert_eq!(Prefix::new("jobs").encoded_name(&shared), Some("a%20b"));
        assert_eq!(Prefix::new("jobs").encoded_name("jobs/loose"), None);
    }

    #[test]
    fn whole_locks_are_granted_by_order() {
        let rows = |letters: &str| {
            let note = value(&Note::default(), None);
            let found = letters.char_indices().map(|(at, class)| found(&own(class, at as u128), at as i64 + 1, &note));
            states(&keys().rows(found.collect())).iter().map(|(_, state, _)| *state).collect::<Vec<_>>()
        };
        assert_eq!(rows("xxs"), [HAS, WAITS, WAITS]);
        assert_eq!(rows("ssxs"), [HAS, HAS, WAITS, WAITS]);
    }

    #[test]
    fn a_slot_is_granted_by_what_is_written() {
        let note = Note { mode: NotedMode::AnySlot(3), ..Note::default() };
        let found = vec![
            found(&own('p', 2), 9, &value(&note, None)),
            found(&own('p', 1), 8, &value(&note, Some(2))),
            found(&own('x', 3), 10, &value(&Note::default(), None)),
        ];
        let rows = keys().rows(found);
        let pool = Mode::AnySlot { of: 3 };
        let expected = [(pool, State::Granted(Some(2)), Some(8)), (pool, WAITS, None), (Mode::Exclusive, WAITS, None)];
        assert_eq!(states(&rows), expected);
        assert!(rows[0].note.unknown.is_empty(), "the slot is no part of the note");
    }

    #[test]
    fn what_is_not_ours_holds_everything() {
        let newer = Note { mode: NotedMode::Unknown("odd".into()), ..Note::default() };
        let found = vec![
            found("694d8e1", 5, b""),
            found("x12", 6, b""),
            found(&own('p', 1), 7, &value(&newer, None)),
            found(&own('p', 2), 8, b"damaged"),
        ];
        let rows = keys().rows(found);
        assert!(rows.iter().all(|row| row.contender.mode == Mode::Exclusive));
        // The second is another program's, which seems to wait.
        assert_eq!(rows.iter().map(|row| row.contender.state).collect::<Vec<_>>(), [HAS, WAITS, HAS, HAS]);
        assert_eq!(rows[0].key, "jobs/a%20b/694d8e1");
        assert_eq!((rows[0].order, rows[0].version, rows[0].lease), (5, 6, 7));
    }

    proptest! {
        /// And the newest one finds out what it has to do.
        #[test]
        fn hostile_rows_are_all_shown(
            values in prop::collection::vec(
                (0..3_usize, any::<i64>(), crate::hostile::text(include_str!("../../../../tests/corpus/rows"))), 0..5
            ),
            key in crate::hostile::text("e0123456789abcdef0123456789abcdef\ns0123456789abcdef0123456789abcdef\nother"),
        ) {
            let mut all: Vec<_> = values.iter().enumerate().map(|(number, (class, made, value))| {
                let class = [EXCLUSIVE, SHARED, SLOT][*class];
                found(&format!("{class}{number:032x}"), *made, value)
            }).collect();
            let foreign = KeyValue { key: [b"jobs/a%20b/", &key[..]].concat(), create_revision: 5, ..KeyValue::default() };
            all.push(foreign);
            let rows = self::keys().rows(all);
            prop_assert_eq!(rows.len(), values.len() + 1);
            let contenders: Vec<_> = rows.iter().map(|row| row.contender).collect();
            for row in &contenders {
                let _ = decide(&contenders, row.id);
            }
        }
    }
}
