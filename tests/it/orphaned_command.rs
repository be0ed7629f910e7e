//! A COMMAND whose lockrun was killed still holds its locks, however they were taken, and
//! `list`, `break` and `--replace` know it as their holder.

use crate::support::{Running, Sandbox, eventually, is_alive, is_held};
use std::fs;

/// Says who it is, and stays.
const COMMAND: &str = "echo $$ >>pids; echo holding; exec sleep 1000";

/// Ways to take a set. Where the last lock is held as in the second list, it waits.
const SETS: [(&[&str], &[&str]); 4] =
    [(&[], &[]), (&["--shared"], &[]), (&["--slots", "1"], &["--slots", "1"]), (&["--expires", "1000"], &[])];

/// A COMMAND that holds the two locks `first` and `second`, of which it had to wait for the
/// second; its lockrun was killed.
#[track_caller]
fn orphan_of_a_set(sandbox: &Sandbox, options: &[&str], others: &[&str], first: &str, second: &str) -> i32 {
    let other = sandbox.hold(&[others, &["-l", second]].concat());
    let words = [options, &["-l", first, "-l", second, "-c", COMMAND]].concat();
    let wrapper = sandbox.lockrun(&words).start().until_waiting();
    other.release().assert_code(0);
    orphan(sandbox, wrapper.until_says("holding"))
}

/// Kills a lockrun and returns its COMMAND, which wrote its pid last.
#[track_caller]
fn orphan(sandbox: &Sandbox, wrapper: Running) -> i32 {
    let pids = fs::read_to_string(sandbox.path("work/pids")).unwrap();
    wrapper.signal(libc::SIGKILL);
    wrapper.wait().assert_signal(libc::SIGKILL);
    pids.lines().last().unwrap().parse().unwrap()
}

/// The sandbox, its locks in the order in which a set takes them, and the orphan.
#[track_caller]
fn orphan_of_each_set(then: impl Fn(&Sandbox, [&'static str; 2])) {
    for (options, others) in SETS {
        let sandbox = Sandbox::new();
        let names = sandbox.in_order(["a", "b"]);
        let orphan = orphan_of_a_set(&sandbox, options, others, names[0], names[1]);
        assert!(names.iter().all(|name| is_held(&sandbox.lock_file(name))), "{options:?}");
        then(&sandbox, names);
        eventually(&format!("{options:?}: the orphan ends"), || !is_alive(orphan));
        assert!(!is_held(&sandbox.lock_file(names[1])), "{options:?}");
    }
}

#[test]
fn break_ends_one_of_a_set_that_had_to_wait() {
    orphan_of_each_set(|sandbox, names| {
        sandbox.lockrun(&["break", names[0]]).run().assert_code(0).assert_silent();
    });
}

#[test]
fn replace_ends_one_of_a_set_that_had_to_wait() {
    orphan_of_each_set(|sandbox, names| {
        sandbox.lockrun(&["--replace", "-t", "9", "-l", names[0], "--", "true"]).run().assert_code(0).assert_silent();
    });
}

#[test]
fn list_shows_the_record_of_each_lock_of_a_set_that_had_to_wait() {
    orphan_of_each_set(|sandbox, names| {
        for lock in sandbox.list(&names) {
            let holder = &lock["holders"][0];
            assert!(holder["fence"].is_u64() && holder["command"].as_str().unwrap().contains("holding"), "{lock}");
        }
        sandbox.lockrun(&["break", names[0]]).run().assert_code(0).assert_silent();
    });
}

/// The text of the lock's file is about the last of several who share it.
#[test]
fn break_ends_one_that_shares_the_lock_without_a_record() {
    for (lock, looked_at) in [(["-l", "calc"], &["calc"] as &[&str]), (["--file", "calc"], &["--file", "calc"])] {
        let sandbox = Sandbox::new();
        sandbox.write("work/calc", "");
        let share = |options: &[&str]| {
            let words = [options, &["--shared"], &lock, &["-c", COMMAND]].concat();
            sandbox.lockrun(&words).start().until_says("holding")
        };
        let orphan = orphan(&sandbox, share(&[]));
        let other = share(&[]);
        sandbox.lockrun(&[&["break"], looked_at].concat()).run().assert_code(0).assert_silent();
        eventually("both have ended", || !is_alive(orphan));
        other.wait().assert_code(123);
    }
}
