//! A lock that is held by a token, in the lines that people read.

use std::fs;

use crate::support::{Sandbox, eventually, holder_of};

#[test]
fn a_failure_names_owner_age_and_expiry() {
    let sandbox = Sandbox::new();
    let owner = sandbox.sh("exec sleep 1000").start();
    let pid = owner.pid().to_string();
    let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    eventually("the shell has become it", || line().starts_with(b"sleep"));
    sandbox.acquire(&["-l", "calc", "--owner", &pid, "--expires", "1h"]);
    let holder = holder_of(&sandbox.lock_file("calc")).to_string();
    for command in [&["-n", "-l", "calc", "--", "true"] as &[&str], &["acquire", "-n", "-l", "calc"]] {
        let outcome = sandbox.lockrun(command).run();
        outcome.assert_code(75);
        let owner = format!("until pid {pid} ends");
        outcome.assert_one_line(&["calc", "token", &holder, "sleep 1000", &owner, " for ", "expires 2"]);
    }
}

#[test]
fn without_owner_the_creator_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("work/step-three", "lockrun acquire -l calc --expires 1h");
    sandbox.command("sh", &["step-three"]).run().assert_code(0);
    let outcome = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    outcome.assert_one_line(&["token for sh step-three", "expires 2"]);
    assert!(!outcome.stderr.contains("until pid"), "{outcome:?}");
}

#[test]
fn a_waiting_line_names_the_same() {
    let sandbox = Sandbox::new();
    let owner = sandbox.sh("exec sleep 1000").start();
    let token = sandbox.acquire(&["-l", "calc", "--owner", &owner.pid().to_string(), "--expires", "1h"]);
    let waiter = sandbox.lockrun(&["-v", "-l", "calc", "--", "true"]).start();
    let owner = format!("until pid {} ends", owner.pid());
    eventually("it tells for whom it waits", || {
        let said = waiter.stderr();
        [&owner, "token for", "expires 2"].iter().all(|word| said.contains(*word))
    });
    sandbox.release(&token).assert_code(0);
    waiter.wait().assert_code(0);
}

#[test]
fn a_renewed_expiry_is_shown() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    sandbox.lockrun(&["renew", &token, "--expires", "forever"]).run().assert_code(0);
    let outcome = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    outcome.assert_one_line(&["token for"]);
    assert!(!outcome.stderr.contains("expires"), "{outcome:?}");
}

#[test]
fn a_former_holder_is_not_named() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    sandbox.release(&token).assert_code(0);
    let _flock = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
    let outcome = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    outcome.assert_code(75);
    assert!(!outcome.stderr.contains("token"), "{outcome:?}");
}

#[test]
fn a_free_lock_shows_no_waiting_line() {
    let sandbox = Sandbox::new();
    for _ in 0..50 {
        let outcome = sandbox.lockrun(&["acquire", "-v", "-l", "calc", "--expires", "1h"]).run();
        outcome.assert_code(0).assert_one_line(&["calc: locked"]);
        sandbox.release(outcome.stdout.trim());
    }
}

#[test]
fn a_waiting_acquire_says_so() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["acquire", "-v", "-l", "calc", "--expires", "1h"]).start();
    eventually("it tells for whom it waits", || waiter.stderr().contains("waiting: calc; held by pid"));
    holder.release();
    waiter.wait().assert_code(0);
}
