//! `--timeout DUR`, `-n`, `LOCKRUN_TIMEOUT`: how long to wait.

use crate::support::{Outcome, Sandbox};
use std::time::Duration;

/// An attempt with these options at a lock that is held.
fn attempt_while_held(options: &[&str]) -> Outcome {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let args = [options, &["-l", "calc", "--", "touch", "ran"]].concat();
    let outcome = sandbox.lockrun(&args).run();
    assert!(!sandbox.path("work/ran").exists(), "ran: {outcome:?}");
    outcome
}

#[test]
fn the_whole_timeout_is_waited_in_every_form() {
    for (duration, milliseconds) in
        [(".007", 7), ("0.05", 50), ("1", 1000), ("30ms", 30), ("50000us", 50), ("1s 20ms", 1020)]
    {
        for option in ["-t", "--timeout", "-w", "--wait"] {
            let outcome = attempt_while_held(&[option, duration]);
            let told = lockrun::duration::display(Duration::from_millis(milliseconds));
            outcome.assert_code(124).assert_one_line(&[&format!("timed out after {told};")]);
            assert!(outcome.took >= Duration::from_millis(milliseconds), "{duration}: {outcome:?}");
            if milliseconds > 50 {
                break; // One spelling is enough for the slow ones.
            }
        }
    }
}

#[test]
fn zero_does_not_wait() {
    for options in [&["-n"] as &[&str], &["--nonblock"], &["-t", "0"], &["--timeout", "0s"], &["--timeout=0.0"]] {
        attempt_while_held(options).assert_code(75);
    }
}

#[test]
fn a_lock_released_within_the_timeout_is_granted() {
    for options in [
        &[] as &[&str],
        &["-t", "-1"],
        &["--timeout=-1"],
        &["-t", "forever"],
        &["-t", "10"],
        &["-t", "90s"],
        &["-t", "1m 30s"],
        &["-t", "10000000000"],
    ] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let args = [options, &["-l", "calc", "--", "echo", "ran"]].concat();
        let waiter = sandbox.lockrun(&args).start().until_waiting();
        holder.release().assert_code(0);
        let outcome = waiter.wait();
        outcome.assert_code(0).assert_stdout("ran\n").assert_silent();
    }
}

#[test]
fn a_free_lock_ignores_the_timeout() {
    let sandbox = Sandbox::new();
    for duration in ["0", ".007", "10", "500ms", "-1", "forever", "1m 30s"] {
        let args = ["-t", duration, "-l", "calc", "--", "true"];
        sandbox.lockrun(&args).run().assert_code(0).assert_silent();
    }
}

#[test]
fn the_environment_gives_a_timeout_and_the_option_beats_it() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let attempt = |options: &[&str]| {
        let args = [options, &["-l", "calc", "--", "true"]].concat();
        sandbox.lockrun(&args).env("LOCKRUN_TIMEOUT", "0.01").run()
    };
    attempt(&[]).assert_code(124);
    attempt(&["-t", "0"]).assert_code(75);
    attempt(&["-n"]).assert_code(75);
}

#[test]
fn the_last_of_repeated_options_counts() {
    attempt_while_held(&["-t", "50", "--timeout", "0.01"]).assert_code(124);
    attempt_while_held(&["-n", "-n", "-E", "3", "-E", "4"]).assert_code(4);
}

#[test]
fn the_last_of_contradicting_options_counts() {
    attempt_while_held(&["-n", "-t", "0.01"]).assert_code(124);
    attempt_while_held(&["-t", "50", "-n"]).assert_code(75);
    attempt_while_held(&["-t50", "--timeout=forever", "--nonblock"]).assert_code(75);
    attempt_while_held(&["-n", "-v", "-q"]).assert_code(75).assert_silent();
    attempt_while_held(&["-n", "-q", "-v"]).assert_code(75).assert_one_line(&["busy"]);
}

#[test]
fn the_timeout_does_not_limit_the_command() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc", "-t", "0.001"]);
    attempt_while_held(&["-t", "0.05"]);
    holder.release().assert_code(0).assert_silent();
}
