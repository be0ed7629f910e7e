//! The lock file is removed or replaced, by tmpfiles, lockf or somebody's `rm`;
//! or its whole directory, by a backup.

use crate::support::{Invocation, Running, Sandbox, Timeline};
use std::fs;

const CHANGES: [&str; 5] = [
    "rm locks/calc.lock",
    "cp locks/calc.lock locks/new; mv locks/new locks/calc.lock",
    "mv locks old",
    "mv locks old; cp -a old locks",
    "rm -r locks; mkdir -m 700 locks",
];

fn change(sandbox: &Sandbox, script: &str) {
    let change = sandbox.sh(script).current_dir(&sandbox.path(""));
    change.run().assert_code(0);
}

/// A visit to the timeline that lasts until its input ends.
fn visit(sandbox: &Sandbox, timeline: &Timeline, id: &str) -> Invocation {
    let script = timeline.visit(id, "echo holding; cat");
    sandbox.lockrun(&["-l", "calc", "-c", &script])
}

#[test]
fn waiters_never_enter_twice() {
    for script in CHANGES {
        let sandbox = Sandbox::new();
        let timeline = Timeline::new(&sandbox);
        let old = sandbox.hold(&["-l", "calc"]);
        let waiters = ["one", "two", "three"].map(|id| {
            let waiter = visit(&sandbox, &timeline, id);
            waiter.start().until_waiting()
        });
        change(&sandbox, script);
        let new = visit(&sandbox, &timeline, "new").input("");
        let new = new.start().until_says("holding");
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
    sandbox.make_dir("locks", 0o700);
    let timeline = Timeline::new(&sandbox);
    // As BSD's lockf, removes the file before the release, so that waiters get the lock
    // of a removed file.
    let lockf = format!(
        "file=$LOCKRUN_DIR/calc.lock
        for i in $(seq 100); do
            exec 9>>$file; flock 9
            if [ $file -ef /dev/fd/9 ]; then {visit}; rm $file; fi
        done",
        visit = timeline.visit("lockf", ":")
    );
    let lockrun = format!(
        "for i in $(seq 100); do lockrun -l calc -c '{visit}' || exit 1; done",
        visit = timeline.visit("lockrun", ":")
    );
    let all = [&lockf, &lockrun, &lockrun].map(|script| sandbox.sh(script).start());
    for one in all {
        one.wait().assert_code(0);
    }
    timeline.assert_one_at_a_time();
    let turns = timeline.entered().into_iter();
    assert_eq!(turns.filter(|id| id == "lockrun").count(), 200);
}

#[test]
fn a_holder_whose_file_is_gone_says_so_when_it_lets_go() {
    for script in CHANGES {
        for quiet in [&[] as &[&str], &["-q"]] {
            let sandbox = Sandbox::new();
            let holder = sandbox.hold(&[quiet, &["-l", "calc"]].concat());
            change(&sandbox, script);
            holder.release().assert_code(123).assert_one_line(&["calc"]);
        }
    }
}

#[test]
fn a_lost_file_beats_the_commands_code_which_the_line_names() {
    let sandbox = Sandbox::new();
    let remove = "rm ../locks/calc.lock; exit 41";
    let outcome = sandbox.lockrun(&["-l", "calc", "-c", remove]).run();
    outcome.assert_code(123).assert_one_line(&["calc", "41"]);
}

#[test]
fn the_next_run_creates_a_new_file() {
    let sandbox = Sandbox::new();
    let attempt = || sandbox.lockrun(&["-l", "calc", "--", "true"]).run();
    attempt().assert_code(0);
    fs::remove_file(sandbox.lock_file("calc")).unwrap();
    attempt().assert_code(0).assert_silent();
    fs::remove_dir_all(sandbox.locks()).unwrap();
    attempt().assert_code(0).assert_one_line(&["created the locks directory"]);
}
