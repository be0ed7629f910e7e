//! The store of rows on a real etcd: every call of the trait, repeated ones, and
//! `etcdctl lock` beside it.

use crate::support::{Etcd, Sandbox, eventually};
use lockrun::lock::server::etcd;
use lockrun::lock::server::queue::{Decision, Id, Mode, State, Until, decide, foresee};
use lockrun::lock::server::row::{Call, CallKind, LockName, Note, NotedMode, Row, contenders};
use lockrun::lock::server::store::{
    Condition, Entered, Entry, Event, Granted, Kept, Lease, Look, RowStore, Subject, Watch, Watched,
};
use lockrun::lock::server::url::{self, Origin, Store};
use lockrun::net::Limits;
use lockrun::sys::suspend_aware_now;
use std::future::Future;
use std::time::Duration;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn long() -> Limits {
    Limits::new(suspend_aware_now() + Duration::from_secs(60), Duration::from_secs(60))
}

fn store(etcd: &Etcd) -> etcd::Etcd {
    let Ok(Store::Server(server)) = url::parse(&etcd.url("jobs"), Origin::CommandLine, |_| None) else { panic!() };
    etcd::Etcd::new(&server, None)
}

fn calc() -> LockName {
    LockName::new(b"calc")
}

fn lease(id: u64) -> Lease {
    Lease { id, ttl: Duration::from_secs(20) }
}

fn noted(mode: Mode) -> Note {
    let noted = match mode {
        Mode::Exclusive => NotedMode::Exclusive,
        Mode::Shared => NotedMode::Shared,
        Mode::AnySlot { of } => NotedMode::AnySlot(of),
        Mode::Slot(which) => NotedMode::OneSlot { of: which + 1, which },
    };
    Note { format: 1, mode: noted, host: "db1".into(), pid: 4242, ..Note::default() }
}

/// Enters at the end of the queue of `calc`, on a lease of the same number.
async fn enter(store: &mut etcd::Etcd, number: u64, mode: Mode) -> Look {
    let (lock, note) = (calc(), noted(mode));
    let entry = Entry { lock: &lock, id: Id(number.into()), mode, granted: None, note: &note };
    match store.enter(lease(number), &[entry], Condition::Always, long()).await.unwrap() {
        Entered::Yes { mut looks, .. } => looks.remove(0),
        Entered::No => panic!("in any case"),
    }
}

/// Tries to enter a free place at once, as `--timeout 0` does.
async fn enter_after(store: &mut etcd::Etcd, number: u64, mode: Mode, look: &Look) -> Option<Look> {
    let (lock, note) = (calc(), noted(mode));
    let Decision::Take(slot) = foresee(&contenders(&look.rows), mode) else { panic!("not free: {look:?}") };
    let entry = Entry { lock: &lock, id: Id(number.into()), mode, granted: Some(slot), note: &note };
    let looks = std::slice::from_ref(look);
    match store.enter(lease(number), &[entry], Condition::Unchanged(looks), long()).await.unwrap() {
        Entered::Yes { mut looks, .. } => Some(looks.remove(0)),
        Entered::No => None,
    }
}

fn decision(look: &Look, number: u128) -> Decision {
    decide(&contenders(&look.rows), Id(number))
}

fn row(look: &Look, number: u128) -> Row {
    look.rows.iter().find(|row| row.contender.id == Id(number)).expect("its row").clone()
}

const POOL: Mode = Mode::AnySlot { of: 2 };

#[test]
fn a_free_lock_is_ours_once_the_row_is_there() {
    let etcd = Etcd::start();
    run(async {
        for (number, mode) in [(1, Mode::Exclusive), (2, Mode::Shared)] {
            let mut store = store(&etcd);
            let before = suspend_aware_now();
            let look = enter(&mut store, number, mode).await;
            assert_eq!(decision(&look, number.into()), Decision::Has(None));
            let row = row(&look, number.into());
            assert_eq!((row.fence, row.lease, row.note), (Some(row.order), number, noted(mode)));
            let kept = store.keep(lease(number), &[(&calc(), &look.rows[0])], &[], long()).await.unwrap();
            let Kept::Yes { until, is_our_turn: false } = kept else { panic!("{kept:?}") };
            assert!(until >= before + Duration::from_secs(20));
            assert!(store.leave(&[], number, long()).await.unwrap());
            assert!(!store.leave(&[], number, long()).await.unwrap());
            assert_eq!(store.look(&calc(), long()).await.unwrap().rows, []);
        }
    });
}

