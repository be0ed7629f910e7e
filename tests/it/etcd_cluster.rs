//! Three servers of etcd, cut off, frozen and killed: which of their answers a client
//! may believe.

use crate::support::{Cluster, NODES, Node, eventually};
use lockrun::lock::server::etcd;
use lockrun::lock::server::queue::{Id, Mode};
use lockrun::lock::server::row::{LockName, Note, NotedMode, Row};
use lockrun::lock::server::store::{
    Condition, Entered, Entry, Event, Kept, Lease, RowStore, Subject, Trouble, Watch, Watched,
};
use lockrun::lock::server::url::{self, Origin, Store};
use lockrun::net::Limits;
use lockrun::sys::suspend_aware_now;
use std::future::Future;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(3);
const LEASE: Lease = Lease { id: 7, ttl: TTL };

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn limits(time: Duration) -> Limits {
    Limits::new(suspend_aware_now() + time, TTL / 6)
}

fn long() -> Limits {
    limits(Duration::from_secs(60))
}

fn store(url: &str) -> etcd::Etcd {
    let Ok(Store::Server(server)) = url::parse(url, Origin::CommandLine, |_| None) else { panic!("{url}") };
    etcd::Etcd::new(&server, None)
}

fn at(cluster: &Cluster, node: Node) -> etcd::Etcd {
    store(&format!("etcd://{}/jobs", cluster.address(node)))
}

fn calc() -> LockName {
    LockName::new(b"calc")
}

async fn enter(store: &mut etcd::Etcd, lease: Lease, mode: Mode) -> Row {
    let (lock, id) = (calc(), Id(lease.id.into()));
    let note = Note { format: 1, mode: NotedMode::Exclusive, ..Note::default() };
    let entry = Entry { lock: &lock, id, mode, granted: None, note: &note };
    let entered = store.enter(lease, &[entry], Condition::Always, long()).await.unwrap();
    let Entered::Yes { looks, .. } = entered else { panic!("in any case") };
    looks[0].rows.iter().find(|row| row.contender.id == id).unwrap().clone()
}

fn watched(subject: Subject, since: u64) -> Watched {
    Watched { lock: calc(), subject, since }
}

