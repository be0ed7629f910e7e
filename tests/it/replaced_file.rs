//! The lock file is removed or replaced, by tmpfiles, lockf or somebody's `rm`.

use crate::support::{Holder, Running, Sandbox, Timeline};
use std::fs;

const REMOVE: &str = "rm locks/calc.lock";
const REPLACE: &str = "cp locks/calc.lock locks/new; mv locks/new locks/calc.lock";

fn change(sandbox: &Sandbox, script: &str) {
    let change = sandbox.sh(script).current_dir(&sandbox.path(""));
    change.run().assert_code(0);
}

/// A visit to the timeline that lasts until its input ends.
fn visit(sandbox: &Sandbox, timeline: &Timeline, id: &str) -> Running {
    let script = timeline.visit(id, "echo holding; cat");
    sandbox
        .lockrun(&["-l", "calc", "-c", &script])
        .input("")
        .start()
}

#[test]
fn those_who_wait_meanwhile_never_enter_twice() {
    for script in [REMOVE, REPLACE] {
        let sandbox = Sandbox::new();
        let timeline = Timeline::new(&sandbox);
        let old: Holder = sandbox.hold(&["-l", "calc"]);
        let waiters = ["one", "two", "three"].map(|id| {
            let waiter = visit(&sandbox, &timeline, id);
            waiter.until_waiting()
        });
        change(&sandbox, script);
        let new = visit(&sandbox, &timeline, "new").until_says("holding");
        old.release();
        let waiters = waiters.map(Running::until_waiting);
        new.wait().assert_code(0);
        for waiter in waiters {
            waiter.wait().assert_code(0);
        }
        assert_eq!(timeline.entered().len(), 4);
        timeline.assert_one_at_a_time();
    }
}

#[test]
fn a_file_removed_over_and_over_lets_nobody_in_twice() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    // Removes the file only while holding its lock and before letting go, as
    // lockf does: those who wait for the old file must not take it for theirs.
    let visit = timeline.visit("x", "rm -f ../locks/calc.lock");
    let turn = format!(
        "flock ../locks/calc.lock sh -c 'test ../locks/calc.lock -ef /proc/self/fd/3 && {{ {visit}; }}'"
    );
    let lockf = format!("for i in $(seq 50); do : >>../locks/calc.lock; {turn}; done; true");
    let visit = timeline.visit("y", ":");
    let lockrun = format!("for i in $(seq 50); do lockrun -l calc -c '{visit}' || exit 1; done");
    sandbox.make_dir("locks", 0o700);
    let all = [&lockf, &lockrun, &lockrun].map(|script| sandbox.sh(script).start());
    for one in all {
        one.wait().assert_code(0);
    }
    timeline.assert_one_at_a_time();
}

#[test]
fn a_holder_whose_file_is_gone_says_so_when_it_lets_go() {
    for script in [REMOVE, REPLACE] {
        for quiet in [&[] as &[&str], &["-q"]] {
            let sandbox = Sandbox::new();
            let holder = sandbox.hold(&[quiet, &["-l", "calc"]].concat());
            change(&sandbox, script);
            holder.release().assert_code(123).assert_one_line(&["calc"]);
        }
    }
}

#[test]
fn that_beats_the_commands_code_which_the_line_names() {
    let sandbox = Sandbox::new();
    let remove = "rm ../locks/calc.lock; exit 41";
    let outcome = sandbox.lockrun(&["-l", "calc", "-c", remove]).run();
    outcome.assert_code(123).assert_one_line(&["calc", "41"]);
}

#[test]
fn the_next_one_simply_makes_a_new_file() {
    let sandbox = Sandbox::new();
    let attempt = || sandbox.lockrun(&["-l", "calc", "--", "true"]).run();
    attempt().assert_code(0);
    fs::remove_file(sandbox.lock_file("calc")).unwrap();
    attempt().assert_code(0).assert_silent();
    fs::remove_dir_all(sandbox.locks()).unwrap();
    attempt().assert_code(0).assert_silent();
}