#[test]
fn waiters_see_only_the_rows_in_their_way() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        let gone = |number: u128| Decision::Wait(vec![(Id(number), Until::Gone)]);
        enter(&mut store, 1, Mode::Shared).await;
        assert_eq!(decision(&enter(&mut store, 2, Mode::Shared).await, 2), Decision::Has(None));
        assert_eq!(decision(&enter(&mut store, 3, Mode::Exclusive).await, 3), gone(2));
        assert_eq!(decision(&enter(&mut store, 4, Mode::Shared).await, 4), gone(3));
        assert_eq!(decision(&enter(&mut store, 5, Mode::Shared).await, 5), gone(3));
        assert_eq!(decision(&enter(&mut store, 6, POOL).await, 6), gone(5));
        let last = enter(&mut store, 7, Mode::Exclusive).await;
        assert_eq!((last.rows.len(), decision(&last, 7)), (2, gone(6)));

        // The same at any later time, with rows behind, and for a process that
        // has not entered the rows itself.
        for mut store in [store, self::store(&etcd)] {
            for (number, mode, rows, expected) in [
                (3, Mode::Exclusive, 2, gone(2)),
                (4, Mode::Shared, 2, gone(3)),
                (6, POOL, 6, gone(5)),
                (7, Mode::Exclusive, 2, gone(6)),
            ] {
                let look = store.turn(&calc(), (Id(number), mode), long()).await.unwrap();
                assert_eq!((look.rows.len(), decision(&look, number)), (rows, expected));
            }
            let look = store.look(&calc(), long()).await.unwrap();
            let order: Vec<_> = look.rows.iter().map(|row| row.contender.id.0).collect();
            assert_eq!(order, [1, 2, 3, 4, 5, 6, 7]);
        }

        let mut store = self::store(&etcd);
        for number in [1, 2] {
            store.leave(&[], number, long()).await.unwrap();
        }
        let look = store.turn(&calc(), (Id(3), Mode::Exclusive), long()).await.unwrap();
        assert_eq!(decision(&look, 3), Decision::Has(None));
        store.leave(&[], 4, long()).await.unwrap();
        let look = store.turn(&calc(), (Id(4), Mode::Shared), long()).await.unwrap();
        assert_eq!(decision(&look, 4), Decision::Gone);
    });
}

#[test]
fn slots_are_written_once_and_in_the_order_of_the_queue() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        for (number, slot) in [(1, 0), (2, 1)] {
            let look = enter(&mut store, number, POOL).await;
            assert_eq!(decision(&look, number.into()), Decision::Take(Some(slot)));
            // The second time as if the first answer had been lost.
            for _ in 0..2 {
                let granted = store.grant(&calc(), Id(number.into()), Some(slot), &look, long()).await.unwrap();
                assert_eq!(granted, Granted::Yes { fence: row(&look, number.into()).order });
            }
        }
        let look = enter(&mut store, 3, POOL).await;
        let holders = vec![(Id(1), Until::Gone), (Id(2), Until::Gone)];
        assert_eq!(decision(&look, 3), Decision::Wait(holders));
        store.leave(&[], 1, long()).await.unwrap();
        let look = store.turn(&calc(), (Id(3), POOL), long()).await.unwrap();
        assert_eq!(decision(&look, 3), Decision::Take(Some(0)));
        store.leave(&[], 3, long()).await.unwrap();
        assert_eq!(store.grant(&calc(), Id(3), Some(0), &look, long()).await.unwrap(), Granted::Gone);
        let mut reader = self::store(&etcd);
        let look = reader.look(&calc(), long()).await.unwrap();
        assert_eq!(row(&look, 2).contender.state, State::Granted(Some(1)));
    });
}

