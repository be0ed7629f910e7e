//! A server that restarts, is full, has forgotten its history, has lost its majority or
//! is asked by hundreds at once: what becomes of those who hold, wait and come.

use crate::campaign::size;
use crate::support::{Cluster, Etcd, NODES, Place, Sandbox, eventually, http_message};
use std::fs;
use std::io::{Write, copy};
use std::net::{TcpListener, TcpStream};
use std::thread;

const ENDLESS: &str = "echo holding; exec sleep 600";

fn server() -> Place {
    Place::Etcd(Etcd::start())
}

#[test]
fn a_full_database_takes_no_new_rows_and_keeps_the_old_ones() {
    let (place, sandbox) = (Place::Etcd(Etcd::start_with(&["--quota-backend-bytes=100000"])), Sandbox::new());
    let etcd = place.server();
    let holder = place.lockrun_with(&sandbox, "?ttl=3", &["-l", "calc", "--", "sleep", "4"]).start();
    eventually("it holds", || place.lockrun(&sandbox, &["status", "calc"]).run().code == Some(1));
    let waiter = place.wait_in_queue(&sandbox, &["-l", "calc", "--", "echo", "ran"], 1);
    let noise = "x".repeat(20_000);
    eventually("the database is full", || etcd.etcdctl(&sandbox, &["put", "noise", &noise]).code != Some(0));
    for lock in ["calc", "other"] {
        let late = place.lockrun(&sandbox, &["-l", lock, "--", "touch", "late"]).run();
        late.assert_code(125).assert_one_line(&["NOSPACE", "etcdctl alarm disarm"]);
    }
    // This needs no row.
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "touch", "late"]).run().assert_code(75);
    holder.wait().assert_code(0);
    waiter.wait().assert_code(0).assert_stdout("ran\n");
    assert!(!sandbox.path("work/late").exists());
    assert_eq!(etcd.keys(&sandbox, "jobs/"), [""; 0]);
}

/// All watches break, and begin again at a revision that is no longer there.
#[test]
fn history_that_was_compacted_while_a_server_restarts_is_not_needed() {
    let (mut place, sandbox) = (server(), Sandbox::new());
    let holder = place.hold(&sandbox, &["-l", "calc"]);
    let first = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", ENDLESS], 1);
    let second = place.wait_in_queue(&sandbox, &["-l", "calc", "--", "echo", "ran"], 2);
    let Place::Etcd(etcd) = &mut place else { unreachable!() };
    for text in ["a", "b", "c"] {
        etcd.etcdctl(&sandbox, &["put", "noise", text]).assert_code(0);
    }
    let status = etcd.etcdctl(&sandbox, &["get", "noise", "-w", "json"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    etcd.etcdctl(&sandbox, &["compaction", &status["header"]["revision"].to_string()]).assert_code(0);
    etcd.kill();
    etcd.restart();
    holder.release().assert_code(0);
    let first = first.until_says("holding");
    // A holder hears of a break, too.
    place.lockrun(&sandbox, &["break", "calc"]).run().assert_code(0);
    first.wait().assert_code(123);
    second.wait().assert_code(0).assert_stdout("ran\n");
}

/// Every server that can be reached has lost the others.
#[test]
fn servers_without_a_majority_end_the_command_in_time_and_refuse_newcomers() {
    let Some(cluster) = Cluster::start() else { return };
    let sandbox = Sandbox::new();
    let store = cluster.url("jobs") + "?ttl=3&connect=1";
    let run = |args: &[&str]| sandbox.lockrun(&[&["--store", &store], args].concat());
    cluster.inside(|| {
        let holder = run(&["-l", "calc", "-c", ENDLESS]).start().until_says("holding");
        cluster.cut(0, &[1, 2]);
        cluster.cut(1, &[2]);
        holder.wait().assert_code(123).assert_stderr_has(&["cannot be renewed", "could not be reached in time"]);
        let late = run(&["-n", "-E", "0", "-q", "-l", "calc", "--", "touch", "late"]).run();
        late.assert_code(69).assert_one_line(&[&cluster.address(0), &cluster.address(1), &cluster.address(2)]);
        cluster.heal();
        cluster.until_healthy();
        run(&["-l", "calc", "--", "echo", "ran"]).run().assert_code(0).assert_stdout("ran\n");
    });
    assert!(!sandbox.path("work/late").exists());
}

#[test]
fn a_leader_that_is_frozen_or_alone_costs_nobody_anything() {
    let Some(cluster) = Cluster::start() else { return };
    let sandbox = Sandbox::new();
    let store = cluster.url("jobs") + "?ttl=20";
    let run = |args: &[&str]| sandbox.lockrun(&[&["--store", &store], args].concat());
    cluster.inside(|| {
        for freeze in [true, false] {
            let holder = run(&["-l", "calc", "--", "sh", "-c", "echo holding; exec cat"]).input("");
            let holder = holder.start().until_says("holding");
            let leader = cluster.leader();
            let others: Vec<_> = NODES.into_iter().filter(|node| *node != leader).collect();
            if freeze {
                cluster.freeze(leader)
            } else {
                cluster.cut(leader, &others)
            }
            run(&["-l", "other", "--", "true"]).run().assert_code(0);
            run(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
            holder.wait().assert_code(0);
            run(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
            cluster.thaw(leader);
            cluster.heal();
            cluster.until_healthy();
        }
    });
}

/// Cron on many hosts: one read each, and no write.
#[test]
fn hundreds_of_callers_with_nonblock_cost_one_read_each() {
    let (place, sandbox) = (server(), Sandbox::new());
    let etcd = place.server();
    // Nothing has to be renewed meanwhile.
    let holder = place.hold_with(&sandbox, "?ttl=3600", &["-l", "calc"]);
    let methods = ["Range", "Txn", "LeaseGrant", "LeaseKeepAlive", "LeaseRevoke", "Put", "DeleteRange"];
    let before = methods.map(|method| etcd.calls(method));
    let callers = size(100, 500);
    let each = callers / 10;
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..each {
                    let args = ["-n", "-E", "0", "-q", "-l", "calc", "--", "touch", "ran"];
                    place.lockrun(&sandbox, &args).run().assert_code(0).assert_silent();
                }
            });
        }
    });
    let made: Vec<_> = methods.iter().zip(before).map(|(method, before)| etcd.calls(method) - before).collect();
    assert_eq!(made, [callers as u64, 0, 0, 0, 0, 0, 0], "{methods:?}");
    assert!(!sandbox.path("work/ran").exists());
    holder.release().assert_code(0);
}

