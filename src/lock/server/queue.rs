//! Who is next, decided from the rows of one lock. Pure: no I/O, no clock.
//!
//! A row asks for one of several things: the whole lock, a share of it, or one slot of
//! a pool. While it waits it reserves all of them against the rows behind it. Once
//! granted it has one of them and no more:
//!
//! > A row is granted something that nobody has and that no row before it, still
//! > waiting, could be granted.
//!
//! A store has to keep three promises for this:
//!
//! 1. A row appears behind all others: its order number is given in the same step in
//!    which it becomes visible.
//! 2. A row that is gone never comes back: a row whose lease has ended is removed
//!    before anybody decides without it.
//! 3. A grant is written only while its own row is there, in the same step.
//!
//! Then, however old the rows are that a contender decides by:
//!
//! - Two grants never exclude each other.
//! - Once the answer is [`Decision::Take`] it stays so, and the slot stays free:
//!   nothing has to be locked or compared between the look and the grant.
//! - Nobody takes what an earlier row could have had.
//! - If nobody holds the lock, the first row may take it.
//! - Rows behind a row never matter to it.
//!
//! The tests go through all histories of a few contenders to show it.

use std::ops::Range;

/// Names a row: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u128);

/// What a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The whole lock, alone.
    Exclusive,
    /// The whole lock, beside others who share it.
    Shared,
    /// Any of the slots `0..of`.
    AnySlot {
        /// Size of the pool.
        of: u32,
    },
    /// Exactly this slot, whatever the size of its pool.
    Slot(u32),
}

/// How far a row has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It reserves everything that it could take.
    Waiting,
    /// It has this slot; `None`: the whole lock, or a share of it.
    Granted(Option<u32>),
}

/// Everything about a row that matters for the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contender {
    /// Which row.
    pub id: Id,
    /// What it asks for.
    pub mode: Mode,
    /// How far it has come.
    pub state: State,
}

/// What wakes a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Until {
    /// The row is gone.
    Gone,
    /// The row is gone or was granted something, and so has left the rest of its pool.
    Settled,
}

/// What a contender has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write the grant, with this slot.
    Take(Option<u32>),
    /// Nothing: the grant is written.
    Has(Option<u32>),
    /// Sleep until one of these happens; nothing else can make it our turn.
    Wait(Vec<(Id, Until)>),
    /// Our row is gone.
    Gone,
}

/// What the row `me` has to do. `rows`: in their order, at least those before `me`.
pub fn decide(rows: &[Contender], me: Id) -> Decision {
    let Some(position) = rows.iter().position(|row| row.id == me) else { return Decision::Gone };
    if let State::Granted(slot) = rows[position].state {
        return Decision::Has(slot);
    }
    turn_of(&rows[..position], rows[position].mode)
}

/// What a row of this mode would have to do if it came now.
pub fn foresee(rows: &[Contender], mode: Mode) -> Decision {
    turn_of(rows, mode)
}

/// For --max-waiters and `list`. A row that could be granted does not count, though it
/// has not written so yet.
pub fn count_waiting(rows: &[Contender]) -> usize {
    rows.iter().filter(|row| is_waiting(rows, row.id)).count()
}

/// Whether this row has to wait.
pub fn is_waiting(rows: &[Contender], id: Id) -> bool {
    matches!(decide(rows, id), Decision::Wait(_))
}

fn turn_of(before: &[Contender], mode: Mode) -> Decision {
    match mode {
        Mode::Exclusive => whole(before, |_| true),
        Mode::Shared => whole(before, |mode| mode != Mode::Shared),
        Mode::Slot(slot) => one_of(before, slot..slot.saturating_add(1)),
        Mode::AnySlot { of } => one_of(before, 0..of),
    }
}

/// Every row that excludes us has to go. The nearest one usually goes last.
fn whole(before: &[Contender], excludes_us: impl Fn(Mode) -> bool) -> Decision {
    match before.iter().rev().find(|row| excludes_us(row.mode)) {
        Some(row) => Decision::Wait(vec![(row.id, Until::Gone)]),
        None => Decision::Take(None),
    }
}

