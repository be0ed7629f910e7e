//! Contests on a store in memory: one thread, no server, no clock but for renewals.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Notify;

use super::Contest;
use crate::lock::server::memory::Memory;
use crate::lock::server::news::{News, Refused};
use crate::lock::server::queue::State;
use crate::lock::server::request::{Outcome, Request, Seed};
use crate::lock::server::row::{Call, CallKind, LockName, Note, NotedMode};
use crate::lock::server::store::{RowStore, Trouble};
use crate::net::Limits;
use crate::sys::suspend_aware_now;

/// A request for these locks that waits.
fn request(names: &[&str]) -> Request {
    Request {
        locks: names.iter().map(|name| LockName::new(name.as_bytes())).collect(),
        mode: NotedMode::Exclusive,
        note: Note { format: 1, ..Note::default() },
        waits: true,
        max_waiters: None,
        reentrant: false,
        around: Vec::new(),
        ancestors: Vec::new(),
        token: None,
        seed: Seed::random().unwrap(),
        ttl: Duration::from_secs(600),
        connect: Duration::from_secs(5),
        at_least: None,
        expires: None,
    }
}

async fn contest(store: &Memory, request: &Request) -> (Result<Outcome, Trouble>, Vec<News>) {
    let (mut news, look) = (Vec::new(), Notify::new());
    let mut hear = |one| news.push(one);
    let outcome = Contest::new(&mut store.clone(), request, 0, &mut hear, &look).run().await;
    (outcome, news)
}

/// Holds these locks; returns the lease.
async fn hold(store: &Memory, names: &[&str]) -> u64 {
    match contest(store, &request(names)).await.0 {
        Ok(Outcome::Granted { tenure, .. }) => tenure.lease.id,
        other => panic!("{other:?}"),
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, work).await.expect("it ends") })
}

fn limits() -> Limits {
    Limits::new(suspend_aware_now() + Duration::from_secs(60), Duration::from_secs(60))
}

fn lock(name: &str) -> LockName {
    LockName::new(name.as_bytes())
}

fn is_refused(outcome: &Result<Outcome, Trouble>, as_expected: Refused) -> bool {
    matches!(outcome, Ok(Outcome::Refused(refused)) if *refused == as_expected)
}

/// Whether so many rows of a lock wait.
fn waiting(store: &Memory, name: &str) -> usize {
    store.rows(&lock(name)).iter().filter(|row| row.contender.state == State::Waiting).count()
}

