//! The harness, checked against flock(1): what the other tests rely on is true.

use crate::support::{Sandbox, Timeline, eventually, is_alive, is_held, with_mounts};

#[test]
fn a_holder_holds_until_it_is_released() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("work/file");
    let holder = sandbox.hold_by_flock(&[], &file);
    assert!(is_held(&file));
    holder.release().assert_code(0);
    assert!(!is_held(&file));
}

#[test]
fn a_waiter_is_seen_to_wait() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("work/file");
    let timeline = Timeline::new(&sandbox);
    let holder = sandbox.hold_by_flock(&[], &file);
    let visit = timeline.visit("second", "true");
    let waiter = sandbox.command("flock", &["file", "sh", "-c", &visit]).start().until_waiting();
    timeline.assert_entered(&[]);
    holder.release().assert_code(0);
    waiter.wait().assert_code(0).assert_silent();
    timeline.assert_entered(&["second"]);
    timeline.assert_one_at_a_time();
}

#[test]
fn the_end_of_a_sandbox_is_the_end_of_its_processes() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.sh("setsid sh -c 'echo $$; exec sleep 1000' & wait");
    let running = daemon.start().until_says("\n");
    let pid: i32 = running.stdout().trim().parse().unwrap();
    eventually("sleep runs", || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep"));
    drop(running);
    drop(sandbox);
    eventually("the daemon is gone", || !is_alive(pid));
}

#[test]
fn a_tests_mounts_are_its_own() {
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs none /run; touch /run/only-in-the-namespace; ls /run";
    let Some(invocation) = with_mounts(&sandbox, script) else {
        return;
    };
    let outcome = invocation.run();
    outcome.assert_code(0).assert_stdout("only-in-the-namespace\n");
    assert!(!std::path::Path::new("/run/only-in-the-namespace").exists());
}

#[cfg(feature = "net")]
#[test]
fn an_etcd_server_ends_with_its_test_and_leaves_nothing() {
    use std::net::TcpStream;
    let etcd = crate::support::Etcd::start();
    let address = etcd.address().to_owned();
    assert_eq!(etcd.url("jobs"), format!("etcd://{address}/jobs"));
    TcpStream::connect(&address).expect("it listens");
    let data = etcd.data().to_owned();
    assert!(data.is_dir());
    drop(etcd);
    TcpStream::connect(&address).expect_err("it has ended");
    assert!(!data.exists());
}