#[test]
fn a_call_before_the_grant_is_not_overwritten() {
    let etcd = Etcd::start();
    run(async {
        let (mut store, mut caller) = (store(&etcd), store(&etcd));
        let look = enter(&mut store, 1, POOL).await;
        let seen = row(&caller.look(&calc(), long()).await.unwrap(), 1);
        let call = Call { what: CallKind::Break, by: "pid 1".into(), kill_after: None };
        let called = Note { call: Some(call), ..seen.note.clone() };
        assert!(caller.call((&calc(), &seen), &called, long()).await.unwrap());
        assert!(caller.call((&calc(), &seen), &called, long()).await.unwrap(), "sent again");
        assert_eq!(store.grant(&calc(), Id(1), Some(0), &look, long()).await.unwrap(), Granted::Stale);
        let look = store.turn(&calc(), (Id(1), POOL), long()).await.unwrap();
        assert_eq!(row(&look, 1).note, called);
        assert!(matches!(store.grant(&calc(), Id(1), Some(0), &look, long()).await.unwrap(), Granted::Yes { .. }));
        // And a note that is changed keeps the slot.
        let amended = Note { since: Some("now".into()), ..called };
        assert!(store.amend((&calc(), &row(&look, 1)), &amended, long()).await.unwrap());
        let now = row(&caller.look(&calc(), long()).await.unwrap(), 1);
        assert_eq!((now.contender.state, now.note, now.lease), (State::Granted(Some(0)), amended.clone(), 1));
        // The caller's row is an old one by now.
        assert!(!caller.call((&calc(), &seen), &amended, long()).await.unwrap());
    });
}

#[test]
fn a_conditional_row_enters_only_if_nothing_came_or_changed() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        let empty = store.look(&calc(), long()).await.unwrap();
        let look = enter_after(&mut store, 1, POOL, &empty).await.expect("nobody came");
        assert_eq!(decision(&look, 1), Decision::Has(Some(0)));
        assert_eq!(enter_after(&mut store, 1, POOL, &empty).await, Some(look), "sent again");
        assert_eq!(enter_after(&mut store, 2, POOL, &empty).await, None);

        let one = store.look(&calc(), long()).await.unwrap();
        let call = Note { user: "other".into(), ..noted(POOL) };
        assert!(store.call((&calc(), &one.rows[0]), &call, long()).await.unwrap());
        assert_eq!(enter_after(&mut store, 2, POOL, &one).await, None, "a row has changed");

        let one = store.look(&calc(), long()).await.unwrap();
        store.leave(&[], 1, long()).await.unwrap();
        let look = enter_after(&mut store, 2, POOL, &one).await.expect("who leaves does not matter");
        assert_eq!(decision(&look, 2), Decision::Has(Some(1)));
        let mut other = self::store(&etcd);
        assert!(matches!(other.grant(&calc(), Id(2), None, &look, long()).await.unwrap(), Granted::Yes { .. }));
    });
}

#[test]
fn a_set_is_entered_whole_or_not_at_all() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        let locks = [LockName::new(b"a"), LockName::new(b"b c"), calc()];
        let note = noted(Mode::Exclusive);
        let entries = |first: u128| {
            let ids = first..first + 3;
            let entries = locks.iter().zip(ids).map(|(lock, id)| Entry {
                lock,
                id: Id(id),
                mode: Mode::Exclusive,
                granted: Some(None),
                note: &note,
            });
            entries.collect::<Vec<_>>()
        };
        for _ in 0..2 {
            let entered = store.enter(lease(1), &entries(10), Condition::Empty, long()).await.unwrap();
            let Entered::Yes { looks, .. } = entered else { panic!("free") };
            let fences: Vec<_> = looks.iter().map(|look| look.rows[0].fence).collect();
            assert_eq!((looks.len(), fences[0].is_some(), fences[0]), (3, true, fences[2]));
        }
        assert_eq!(store.enter(lease(2), &entries(20), Condition::Empty, long()).await.unwrap(), Entered::No);
        let waiting: Vec<_> = entries(20).into_iter().map(|entry| Entry { granted: None, ..entry }).collect();
        let Entered::Yes { looks, .. } = store.enter(lease(2), &waiting, Condition::Always, long()).await.unwrap()
        else {
            panic!("in any case")
        };
        for (place, look) in looks.iter().enumerate() {
            let expected = Decision::Wait(vec![(Id(10 + place as u128), Until::Gone)]);
            assert_eq!(decision(look, 20 + place as u128), expected);
        }
        store.leave(&[], 1, long()).await.unwrap();
        for (place, lock) in locks.iter().enumerate() {
            let me = Id(20 + place as u128);
            let look = store.turn(lock, (me, Mode::Exclusive), long()).await.unwrap();
            assert_eq!(decision(&look, me.0), Decision::Has(None));
        }
    });
}