fn one_of(before: &[Contender], wanted: Range<u32>) -> Decision {
    let obstacles = before.iter().map(|row| (row.id, kept_by(row)));
    let mut obstacles: Vec<_> = obstacles.filter(|(_, kept)| overlaps(&kept.slots, &wanted)).collect();
    let covers = |kept: &Kept| kept.slots.start <= wanted.start && wanted.end <= kept.slots.end;
    if let Some((id, kept)) = obstacles.iter().rev().find(|(_, kept)| covers(kept)) {
        return Decision::Wait(vec![(*id, kept.until)]);
    }
    obstacles.sort_by_key(|(_, kept)| kept.slots.start);
    let mut free = wanted.start;
    for (_, kept) in &obstacles {
        if kept.slots.start > free {
            break;
        }
        free = free.max(kept.slots.end);
    }
    match free < wanted.end {
        true => Decision::Take(Some(free)),
        false => Decision::Wait(obstacles.into_iter().map(|(id, kept)| (id, kept.until)).collect()),
    }
}

/// Slots that a row keeps from those behind it, and until when.
struct Kept {
    slots: Range<u32>,
    until: Until,
}

fn kept_by(row: &Contender) -> Kept {
    match (row.state, row.mode) {
        (State::Granted(Some(slot)), _) | (State::Waiting, Mode::Slot(slot)) => {
            Kept { slots: slot..slot.saturating_add(1), until: Until::Gone }
        }
        (State::Waiting, Mode::AnySlot { of }) => Kept { slots: 0..of, until: Until::Settled },
        _ => Kept { slots: 0..u32::MAX, until: Until::Gone },
    }
}

