//! A campaign on three servers of etcd: servers are frozen, killed and cut off.
//! `LOCKRUN_TEST_FULL=1` makes 2,000 grants instead of some hundred.

use crate::campaign::size;
use crate::oracle::Window;
use crate::server_callers::Callers;
use crate::support::{Cluster, NODES, Random, Sandbox, eventually};
use lockrun::sys::suspend_aware_now;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(3);

#[test]
fn locks_exclude_and_nobody_is_stuck() {
    let Some(cluster) = Cluster::start() else { return };
    let sandbox = Sandbox::new();
    let callers = Callers::new(&sandbox, vec![format!("{}?ttl=3", cluster.url("jobs"))]);
    let may_revoke = may_revoke_live_leases(&cluster.version());
    let mut windows = Vec::new();
    cluster.inside(|| {
        callers.run(size(150, 2000), |random| {
            windows.extend(disturb(&cluster, &callers, random).filter(|_| may_revoke));
            cluster.heal();
            false
        });
        cluster.heal();
        cluster.until_healthy();
        callers.check("three servers of etcd", &windows);
    });
    eventually("no key is left", || cluster.keys("jobs/").is_empty());
}

/// One fault of the servers. Returns when leases could be revoked by a leader that was
/// frozen for longer than they last.
fn disturb(cluster: &Cluster, callers: &Callers<'_>, random: &mut Random) -> Option<Window> {
    let node = random.below(3);
    let others: Vec<_> = NODES.into_iter().filter(|other| *other != node).collect();
    match random.below(9) {
        0 => {
            let leads = cluster.is_leader(node);
            callers.count(if leads { "leader frozen" } else { "follower frozen" });
            let from = suspend_aware_now();
            cluster.freeze(node);
            callers.pause(random, 200..6000);
            cluster.thaw(node);
            let to = suspend_aware_now();
            return (leads && to - from > TTL).then_some((from, to + TTL));
        }
        1 => {
            callers.count("server killed");
            cluster.kill(node);
            callers.pause(random, 0..2000);
            cluster.restart(node);
        }
        2 => {
            callers.count("server cut off from the others");
            cluster.cut(node, &others);
            callers.pause(random, 500..5000);
        }
        3 => {
            callers.count("leader cut off from the others");
            let leader = cluster.leader();
            let others: Vec<_> = NODES.into_iter().filter(|node| *node != leader).collect();
            cluster.cut(leader, &others);
            callers.pause(random, 500..5000);
        }
        4 => {
            callers.count("server cut off from the clients");
            cluster.cut_from_clients(node);
            callers.pause(random, 500..4000);
        }
        5 => {
            callers.count("answers lost");
            cluster.lose_answers(node);
            callers.pause(random, 200..3000);
        }
        6 => {
            callers.count("clients cut off");
            NODES.into_iter().for_each(|node| cluster.cut_from_clients(node));
            callers.pause(random, 200..4000);
        }
        7 => {
            callers.count("no majority");
            cluster.cut(0, &[1, 2]);
            cluster.cut(1, &[2]);
            callers.pause(random, 200..3000);
        }
        _ => {
            callers.count("compaction");
            let found = cluster.etcdctl(node, &["get", "x", "-w", "json", "--command-timeout=1s"]).stdout;
            let found: serde_json::Value = serde_json::from_slice(&found).unwrap_or_default();
            if let Some(revision) = found["header"]["revision"].as_i64() {
                cluster.etcdctl(node, &["compact", &revision.to_string(), "--command-timeout=1s"]);
            }
        }
    }
    None
}

/// A leader of etcd before 3.4.31 and 3.5.13 that wakes after more than a lease's time
/// revokes leases that its successor has renewed (etcd issue 15247).
fn may_revoke_live_leases(version: &str) -> bool {
    let numbers: Vec<u32> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [3, 4, patch] => patch < 31,
        [3, 5, patch] => patch < 13,
        [major, minor, _] => (major, minor) < (3, 4),
        _ => panic!("no version: {version}"),
    }
}

#[test]
fn versions_that_revoke_live_leases() {
    for (version, revokes) in [("3.4.23", true), ("3.4.31", false), ("3.5.1", true), ("3.5.13", false)] {
        assert_eq!(may_revoke_live_leases(version), revokes, "{version}");
    }
    assert!(!may_revoke_live_leases("3.6.0"));
}