/// What a keeper does that replaces one that was killed: it begins anew, with the
/// same numbers, and finds what the first one had entered.
#[test]
fn a_row_that_waits_is_not_taken_for_one_that_was_granted() {
    let etcd = Etcd::start();
    run(async {
        let mut other = store(&etcd);
        enter(&mut other, 1, Mode::Exclusive).await;
        for mode in [Mode::Exclusive, Mode::Shared, POOL] {
            enter(&mut store(&etcd), 2, mode).await;
            let note = noted(mode);
            let locks = [calc(), LockName::new(b"free")];
            let granted = Some(matches!(mode, Mode::AnySlot { .. }).then_some(0));
            let entry =
                |place: usize| Entry { lock: &locks[place], id: Id(2 + place as u128), mode, granted, note: &note };
            let mut again = store(&etcd);
            let both = again.enter(lease(2), &[entry(0), entry(1)], Condition::Empty, long()).await.unwrap();
            assert_eq!(both, Entered::No, "{mode:?}");
            let before = Look { rows: Vec::new(), at: 1 };
            let alone = again.enter(lease(2), &[entry(0)], Condition::Unchanged(&[before]), long()).await.unwrap();
            assert_eq!(alone, Entered::No, "{mode:?}");
            assert_eq!(again.look(&locks[1], long()).await.unwrap().rows, []);
            again.leave(&[], 2, long()).await.unwrap();
        }
    });
}

fn watched(subject: Subject, look: &Look) -> Watched {
    Watched { lock: calc(), subject, since: look.at }
}

fn waits_for(look: &Look, number: u128, until: Until) -> Watched {
    watched(Subject::Row { id: Id(number), key: row(look, number).key, until }, look)
}

#[test]
fn a_watch_reports_the_end_of_others_and_calls_to_us() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        enter(&mut store, 1, Mode::Exclusive).await;
        let look = enter(&mut store, 2, Mode::Exclusive).await;
        let wishes = [waits_for(&look, 1, Until::Gone), watched(Subject::Own(Id(2), Mode::Exclusive), &look)];
        let mut watch = store.watch(&wishes, long()).await.unwrap();
        let mut other = self::store(&etcd);
        let rows = other.look(&calc(), long()).await.unwrap();
        let called = Note { user: "called".into(), ..noted(Mode::Exclusive) };
        for number in [1, 2] {
            assert!(other.call((&calc(), &row(&rows, number)), &called, long()).await.unwrap());
        }
        assert_eq!(watch.next().await, Event::Called(Id(2), Box::new(called)), "what is written to others is not told");
        store.leave(&[], 1, long()).await.unwrap();
        assert_eq!(watch.next().await, Event::Moved);
        store.leave(&[], 2, long()).await.unwrap();
        assert_eq!(watch.next().await, Event::Lost(Id(2)));
        etcd.kill();
        assert_eq!(watch.next().await, Event::Ended);
    });
}

#[test]
fn every_change_of_a_lock_can_be_watched() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        let look = store.look(&calc(), long()).await.unwrap();
        let mut watch = store.watch(&[watched(Subject::Anything, &look)], long()).await.unwrap();
        enter(&mut store, 1, Mode::Shared).await;
        assert_eq!(watch.next().await, Event::Moved);
        store.leave(&[], 1, long()).await.unwrap();
        assert_eq!(watch.next().await, Event::Moved);
    });
}

/// The net under a watch that has failed.
#[test]
fn a_renewal_checks_what_the_watch_looks_at() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        let first = enter(&mut store, 1, POOL).await;
        let look = enter(&mut store, 2, Mode::AnySlot { of: 1 }).await;
        let mine = row(&look, 2);
        let gone = [waits_for(&look, 1, Until::Gone)];
        let settled = [waits_for(&look, 1, Until::Settled)];
        let is_our_turn = async |store: &mut etcd::Etcd, waits: &[Watched]| {
            let kept = store.keep(lease(2), &[(&calc(), &mine)], waits, long()).await.unwrap();
            let Kept::Yes { is_our_turn, .. } = kept else { panic!("{kept:?}") };
            is_our_turn
        };
        assert!(!is_our_turn(&mut store, &gone).await);
        assert!(!is_our_turn(&mut store, &settled).await);
        store.grant(&calc(), Id(1), Some(1), &first, long()).await.unwrap();
        assert!(!is_our_turn(&mut store, &gone).await);
        assert!(is_our_turn(&mut store, &settled).await);
        store.leave(&[], 1, long()).await.unwrap();
        assert!(is_our_turn(&mut store, &gone).await);

        // What we write ourselves is no call; what another writes is.
        assert!(store.amend((&calc(), &mine), &Note { pid: 1, ..mine.note.clone() }, long()).await.unwrap());
        assert!(!is_our_turn(&mut store, &[]).await);
        let mut other = self::store(&etcd);
        let now = row(&other.look(&calc(), long()).await.unwrap(), 2);
        assert!(other.call((&calc(), &now), &Note { pid: 2, ..now.note.clone() }, long()).await.unwrap());
        assert!(is_our_turn(&mut store, &[]).await);
        assert!(!store.amend((&calc(), &mine), &mine.note, long()).await.unwrap(), "the call stays");
    });
}