#[test]
fn a_free_set_is_granted_in_one_step() {
    let store = Memory::default();
    let (outcome, news) = run(contest(&store, &request(&["a", "b"])));
    let Ok(Outcome::Granted { grants, tenure }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((grants.len(), tenure.rows.len(), store.revision()), (2, 2, 2));
    assert!(matches!(&news[..], [News::Connected { .. }]), "{news:?}");
}

#[test]
fn what_is_not_waited_for_writes_nothing() {
    let store = Memory::default();
    run(hold(&store, &["b"]));
    let before = store.revision();
    let (outcome, news) = run(contest(&store, &Request { waits: false, ..request(&["a", "b"]) }));
    assert!(is_refused(&outcome, Refused::Busy), "{outcome:?}");
    assert!(matches!(news.last(), Some(News::Holders { holders }) if holders.len() == 1), "{news:?}");
    assert_eq!(store.revision(), before);
}

#[test]
fn a_set_waits_for_one_lock_after_the_other() {
    let store = Memory::default();
    let (a, b) = run(async { (hold(&store, &["a"]).await, hold(&store, &["b"]).await) });
    let request = request(&["a", "b"]);
    let others = async {
        store.until(|store| waiting(store, "a") == 1).await;
        store.clone().leave(&[], a, limits()).await.unwrap();
        store.until(|store| waiting(store, "b") == 1).await;
        assert_eq!(waiting(&store, "a"), 0);
        store.clone().leave(&[], b, limits()).await.unwrap();
    };
    let ((outcome, _), ()) = run(async { tokio::join!(contest(&store, &request), others) });
    let Ok(Outcome::Granted { tenure, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(tenure.has_waited);
    assert!(["a", "b"].iter().all(|name| store.rows(&lock(name))[0].lease == tenure.lease.id));
}

/// Each of them gets its first lock at once, and sees nobody wait for the second.
#[test]
fn of_two_sets_that_meet_at_a_later_lock_one_finds_its_queue_full() {
    let store = Memory::default();
    let holder = run(hold(&store, &["b"]));
    let sets = [["a", "b"], ["0", "b"]].map(|set| Request { max_waiters: Some(1), ..request(&set) });
    let others = async {
        store.until(|store| waiting(store, "b") == 1 && store.rows(&lock("a")).is_empty()).await;
        store.clone().leave(&[], holder, limits()).await.unwrap();
    };
    let ((first, _), (second, _), ()) =
        run(async { tokio::join!(contest(&store, &sets[1]), contest(&store, &sets[0]), others) });
    assert!(matches!(first, Ok(Outcome::Granted { .. })), "{first:?}");
    assert!(is_refused(&second, Refused::QueueFull), "{second:?}");
}

#[test]
fn a_set_that_has_waited_waits_for_its_later_locks_too() {
    let store = Memory::default();
    let (a, b) = run(async { (hold(&store, &["a"]).await, hold(&store, &["b"]).await) });
    let limited = Request { max_waiters: Some(1), ..request(&["a", "b"]) };
    let other = request(&["b"]);
    let others = async {
        store.until(|store| waiting(store, "a") == 1).await;
        let leave = async {
            store.until(|store| waiting(store, "b") == 1).await;
            store.clone().leave(&[], a, limits()).await.unwrap();
            store.until(|store| waiting(store, "b") == 2).await;
            store.clone().leave(&[], b, limits()).await.unwrap();
        };
        let (other, ()) = tokio::join!(contest(&store, &other), leave);
        let Ok(Outcome::Granted { tenure, .. }) = other.0 else { panic!("{other:?}") };
        store.clone().leave(&[], tenure.lease.id, limits()).await.unwrap();
    };
    let ((outcome, _), ()) = run(async { tokio::join!(contest(&store, &limited), others) });
    assert!(matches!(outcome, Ok(Outcome::Granted { .. })), "{outcome:?}");
}

#[test]
fn a_place_that_was_lost_is_asked_for_again() {
    let store = Memory::default();
    let holder = run(hold(&store, &["a"]));
    let request = request(&["a"]);
    let others = async {
        store.until(|store| waiting(store, "a") == 1).await;
        let lost = store.rows(&lock("a"))[1].clone();
        store.clone().remove((&lock("a"), &lost), limits()).await.unwrap();
        store.until(|store| waiting(store, "a") == 1).await;
        assert_ne!(store.rows(&lock("a"))[1].contender.id, lost.contender.id);
        store.clone().leave(&[], holder, limits()).await.unwrap();
    };
    let ((outcome, news), ()) = run(async { tokio::join!(contest(&store, &request), others) });
    let Ok(Outcome::Granted { tenure, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(tenure.attempt, 1);
    assert!(news.contains(&News::PlaceLost { attempt: 1 }), "{news:?}");
}

#[test]
fn who_is_called_while_waiting_leaves() {
    let store = Memory::default();
    run(hold(&store, &["a"]));
    let call = Call { what: CallKind::Break, by: "pid 1".into(), kill_after: None };
    let request = request(&["a"]);
    let others = async {
        store.until(|store| waiting(store, "a") == 1).await;
        let row = store.rows(&lock("a"))[1].clone();
        let note = Note { call: Some(call.clone()), ..row.note.clone() };
        assert!(store.clone().call((&lock("a"), &row), &note, limits()).await.unwrap());
    };
    let ((outcome, _), ()) = run(async { tokio::join!(contest(&store, &request), others) });
    assert!(matches!(&outcome, Ok(Outcome::Called(by)) if *by == call), "{outcome:?}");
    assert_eq!(store.rows(&lock("a")).len(), 1);
}

#[test]
fn a_store_that_fails_at_first_is_an_error_and_later_it_is_waited_for() {
    let store = Memory::default();
    store.fail(1);
    let (outcome, news) = run(contest(&store, &request(&["a"])));
    assert!(outcome.is_err() && news.is_empty(), "{outcome:?} {news:?}");

    let holder = run(hold(&store, &["a"]));
    let request = request(&["a"]);
    let others = async {
        store.until(|store| waiting(store, "a") == 1).await;
        // The look after it left, and its first repetition.
        store.clone().leave(&[], holder, limits()).await.unwrap();
        store.fail(2);
    };
    let ((outcome, news), ()) = run(async { tokio::join!(contest(&store, &request), others) });
    assert!(matches!(outcome, Ok(Outcome::Granted { .. })), "{outcome:?}");
    let [.., News::Trouble { .. }, News::WorksAgain] = &news[..] else { panic!("{news:?}") };
}
