//! kill -9 of lockrun at each of its system calls: afterwards the lock is free, or
//! COMMAND runs and holds it. The processes of a run are killed at each call in every
//! check; those of the other commands at a sample of them, and with `LOCKRUN_TEST_FULL=1`
//! at all: `make sweep`.

use crate::errno_sweep::{Harm, Lock, WITNESS, of_every_command, sweep};
use crate::support::{Outcome, Running, Sandbox, Timeline, children, eventually};
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

/// Plays a round to its end, then kills at each point of it in turn, each time
/// in a new sandbox. A point that is not always reached may be missed, but not
/// many are.
fn kill_at_each(round: impl Fn(&Sandbox, &[&str], &str) -> Outcome) {
    let sandbox = Sandbox::new();
    round(&sandbox, &[], "true").assert_code(0);
    let points = points(&sandbox);
    // The first one is strace's execve, or a call that it interrupted; what
    // follows another execve is COMMAND's.
    let end = points.iter().skip(1).position(|(name, _)| name == "execve");
    let points = &points[1..end.map_or(points.len(), |end| end + 1)];
    let mut missed = Vec::new();
    for point in points {
        let sandbox = Sandbox::new();
        let timeline = Timeline::new(&sandbox);
        let outcome = round(&sandbox, &["-e", &inject(point)], &timeline.visit("traced", "true"));
        if outcome.signal != Some(libc::SIGKILL) {
            outcome.assert_code(0);
            missed.push(point);
        }
        assert_it_goes_on(&sandbox, &timeline, point);
    }
    // From the grant to COMMAND there are five or so.
    println!("summary: points of a run: {} kills", points.len() - missed.len());
    assert!(points.len() > 2 && missed.len() <= points.len() / 5, "missed {missed:?} of {points:?}");
}

fn uncontended(options: &[&str]) {
    let round = |sandbox: &Sandbox, strace: &[&str], script: &str| {
        traced(sandbox, strace, &[options, &["-l", "calc", "-c", script]].concat()).wait()
    };
    kill_at_each(round);
}

/// A lockrun that has to wait, and another one behind it.
fn contended(options: &[&str]) {
    let round = |sandbox: &Sandbox, strace: &[&str], script: &str| {
        let holder = sandbox.hold(&["-l", "calc"]);
        let mut traced = traced(sandbox, strace, &[options, &["-l", "calc", "-c", script]].concat());
        eventually("it waits or is killed", || traced.is_waiting() || traced.has_ended());
        let behind = sandbox.lockrun(&["-l", "calc", "--", "true"]).start().until_waiting();
        holder.release();
        behind.wait().assert_code(0).assert_silent();
        traced.wait()
    };
    kill_at_each(round);
}

/// The process that sleeps for a lockrun, traced from there to its end.
#[test]
fn when_the_waiting_process_is_killed() {
    kill_at_each(|sandbox, strace, script| {
        let holder = sandbox.hold(&["-l", "calc"]);
        let waiter = sandbox.lockrun(&["-l", "calc", "-c", script]).start().until_waiting();
        let child = children(waiter.pid())[0].to_string();
        let tracer = sandbox.command("strace", &[strace, &["-o", "trace", "-p", &child]].concat()).start();
        eventually("strace is there", || tracer.stderr().contains("attached"));
        holder.release();
        let outcome = waiter.wait();
        tracer.wait();
        // Before the grant it is a failure of ours, after it COMMAND's end.
        match outcome.code {
            Some(125) => Outcome { code: None, signal: Some(libc::SIGKILL), ..outcome },
            _ => outcome,
        }
    });
}

#[test]
fn when_the_lock_is_free() {
    uncontended(&[]);
}

#[test]
fn when_the_lock_is_free_and_lockrun_becomes_the_command() {
    uncontended(&["--exec"]);
}

#[test]
fn when_the_lock_is_free_and_shared_and_expires() {
    uncontended(&["-n", "-s", "--expires", "100"]);
}

#[test]
fn when_the_lock_is_held() {
    contended(&[]);
}

#[test]
fn when_the_lock_is_held_and_lockrun_becomes_the_command() {
    contended(&["--exec", "-t", "100"]);
}

of_every_command!(Harm::Kill);