fn overlaps(a: &Range<u32>, b: &Range<u32>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    // The rule once more, literally: things that exclude each other.

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Thing {
        Whole,
        Share,
        Slot(u32),
    }

    fn exclude(a: Thing, b: Thing) -> bool {
        match (a, b) {
            (Thing::Share, Thing::Share) => false,
            (Thing::Slot(a), Thing::Slot(b)) => a == b,
            _ => true,
        }
    }

    /// Everything that a row could take, the lowest slot first.
    fn options(mode: Mode) -> Vec<Thing> {
        match mode {
            Mode::Exclusive => vec![Thing::Whole],
            Mode::Shared => vec![Thing::Share],
            Mode::Slot(slot) => vec![Thing::Slot(slot)],
            Mode::AnySlot { of } => (0..of).map(Thing::Slot).collect(),
        }
    }

    fn thing(mode: Mode, slot: Option<u32>) -> Thing {
        match (mode, slot) {
            (_, Some(slot)) => Thing::Slot(slot),
            (Mode::Shared, None) => Thing::Share,
            _ => Thing::Whole,
        }
    }

    fn had_by(row: &Contender) -> Option<Thing> {
        match row.state {
            State::Waiting => None,
            State::Granted(slot) => Some(thing(row.mode, slot)),
        }
    }

    fn nobody_has(rows: &[Contender], me: usize, wish: Thing) -> bool {
        rows.iter().enumerate().all(|(i, row)| i == me || had_by(row).is_none_or(|had| !exclude(wish, had)))
    }

    fn nobody_before_could_take(rows: &[Contender], me: usize, wish: Thing) -> bool {
        let waiting = rows[..me].iter().filter(|row| row.state == State::Waiting);
        waiting.flat_map(|row| options(row.mode)).all(|other| !exclude(wish, other))
    }

    fn may_take(rows: &[Contender], me: usize, wish: Thing) -> bool {
        nobody_has(rows, me, wish) && nobody_before_could_take(rows, me, wish)
    }

    // Every history of a few contenders.

    /// What a contender is about to do.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Mind {
        Awake,
        /// It looked, perhaps long ago, and will write this grant.
        Will(Option<u32>),
        /// Sleeps on the rows at these positions, one bit each.
        Asleep {
            gone: u8,
            settled: u8,
        },
        Granted(Option<u32>),
    }

    /// Index into [`MODES`], and what it is about to do.
    type World = Vec<(u8, Mind)>;

    const MODES: [Mode; 7] = [
        Mode::Exclusive,
        Mode::Shared,
        Mode::AnySlot { of: 1 },
        Mode::AnySlot { of: 2 },
        Mode::AnySlot { of: 3 },
        Mode::Slot(0),
        Mode::Slot(1),
    ];

    fn rows_of(world: &World) -> Vec<Contender> {
        let row = |(i, (mode, mind)): (usize, &(u8, Mind))| Contender {
            id: Id(i as u128),
            mode: MODES[usize::from(*mode)],
            state: if let Mind::Granted(slot) = mind { State::Granted(*slot) } else { State::Waiting },
        };
        world.iter().enumerate().map(row).collect()
    }

    /// 12 bits a row, so that millions of worlds fit.
    fn packed(world: &World) -> u64 {
        let slot = |slot: Option<u32>| slot.map_or(0, |slot| u64::from(slot) + 1);
        world.iter().fold(1, |packed, (mode, mind)| {
            let mind = match *mind {
                Mind::Awake => 0,
                Mind::Will(will) => 1 + slot(will),
                Mind::Granted(had) => 5 + slot(had),
                // No more than four rows are before the last one.
                Mind::Asleep { gone, settled } => 9 + u64::from(gone) * 16 + u64::from(settled),
            };
            packed << 12 | u64::from(*mode) << 9 | mind
        })
    }

    /// What is wrong in a world or step, how often, and the first world.
    #[derive(Default)]
    struct Search {
        worlds: usize,
        steps: usize,
        wrong: BTreeMap<&'static str, (usize, World)>,
    }

    impl Search {
        /// All histories, of any length, of at most `most` rows at once.
        /// `in_order`: new rows come behind all others.
        fn run(most: usize, modes: &[u8], in_order: bool) -> Self {
            let mut search = Self::default();
            let mut seen = HashSet::from([packed(&World::new())]);
            let mut todo = vec![World::new()];
            while let Some(world) = todo.pop() {
                let rows = rows_of(&world);
                let fresh: Vec<_> = rows.iter().map(|row| decide(&rows, row.id)).collect();
                if !search.judge(&world, &rows, &fresh) {
                    continue;
                }
                let mut next = Vec::new();
                if world.len() < most {
                    for at in if in_order { world.len() } else { 0 }..=world.len() {
                        next.extend(modes.iter().map(|mode| with_row(&world, at, *mode)));
                    }
                }
                for i in 0..world.len() {
                    next.push(without_row(&world, i));
                    next.extend(search.act(&world, &rows, &fresh, i));
                }
                search.steps += next.len();
                todo.extend(next.into_iter().filter(|world| seen.insert(packed(world))));
            }
            search.worlds = seen.len();
            search
        }

        fn check(&mut self, is_fine: bool, wrong: &'static str, world: &World) {
            if !is_fine {
                self.wrong.entry(wrong).or_insert_with(|| (0, world.clone())).0 += 1;
            }
        }

        /// Whether to go on from here.
        fn judge(&mut self, world: &World, rows: &[Contender], fresh: &[Decision]) -> bool {
            let had: Vec<_> = rows.iter().filter_map(had_by).collect();
            let is_safe = (0..had.len()).all(|i| (0..i).all(|j| !exclude(had[i], had[j])));
            self.check(is_safe, "two grants exclude each other", world);
            let is_stuck = had.is_empty() && !rows.is_empty() && !matches!(fresh[0], Decision::Take(_));
            self.check(!is_stuck, "nobody holds it and the first may not", world);
            for (i, (_, mind)) in world.iter().enumerate() {
                let me = &rows[i];
                self.check(decide(&rows[..=i], me.id) == fresh[i], "a row behind matters", world);
                let free = options(me.mode).into_iter().find(|wish| may_take(rows, i, *wish));
                match (&fresh[i], mind) {
                    (Decision::Has(_), _) => {}
                    (Decision::Take(slot), _) => {
                        self.check(free == Some(thing(me.mode, *slot)), "takes what the rule does not give", world);
                    }
                    _ => self.check(free.is_none(), "waits though something is free", world),
                }
                match mind {
                    Mind::Will(slot) => {
                        let is_stable =
                            matches!(fresh[i], Decision::Take(_)) && may_take(rows, i, thing(me.mode, *slot));
                        self.check(is_stable, "what could be taken cannot any more", world);
                    }
                    Mind::Asleep { .. } => {
                        self.check(!matches!(fresh[i], Decision::Take(_)), "sleeps on its turn", world);
                    }
                    _ => {}
                }
            }
            is_safe
        }

        /// What row `i` does next.
        fn act(&mut self, world: &World, rows: &[Contender], fresh: &[Decision], i: usize) -> Option<World> {
            let mut next = world.clone();
            match (world[i].1, &fresh[i]) {
                (Mind::Awake, Decision::Take(slot)) => next[i].1 = Mind::Will(*slot),
                (Mind::Awake, Decision::Wait(on)) => {
                    self.check(!on.is_empty(), "sleeps on nobody", world);
                    self.check(on.iter().all(|(id, _)| id.0 < i as u128), "sleeps on a row behind", world);
                    let bits = |which| {
                        on.iter().filter(|(_, until)| *until == which).fold(0, |bits, (id, _)| bits | 1 << id.0)
                    };
                    next[i].1 = Mind::Asleep { gone: bits(Until::Gone), settled: bits(Until::Settled) };
                }
                (Mind::Will(slot), _) => {
                    let wish = thing(rows[i].mode, slot);
                    self.check(nobody_before_could_take(rows, i, wish), "passes an earlier row", world);
                    next[i].1 = Mind::Granted(slot);
                    for (_, mind) in &mut next {
                        if matches!(mind, Mind::Asleep { settled, .. } if *settled >> i & 1 == 1) {
                            *mind = Mind::Awake;
                        }
                    }
                }
                _ => return None,
            }
            Some(next)
        }
    }

    fn with_row(world: &World, at: usize, mode: u8) -> World {
        let shift = |bits: u8| (bits & ((1 << at) - 1)) | (bits >> at << (at + 1));
        let mut with = world.clone();
        with.insert(at, (mode, Mind::Awake));
        for (_, mind) in &mut with {
            if let Mind::Asleep { gone, settled } = mind {
                *mind = Mind::Asleep { gone: shift(*gone), settled: shift(*settled) };
            }
        }
        with
    }

    /// A row leaves or its lease ends, at any time.
    fn without_row(world: &World, at: usize) -> World {
        let shift = |bits: u8| (bits & ((1 << at) - 1)) | (bits >> (at + 1) << at);
        let mut without = world.clone();
        without.remove(at);
        for (_, mind) in &mut without {
            if let Mind::Asleep { gone, settled } = *mind {
                *mind = match (gone | settled) >> at & 1 {
                    1 => Mind::Awake,
                    _ => Mind::Asleep { gone: shift(gone), settled: shift(settled) },
                };
            }
        }
        without
    }

    /// Five rows are 1.5 million worlds, 12 s without optimisation.
    #[test]
    fn nothing_goes_wrong_in_any_history_of_a_few_rows() {
        let is_full = std::env::var_os("LOCKRUN_TEST_FULL").is_some();
        let search = Search::run(if is_full { 5 } else { 4 }, &[0, 1, 2, 3, 4, 5, 6], true);
        println!("{} worlds, {} steps", search.worlds, search.steps);
        assert_eq!(search.wrong, BTreeMap::new());
        assert!(search.worlds > if is_full { 1_000_000 } else { 80_000 }, "{}", search.worlds);
    }

    /// The numbers of a sequence do this: they are drawn in another order than the
    /// transactions are committed in.
    #[test]
    fn rows_that_appear_before_others_break_it() {
        let search = Search::run(3, &[0], false);
        assert!(search.wrong.contains_key("two grants exclude each other"));
    }

    // Long histories of many contenders.

    fn any_mode() -> impl Strategy<Value = Mode> {
        prop_oneof![
            Just(Mode::Exclusive),
            Just(Mode::Shared),
            (1_u32..7).prop_map(|of| Mode::AnySlot { of }),
            (0_u32..7).prop_map(Mode::Slot),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LOCKRUN_TEST_FULL").is_some() { 3000 } else { 200 }))]

        #[test]
        fn old_looks_do_no_harm_in_long_histories(steps in prop::collection::vec((0_u8..5, any::<u8>(), any_mode()), 1..200)) {
            let mut rows: Vec<Contender> = Vec::new();
            // What was decided and is not written yet.
            let mut plans: HashMap<Id, Option<u32>> = HashMap::new();
            for (number, (act, who, mode)) in steps.into_iter().enumerate() {
                let i = usize::from(who) % rows.len().max(1);
                match (act, rows.get(i).copied()) {
                    (0 | 1, _) if rows.len() < 14 => rows.push(Contender { id: Id(number as u128), mode, state: State::Waiting }),
                    (2, Some(row)) => {
                        plans.remove(&row.id);
                        rows.remove(i);
                    }
                    (3, Some(row)) => if let Decision::Take(slot) = decide(&rows, row.id) {
                        plans.entry(row.id).or_insert(slot);
                    },
                    (_, Some(row)) => if let Some(slot) = plans.remove(&row.id) {
                        prop_assert!(may_take(&rows, i, thing(row.mode, slot)));
                        rows[i].state = State::Granted(slot);
                    },
                    _ => {}
                }
                for (i, row) in rows.iter().enumerate() {
                    let free = options(row.mode).into_iter().find(|wish| may_take(&rows, i, *wish));
                    match decide(&rows, row.id) {
                        Decision::Has(slot) => prop_assert_eq!(State::Granted(slot), row.state),
                        Decision::Take(slot) => prop_assert_eq!(free, Some(thing(row.mode, slot))),
                        Decision::Wait(on) => prop_assert!(free.is_none() && !on.is_empty()),
                        Decision::Gone => prop_assert!(false),
                    }
                }
            }
        }
    }

    fn row(id: u128, mode: Mode, state: State) -> Contender {
        Contender { id: Id(id), mode, state }
    }

    #[test]
    fn a_waiter_sleeps_on_the_row_that_goes_last() {
        let rows = [
            row(1, Mode::Shared, State::Granted(None)),
            row(2, Mode::Exclusive, State::Waiting),
            row(3, Mode::Shared, State::Waiting),
            row(4, Mode::Shared, State::Waiting),
        ];
        assert_eq!(decide(&rows, Id(2)), Decision::Wait(vec![(Id(1), Until::Gone)]));
        assert_eq!(decide(&rows, Id(4)), Decision::Wait(vec![(Id(2), Until::Gone)]));
        assert_eq!(count_waiting(&rows), 3);
        assert_eq!(foresee(&rows, Mode::Shared), Decision::Wait(vec![(Id(2), Until::Gone)]));
    }

    #[test]
    fn the_head_of_a_pool_sleeps_on_every_holder_and_the_rest_on_the_head() {
        let pool = Mode::AnySlot { of: 2 };
        let rows = [
            row(1, pool, State::Granted(Some(1))),
            row(2, pool, State::Granted(Some(0))),
            row(3, pool, State::Waiting),
            row(4, pool, State::Waiting),
        ];
        assert_eq!(decide(&rows, Id(3)), Decision::Wait(vec![(Id(2), Until::Gone), (Id(1), Until::Gone)]));
        assert_eq!(decide(&rows, Id(4)), Decision::Wait(vec![(Id(3), Until::Settled)]));
    }

    #[test]
    fn a_larger_pool_takes_what_a_smaller_one_before_it_cannot() {
        let rows = [
            row(1, Mode::AnySlot { of: 2 }, State::Granted(Some(0))),
            row(2, Mode::AnySlot { of: 2 }, State::Granted(Some(1))),
            row(3, Mode::AnySlot { of: 2 }, State::Waiting),
            row(4, Mode::AnySlot { of: 5 }, State::Waiting),
        ];
        assert_eq!(decide(&rows, Id(4)), Decision::Take(Some(2)));
    }

    #[test]
    fn ten_thousand_rows_are_decided_at_once() {
        let mut rows: Vec<_> =
            (0..10_000).map(|i| row(i, Mode::Slot(i as u32), State::Granted(Some(i as u32)))).collect();
        rows.push(row(10_000, Mode::AnySlot { of: u32::MAX }, State::Waiting));
        assert_eq!(decide(&rows, Id(10_000)), Decision::Take(Some(10_000)));
    }
}