#[test]
fn a_row_that_was_removed_is_lost() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        let look = enter(&mut store, 1, Mode::Exclusive).await;
        let mine = row(&look, 1);
        assert!(store.remove((&calc(), &mine), long()).await.unwrap());
        assert!(!store.remove((&calc(), &mine), long()).await.unwrap());
        assert_eq!(store.keep(lease(1), &[(&calc(), &mine)], &[], long()).await.unwrap(), Kept::Gone);
        // Not one that came later.
        let again = enter(&mut store, 1, Mode::Exclusive).await;
        assert!(!store.remove((&calc(), &mine), long()).await.unwrap());
        assert!(store.remove((&calc(), &row(&again, 1)), long()).await.unwrap());
    });
}

#[test]
fn rows_move_to_another_lease_or_to_none() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    run(async {
        let mut store = store(&etcd);
        let mine = row(&enter(&mut store, 1, Mode::Exclusive).await, 1);
        let rows = [(&calc(), &mine)];
        let hour = Lease { id: 2, ttl: Duration::from_secs(3600) };
        let before = suspend_aware_now();
        for _ in 0..2 {
            let until = store.move_to(Some(hour), &rows, long()).await.unwrap().expect("the row is there");
            assert!(until >= before + Duration::from_secs(3600));
        }
        store.leave(&[], 1, long()).await.unwrap();
        let moved = row(&store.look(&calc(), long()).await.unwrap(), 1);
        assert_eq!((moved.lease, moved.order, &moved.note), (2, mine.order, &mine.note));
        assert_eq!(store.move_to(None, &rows, long()).await.unwrap(), Some(Duration::MAX));
        store.leave(&[], 2, long()).await.unwrap();
        assert_eq!(row(&store.look(&calc(), long()).await.unwrap(), 1).lease, 0);
        assert_eq!(etcd.keys(&sandbox, "jobs/").len(), 1);
        assert!(store.remove((&calc(), &mine), long()).await.unwrap());
        assert_eq!(store.move_to(Some(lease(3)), &rows, long()).await.unwrap(), None);
    });
}

/// A lease that ended while the request to use it was on its way.
#[test]
fn a_lease_that_ends_before_the_row_is_there_is_made_again() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    run(async {
        let mut store = store(&etcd);
        enter(&mut store, 0x77, Mode::Exclusive).await;
        etcd.etcdctl(&sandbox, &["lease", "revoke", "77"]).assert_code(0);
        let look = enter(&mut store, 0x77, Mode::Exclusive).await;
        assert_eq!(decision(&look, 0x77), Decision::Has(None));
    });
}

#[test]
fn many_locks_and_long_queues_are_listed_in_pages() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    run(async {
        let mut store = store(&etcd);
        let note = noted(Mode::Exclusive);
        let names: Vec<_> = (0..300).map(|number| LockName::new(format!("job {number:03}").as_bytes())).collect();
        let mut number = 0;
        // 2700 rows: job 150 has 2400 of them.
        for (place, lock) in names.iter().enumerate() {
            let (steps, rows) = if place == 150 { (48, 50) } else { (1, 1) };
            for _ in 0..steps {
                let entries: Vec<_> = (0..rows)
                    .map(|row| Entry { lock, id: Id(number + row), mode: Mode::Exclusive, granted: None, note: &note })
                    .collect();
                number += rows;
                store.enter(lease(7), &entries, Condition::Always, long()).await.unwrap();
            }
        }
        // Keys that are no locks of ours.
        for key in ["jobs/loose", "jobs/not encoded/694d", "jobsother/x/y"] {
            etcd.etcdctl(&sandbox, &["put", key, ""]).assert_code(0);
        }
        let (mut found, mut pages, mut from) = (Vec::new(), 0, None);
        loop {
            let page = store.list(from.as_deref(), long()).await.unwrap();
            found.extend(page.locks);
            pages += 1;
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let counts: Vec<_> = found.iter().map(|(name, rows)| (name.clone(), rows.len())).collect();
        let expected = names.iter().enumerate();
        let expected: Vec<_> =
            expected.map(|(place, name)| (name.clone(), if place == 150 { 2400 } else { 1 })).collect();
        assert!(counts == expected, "{:?}", counts.iter().find(|count| !expected.contains(count)));
        assert!(pages > 1, "{pages}");
    });
}

