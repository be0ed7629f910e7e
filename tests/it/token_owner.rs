//! `--owner PID`: the lock ends with that process, and with no other.

use crate::support::{Invocation, Sandbox, eventually, in_pid_namespace, is_alive, is_held, may_act_as_root};
use std::time::Instant;

fn acquire(sandbox: &Sandbox, owner: &str) -> Invocation {
    sandbox.lockrun(&["acquire", "-l", "calc", "--owner", owner])
}

/// A process that ends with its input.
fn owner(sandbox: &Sandbox) -> crate::support::Running {
    sandbox.sh("echo ready; exec cat").input("").start().until_says("ready")
}

#[test]
fn the_lock_ends_with_its_owner_however_that_ends() {
    for signal in [None, Some(libc::SIGTERM), Some(libc::SIGKILL)] {
        let sandbox = Sandbox::new();
        let mut owner = owner(&sandbox);
        let token = acquire(&sandbox, &owner.pid().to_string()).run();
        let token = token.assert_code(0).assert_silent().stdout.trim().to_owned();
        sandbox.check(&token).assert_code(0);
        match signal {
            Some(signal) => owner.signal(signal),
            None => owner.close_stdin(),
        }
        let end = Instant::now();
        // Nobody waits for the owner: it is a zombie from now on.
        eventually("the owner's lock is free", || !is_held(&sandbox.lock_file("calc")));
        println!("free {:?} after the owner's end", end.elapsed());
        sandbox.assert_free("calc");
        sandbox.release(&token).assert_code(123);
    }
}

#[test]
fn the_end_of_the_owner_is_reported() {
    let sandbox = Sandbox::new();
    let mut owner = owner(&sandbox);
    let token = acquire(&sandbox, &owner.pid().to_string()).run().stdout;
    owner.close_stdin();
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
    sandbox.release(token.trim()).assert_code(123).assert_one_line(&["calc", "its owner ended at 2"]);
}

#[test]
fn a_waiter_gets_it_when_the_owner_ends() {
    let sandbox = Sandbox::new();
    let owner = owner(&sandbox);
    acquire(&sandbox, &owner.pid().to_string()).run().assert_code(0);
    let waiter = sandbox.lockrun(&["-l", "calc", "--", "true"]).start().until_waiting();
    owner.signal(libc::SIGKILL);
    waiter.wait().assert_code(0);
}

#[test]
fn the_owner_may_be_an_ancestor_or_unrelated() {
    let sandbox = Sandbox::new();
    let mut other = owner(&sandbox);
    let script = format!("(lockrun acquire -l calc --owner {}); exit 0", other.pid());
    let token = sandbox.sh(&script).run().assert_code(0).stdout.clone();
    sandbox.check(token.trim()).assert_code(0);
    other.close_stdin();
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
}

#[test]
fn the_owners_end_or_the_expiry_counts_whichever_is_first() {
    let sandbox = Sandbox::new();
    let owner = owner(&sandbox);
    let pid = owner.pid().to_string();
    let token = sandbox.acquire(&["-l", "calc", "--owner", &pid, "--expires", "1s"]);
    eventually("it expires", || !is_held(&sandbox.lock_file("calc")));
    sandbox.release(&token).assert_code(123).assert_stderr_has(&["expired at 2"]);
    assert!(is_alive(owner.pid()));
}

#[test]
fn anything_but_a_process_id_is_refused() {
    let sandbox = Sandbox::new();
    for wrong in ["0", "-1", "-2", "abc", "", "1x", "4194305", "99999999999999999999"] {
        acquire(&sandbox, wrong).run().assert_code(125).assert_stdout("").assert_stderr_has(&["--owner"]);
    }
    assert!(sandbox.files_in_locks().is_empty());
}

#[test]
fn ended_processes_are_refused() {
    let sandbox = Sandbox::new();
    let mut dead = owner(&sandbox);
    dead.close_stdin();
    eventually("it is a zombie", || !is_alive(dead.pid()));
    let pid = dead.pid().to_string();
    acquire(&sandbox, &pid).run().assert_code(125).assert_one_line(&["--owner", &pid, "ended"]);
    dead.wait();
    acquire(&sandbox, &pid).run().assert_code(125).assert_one_line(&["--owner", &pid, "no such process"]);
    sandbox.assert_free("calc");
}

#[test]
fn threads_are_refused() {
    let sandbox = Sandbox::new();
    // This test runs in a thread of its own.
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    acquire(&sandbox, &thread).run().assert_code(125).assert_one_line(&["--owner", "thread"]);
}

#[test]
fn an_owner_that_ends_during_the_wait_ends_acquire() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let owner = owner(&sandbox);
    let waiter = acquire(&sandbox, &owner.pid().to_string()).start().until_waiting();
    owner.wait();
    holder.release();
    let outcome = waiter.wait();
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
    if outcome.code == Some(0) {
        sandbox.release(outcome.stdout.trim()).assert_code(123);
    }
}

#[test]
fn another_process_with_the_owners_number_is_not_the_owner() {
    if !may_act_as_root("choosing a process id") {
        return;
    }
    let sandbox = Sandbox::new();
    // As the first process of the namespace, this shell chooses the numbers.
    let script = r#"
        echo 999 >/proc/sys/kernel/ns_last_pid; sleep 1000 & first=$!
        token=$(lockrun acquire -l calc --owner $first)
        kill -9 $first; wait $first
        echo $((first - 1)) >/proc/sys/kernel/ns_last_pid; sleep 1000 & again=$!
        echo "$first $again"
        lockrun -t 50 -l calc -- true; echo "then $?"
        lockrun release "$token"; echo "release $?"
        kill -9 $again"#;
    let Some(invocation) = in_pid_namespace(&sandbox, &["sh", "-c", script]) else {
        return;
    };
    let outcome = invocation.run();
    outcome.assert_stdout("1000 1000\nthen 0\nrelease 123\n");
}

#[test]
fn an_owner_that_ends_takes_its_acquire_out_of_the_queue() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut owner = owner(&sandbox);
    let waiter = acquire(&sandbox, &owner.pid().to_string()).start().until_waiting();
    owner.close_stdin();
    waiter.wait().assert_code(125).assert_stdout("").assert_one_line(&["calc", "--owner", "ended"]);
    // Nobody waits any more.
    let next = sandbox.lockrun(&["--max-waiters", "1", "-l", "calc", "--", "true"]).start().until_waiting();
    holder.release();
    next.wait().assert_code(0);
}
