//! kill -9 of lockrun at every one of its system calls: afterwards the lock is
//! free, or COMMAND runs and holds it.

use crate::support::{Outcome, Running, Sandbox, Timeline};
use std::collections::HashMap;
use std::fs;

/// A system call and how many of its kind came before it, plus one.
type Point = (String, u32);

/// lockrun under strace(1), which traces it alone.
fn traced(sandbox: &Sandbox, strace: &[&str], lockrun: &[&str]) -> Running {
    sandbox.command("strace", &[strace, &["-qq", "-o", "trace", "lockrun"], lockrun].concat()).start()
}

/// All system calls of the last [`traced`] process, in their order.
fn points(sandbox: &Sandbox) -> Vec<Point> {
    let trace = fs::read_to_string(sandbox.path("work/trace")).unwrap();
    let mut seen = HashMap::new();
    let calls = trace.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name.to_owned());
    // A call that was interrupted by a signal is resumed by this one.
    let calls = calls.filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    calls
        .map(|name| {
            let count = seen.entry(name.clone()).or_insert(0);
            *count += 1;
            (name, *count)
        })
        .collect()
}

fn inject((name, count): &Point) -> String {
    format!("inject={name}:signal=KILL:when={count}")
}

/// Whatever was killed, the next one gets the lock when nobody is inside.
fn assert_it_goes_on(sandbox: &Sandbox, timeline: &Timeline, point: &Point) {
    let visit = timeline.visit("next", "true");
    let next = sandbox.lockrun(&["-t", "50", "-l", "calc", "-c", &visit]).run();
    assert_eq!(next.code, Some(0), "after {point:?}: {next:?}");
    let now = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    assert_eq!(now.code, Some(0), "after {point:?}: {now:?}");
    timeline.assert_one_at_a_time();
}

#[track_caller]
fn assert_killed(outcome: &Outcome, point: &Point) {
    let killed = outcome.signal == Some(libc::SIGKILL);
    assert!(killed, "not killed at {point:?}: {outcome:?}");
}

#[test]
fn uncontended() {
    for options in [&[] as &[&str], &["--exec"], &["-n", "-s"], &["--expires", "100"]] {
        let sandbox = Sandbox::new();
        let timeline = Timeline::new(&sandbox);
        let visit = timeline.visit("traced", "true");
        let args = [options, &["-l", "calc", "-c", &visit]].concat();
        traced(&sandbox, &[], &args).wait().assert_code(0);
        // The first execve is strace's, and with --exec what follows the last
        // is COMMAND's.
        let mut points = points(&sandbox);
        if let Some(last) = points.iter().rposition(|(name, count)| name == "execve" && *count > 1) {
            points.truncate(last);
        }
        for point in &points[1..] {
            let outcome = traced(&sandbox, &["-e", &inject(point)], &args).wait();
            assert_killed(&outcome, point);
            assert_it_goes_on(&sandbox, &timeline, point);
        }
    }
}

#[test]
fn while_others_hold_and_wait() {
    let sandbox = Sandbox::new();
    let args = ["-l", "calc", "-c", "true"];
    let round = |strace: &[&str], args: &[&str]| {
        let holder = sandbox.hold(&["-l", "calc"]);
        let mut traced = traced(&sandbox, strace, args);
        // It waits, or was killed before it could.
        crate::support::eventually("it waits or is killed", || traced.is_waiting() || traced.has_ended());
        let behind = sandbox.lockrun(&["-l", "calc", "-c", "true"]).start().until_waiting();
        holder.release();
        behind.wait().assert_code(0).assert_silent();
        traced.wait()
    };
    round(&[], &args).assert_code(0);
    let timeline = Timeline::new(&sandbox);
    let visit = timeline.visit("traced", "true");
    for point in &points(&sandbox)[1..] {
        let outcome = round(&["-e", &inject(point)], &["-l", "calc", "-c", &visit]);
        assert_killed(&outcome, point);
        assert_it_goes_on(&sandbox, &timeline, point);
    }
}