/// Keys have another order than names: `a-1/` comes before `a/`.
#[test]
fn a_list_of_several_pages_is_in_the_order_of_names() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    let names: Vec<_> = (0..1200).map(|number| format!("a-{number:04}")).collect();
    let locks: Vec<_> = names.iter().map(|name| LockName::new(name.as_bytes())).chain([LockName::new(b"a")]).collect();
    let note = Note::default();
    run(async {
        let mut store = store(&etcd);
        let entry = |(number, lock)| Entry { lock, id: Id(number), mode: Mode::Exclusive, granted: None, note: &note };
        let entries: Vec<_> = (1..).zip(&locks).map(entry).collect();
        for entries in entries.chunks(50) {
            store.enter(lease(7), entries, Condition::Always, long()).await.unwrap();
        }
    });
    let list = sandbox.lockrun(&["list", "--json", "--store", &etcd.url("jobs")]).run();
    let list: serde_json::Value = serde_json::from_str(&list.assert_code(0).stdout).unwrap();
    let found: Vec<_> = list.as_array().unwrap().iter().map(|lock| lock["name"].as_str().unwrap()).collect();
    assert_eq!(found[0], "a");
    assert!(found[1..].iter().eq(&names), "{found:?}");
}

/// In both directions, and in one order with our rows.
#[test]
fn etcdctl_lock_and_our_rows_exclude_each_other() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    let etcdctl = || etcd.etcdctl_command(&sandbox, &["lock", "jobs/calc", "--", "sh", "-c", "echo holding; exec cat"]);
    run(async {
        for (number, mode) in [(1, Mode::Exclusive), (11, Mode::Shared), (21, POOL)] {
            let mut store = store(&etcd);
            enter(&mut store, number, mode).await;
            let foreign = etcdctl().input("").start();
            eventually("etcdctl is in the queue", || etcd.keys(&sandbox, "jobs/calc/").len() == 2);
            let look = enter(&mut store, number + 1, mode).await;
            let Decision::Wait(waits) = decision(&look, u128::from(number) + 1) else { panic!("{look:?}") };
            assert_eq!(foreign.stdout(), "");
            let all = store.look(&calc(), long()).await.unwrap();
            let other = &all.rows[1];
            assert_eq!((waits[0].0, other.contender.mode, other.note.format), (other.contender.id, Mode::Exclusive, 0));
            store.leave(&[], number, long()).await.unwrap();
            let foreign = foreign.until_says("holding");
            let wait = [waits_for(&look, other.contender.id.0, Until::Gone)];
            let mut watch = store.watch(&wait, long()).await.unwrap();
            foreign.wait().assert_code(0);
            assert_eq!(watch.next().await, Event::Moved);
            let look = store.turn(&calc(), (Id(u128::from(number) + 1), mode), long()).await.unwrap();
            assert!(matches!(decision(&look, u128::from(number) + 1), Decision::Has(_) | Decision::Take(_)));
            store.leave(&[], number + 1, long()).await.unwrap();
        }
    });
}

#[test]
fn the_store_says_what_it_is() {
    let etcd = Etcd::start();
    run(async {
        let mut store = store(&etcd);
        assert_eq!(store.identity(), None);
        let look = enter(&mut store, 1, Mode::Exclusive).await;
        assert_eq!(store.description(), format!("etcd at {}", etcd.address()));
        let known = store.identity().expect("an answer came");
        store.keep(lease(1), &[(&calc(), &look.rows[0])], &[], long()).await.unwrap();
        assert!(store.description().starts_with("etcd 3."), "{}", store.description());
        let Ok(Store::Server(server)) = url::parse(&etcd.url("jobs"), Origin::CommandLine, |_| None) else { panic!() };
        etcd::Etcd::new(&server, Some(&known)).look(&calc(), long()).await.unwrap();
        etcd::Etcd::new(&server, Some("abc")).look(&calc(), long()).await.expect_err("another cluster");
    });
}
