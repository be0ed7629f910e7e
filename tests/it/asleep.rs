//! Waiters sleep: no system call, no processor time.

use crate::support::{Running, Sandbox, children, status_field};
use std::fs;

const WAYS: [&[&str]; 4] = [&[], &["-t", "100"], &["--exec"], &["--exec", "-t", "100"]];

/// How often this process and its children have run, all in all.
fn times_run(pid: i32) -> u64 {
    let own: u64 = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
        .map(|field| status_field(pid, field).parse::<u64>().unwrap())
        .iter()
        .sum();
    own + children(pid).into_iter().map(times_run).sum::<u64>()
}

/// Other people lock other things meanwhile.
fn other_grants(sandbox: &Sandbox, number: u32) {
    let script = format!("for i in $(seq {number}); do lockrun -l other -- true || exit 1; done");
    sandbox.sh(&script).run().assert_code(0);
}

#[test]
fn a_waiter_does_not_run_while_other_locks_are_granted() {
    for options in WAYS {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let wait = || sandbox.lockrun(&[options, &["-l", "calc", "--", "true"]].concat()).start().until_waiting();
        let waiters = [wait(), wait(), wait()];
        let times_run = || waiters.each_ref().map(|waiter: &Running| times_run(waiter.pid()));
        other_grants(&sandbox, 10);
        let before = times_run();
        other_grants(&sandbox, 50);
        assert_eq!(times_run(), before, "{options:?}");
        holder.release();
        for waiter in waiters {
            waiter.wait().assert_code(0);
        }
    }
}

#[test]
fn a_waiter_behind_flock_does_not_run() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let _holder = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
    let waiter = sandbox.lockrun(&["-l", "calc", "--", "true"]).start().until_waiting();
    other_grants(&sandbox, 10);
    let before = times_run(waiter.pid());
    other_grants(&sandbox, 50);
    assert_eq!(times_run(waiter.pid()), before);
}

#[test]
fn a_waiter_makes_no_system_call() {
    for options in WAYS {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let trace = sandbox.path("work/trace");
        let args = [&["-f", "-o", "trace", "lockrun"], options, &["-l", "calc", "--", "true"]].concat();
        let waiter = sandbox.command("strace", &args).start().until_waiting();
        let length = || fs::metadata(&trace).unwrap().len();
        other_grants(&sandbox, 10);
        let before = length();
        other_grants(&sandbox, 50);
        assert_eq!(length(), before, "{options:?}: {}", fs::read_to_string(&trace).unwrap());
        holder.release();
        waiter.wait().assert_code(0);
    }
}
