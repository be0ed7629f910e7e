//! `--timeout 0` gets what is free, however many others try, and does not pass waiters.

use crate::support::{Running, Sandbox};

/// A loop of so many tries; it prints how each one that failed ended.
fn tries(sandbox: &Sandbox, number: u32, options: &str) -> Running {
    let attempt = format!("lockrun -n {options} -l calc -- true || echo $?");
    sandbox.sh(&format!("i=0; while [ $i -lt {number} ]; do {attempt}; i=$((i + 1)); done")).start()
}

#[test]
fn thousands_of_readers_at_once_never_fail() {
    let sandbox = Sandbox::new();
    let loops = ["-s", "-s -q", "-s --exec", "-s -t 0"].map(|options| tries(&sandbox, 1900, options));
    for running in loops {
        running.wait().assert_code(0).assert_stdout("").assert_silent();
    }
}

#[test]
fn thousands_of_tries_one_after_the_other_never_fail() {
    let sandbox = Sandbox::new();
    let other = sandbox.sh("while :; do lockrun -n -l other -- true; done").start();
    tries(&sandbox, 1200, "").wait().assert_code(0).assert_stdout("").assert_silent();
    drop(other);
}

#[test]
fn of_many_tries_at_once_one_succeeds() {
    let sandbox = Sandbox::new();
    let attempt = "lockrun -n -q -l calc -- true &";
    let round = format!(
        "{attempt} a=$!; {attempt} b=$!; {attempt} c=$!; {attempt} d=$!; got=
        for pid in $a $b $c $d; do
            wait $pid
            case $? in 0) got=1 ;; 75) ;; *) echo failed ;; esac
        done
        [ $got ] || echo nobody"
    );
    let outcome = sandbox.sh(&format!("for i in $(seq 300); do {round}; done")).run();
    outcome.assert_code(0).assert_stdout("").assert_silent();
}

#[test]
fn a_waiter_that_left_a_moment_ago_does_not_count() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc", "-s"]);
    let round = "lockrun -q -t 0.005 -l calc -- true; lockrun -n -s -l calc -- true || echo $?";
    let outcome = sandbox.sh(&format!("for i in $(seq 100); do {round}; done")).run();
    outcome.assert_code(0).assert_stdout("").assert_silent();
    holder.release();
}

#[test]
fn it_does_not_pass_waiters() {
    let sandbox = Sandbox::new();
    let reader = sandbox.hold(&["-l", "calc", "-s"]);
    let attempt = || sandbox.lockrun(&["-n", "-s", "-l", "calc", "--", "true"]).run();
    attempt().assert_code(0).assert_silent();
    let writer = sandbox.lockrun(&["-l", "calc", "--", "true"]).start().until_waiting();
    attempt().assert_code(75).assert_one_line(&["calc"]);
    writer.signal(libc::SIGTERM);
    writer.wait().assert_signal(libc::SIGTERM);
    attempt().assert_code(0).assert_silent();
    reader.release();
}