/// A leader that is cut off from the others goes on renewing leases for a while,
/// though its successor has started them anew.
#[test]
fn a_renewal_by_a_deposed_leader_does_not_count() {
    let Some(cluster) = Cluster::start() else { return };
    let lease = Lease { id: 7, ttl: Duration::from_secs(60) };
    let leader = cluster.leader();
    let others: Vec<_> = NODES.into_iter().filter(|node| *node != leader).collect();
    cluster.inside(|| {
        run(async {
            let mut store = at(&cluster, leader);
            let row = enter(&mut store, lease, Mode::Exclusive).await;
            let mut observer = at(&cluster, others[0]);
            observer.look(&calc(), long()).await.unwrap();
            cluster.cut(leader, &others);
            // What the others answer from now on, they answer with a new leader.
            let succeeded = async {
                let quick = || limits(Duration::from_millis(300));
                while observer.look(&calc(), quick()).await.is_err() {}
                suspend_aware_now()
            };
            let mut last_sent = Duration::ZERO;
            let renewing = async {
                loop {
                    let kept = store.keep(lease, &[(&calc(), &row)], &[], limits(Duration::from_millis(50))).await;
                    if let Ok(Kept::Yes { until, .. }) = kept {
                        last_sent = last_sent.max(until - lease.ttl);
                    }
                    // The other half of this thread needs its turns, too.
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let observing = async {
                let succeeded = succeeded.await;
                sleep(Duration::from_secs(2)).await;
                succeeded
            };
            let succeeded = tokio::select! {
                succeeded = observing => succeeded,
                () = renewing => unreachable!("it never ends"),
            };
            assert!(last_sent <= succeeded, "renewed {:?} after it had a successor", last_sent - succeeded);
        });
    });
}

#[test]
fn a_member_without_a_majority_is_left_for_another() {
    let Some(cluster) = Cluster::start() else { return };
    for of in [Cluster::leader, |cluster: &Cluster| (cluster.leader() + 1) % 3] {
        let alone = of(&cluster);
        let others: Vec<_> = NODES.into_iter().filter(|node| *node != alone).collect();
        cluster.inside(|| {
            run(async {
                // Until it talks to the one that will be alone.
                let mut store = loop {
                    let mut store = store(&cluster.url("jobs"));
                    store.look(&calc(), long()).await.unwrap();
                    if store.address() == cluster.address(alone) {
                        break store;
                    }
                };
                let lease = Lease { id: 10 + alone as u64, ttl: Duration::from_secs(30) };
                let row = enter(&mut store, lease, Mode::Shared).await;
                let own = [watched(Subject::Own(row.contender.id, Mode::Shared), row.order)];
                let mut watch = store.watch(&own, long()).await.unwrap();
                cluster.cut(alone, &others);
                let kept = store.keep(lease, &[(&calc(), &row)], &[], long()).await.unwrap();
                assert!(matches!(kept, Kept::Yes { .. }), "{kept:?}");
                assert_ne!(store.address(), cluster.address(alone));
                assert_eq!(watch.next().await, Event::Ended, "it would be silent for ever");
                let mut watch = store.watch(&own, long()).await.unwrap();
                assert!(store.leave(&[], lease.id, long()).await.unwrap());
                assert_eq!(watch.next().await, Event::Lost(row.contender.id));
            });
        });
        cluster.heal();
        cluster.until_healthy();
    }
}

/// By the header that asks for it.
#[test]
fn a_watch_at_a_member_without_a_majority_ends() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.inside(|| {
        run(async {
            let mut store = at(&cluster, 0);
            let look = store.look(&calc(), long()).await.unwrap();
            let mut watch = store.watch(&[watched(Subject::Anything, look.at)], long()).await.unwrap();
            cluster.cut(0, &[1, 2]);
            assert_eq!(timeout(Duration::from_secs(60), watch.next()).await, Ok(Event::Ended));
        });
    });
}

#[test]
fn no_answer_is_believed_without_a_majority() {
    let Some(cluster) = Cluster::start() else { return };
    let leader = cluster.leader();
    cluster.inside(|| {
        run(async {
            let mut store = at(&cluster, leader);
            let row = enter(&mut store, LEASE, Mode::Exclusive).await;
            for node in NODES.into_iter().filter(|node| *node != leader) {
                cluster.freeze(node);
            }
            eventually("the leader has no majority", || !cluster.is_leader(leader));
            let kept = store.keep(LEASE, &[(&calc(), &row)], &[], limits(TTL / 3)).await;
            assert!(matches!(kept, Err(Trouble::Unreachable(_))), "{kept:?}");
            let looked = store.look(&calc(), limits(TTL / 3)).await;
            assert!(matches!(looked, Err(Trouble::Unreachable(_))), "{looked:?}");
            for node in NODES {
                cluster.thaw(node);
            }
            cluster.until_healthy();
            store.look(&calc(), long()).await.unwrap();
        });
    });
}

/// A reply that is lost after the row was written: the same row again, not a
/// second one.
#[test]
fn lost_answers_make_no_second_row() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.inside(|| {
        run(async {
            let lease = Lease { id: 8, ttl: Duration::from_secs(30) };
            let mut store = at(&cluster, 0);
            store.look(&calc(), long()).await.unwrap();
            cluster.lose_answers(0);
            let (lock, note) = (calc(), Note::default());
            let entry = Entry { lock: &lock, id: Id(8), mode: Mode::Exclusive, granted: None, note: &note };
            let entered = store.enter(lease, std::slice::from_ref(&entry), Condition::Always, limits(TTL / 3)).await;
            let Err(Trouble::Unreachable(unreachable)) = entered else { panic!("{entered:?}") };
            assert!(unreachable.was_sent);
            cluster.heal();
            let entered = store.enter(lease, &[entry], Condition::Always, long()).await.unwrap();
            assert!(matches!(entered, Entered::Yes { .. }));
            assert_eq!(store.look(&calc(), long()).await.unwrap().rows.len(), 1);
        });
    });
}

#[test]
fn the_death_of_the_leader_costs_a_row_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.inside(|| {
        run(async {
            let lease = Lease { id: 9, ttl: Duration::from_secs(30) };
            let mut store = store(&cluster.url("jobs"));
            let row = enter(&mut store, lease, Mode::Exclusive).await;
            for _ in 0..3 {
                let leader = cluster.leader();
                cluster.kill(leader);
                let kept = store.keep(lease, &[(&calc(), &row)], &[], long()).await.unwrap();
                assert!(matches!(kept, Kept::Yes { .. }), "{kept:?}");
                cluster.restart(leader);
                cluster.until_healthy();
            }
            assert!(store.leave(&[], lease.id, long()).await.unwrap());
        });
    });
}