/// The same, where the lock is free: one of them runs, and the job is too short for the
/// others to notice.
#[test]
fn of_hundreds_that_come_in_the_same_minute_one_runs() {
    let (place, sandbox) = (server(), Sandbox::new());
    let each = size(100, 500) / 10;
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..each {
                    let options = ["-n", "-E", "0", "-q", "--at-least", "600", "-l", "calc"];
                    let args = [&options[..], &["-c", "echo ran >>ran"]].concat();
                    place.lockrun(&sandbox, &args).run().assert_code(0).assert_silent();
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(sandbox.path("work/ran")).unwrap(), "ran\n");
}

/// A way to the server that passes one request and its answer and is closed then.
fn way_that_breaks(server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut upstream = TcpStream::connect(server).unwrap();
        drop(listener);
        upstream.write_all(&http_message(&mut client).unwrap()).unwrap();
        client.write_all(&http_message(&mut upstream).unwrap()).unwrap();
    });
    address
}

/// The same way, open again.
fn mend(address: &str, server: &str) {
    let (listener, server) = (TcpListener::bind(address).unwrap(), server.to_owned());
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(&server).unwrap();
            for (from, to) in [(&client, &upstream), (&upstream, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

#[test]
fn a_server_that_is_lost_after_its_first_answer_is_waited_for_unless_nobody_waits() {
    let (place, sandbox) = (server(), Sandbox::new());
    let server = place.server();
    let run = |address: &str, options: &[&str]| {
        let store = format!("etcd://{address}/jobs?connect=0.5");
        sandbox.lockrun(&[&["--store", &store], options, &["-l", "calc", "--", "echo", "ran"]].concat())
    };
    let way = way_that_breaks(server.address());
    let waiting = run(&way, &[]).start();
    eventually("it says so", || waiting.stderr().contains("the store cannot be reached"));
    mend(&way, server.address());
    waiting.wait().assert_code(0).assert_stdout("ran\n").assert_stderr_has(&["trying again", "can be reached again"]);

    let way = way_that_breaks(server.address());
    run(&way, &["-n"]).run().assert_code(69).assert_stdout("").assert_one_line(&[&way]);
    run(&way_that_breaks(server.address()), &["-t", "2"]).run().assert_code(124).assert_stdout("");
}
