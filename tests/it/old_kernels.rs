//! Kernels and sandboxes without pidfd_open(2): what needs it says so at once, and
//! `--expires` works without it.

use crate::support::{Invocation, Sandbox, is_alive, is_held};
use std::fs;

/// `lockrun WORDS` on a kernel where this system call fails.
fn without(sandbox: &Sandbox, call: &str, error: &str, words: &[&str]) -> Invocation {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}"));
    let strace = ["-f", "-qq", "-o", "trace", "-e", &trace, "-e", &inject, "lockrun"];
    sandbox.command("strace", &[&strace, words].concat())
}

#[test]
fn what_needs_pidfd_open_says_that_it_is_missing() {
    for (error, said) in [("ENOSYS", "kernel"), ("EPERM", "sandbox")] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let owner = holder.pid().to_string();
        for words in [
            &["break", "calc"] as &[&str],
            &["--replace", "-l", "calc", "--", "touch", "ran"],
            &["--exec", "--replace", "-l", "calc", "--", "touch", "ran"],
            &["acquire", "--replace", "-l", "calc", "--expires", "5"],
            &["acquire", "-l", "other", "--owner", &owner],
        ] {
            let outcome = without(&sandbox, "pidfd_open", error, words).run();
            outcome.assert_code(125).assert_stdout("").assert_one_line(&[said, "pidfd_open"]);
        }
        let words = ["break", "calc"];
        let outcome = without(&sandbox, "pidfd_send_signal", error, &words).run();
        outcome.assert_code(125).assert_one_line(&[said, "pidfd_send_signal"]);
        assert!(!sandbox.path("work/ran").exists());
        holder.release().assert_code(0).assert_silent();
    }
}

#[test]
fn a_free_lock_is_still_taken_with_replace() {
    let sandbox = Sandbox::new();
    without(&sandbox, "pidfd_open", "ENOSYS", &["--replace", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn expiry_ends_all_that_the_command_started() {
    // A child of COMMAND, a daemon that has a child of its own, and COMMAND.
    let script = "sleep 1001 & echo $! >>pids
        (setsid sh -c 'sleep 1002 & echo $$ $! >>pids; wait; sleep 1003' &)
        until [ $(wc -w <pids) = 3 ]; do sleep 0.01; done; echo $$ >>pids; exec sleep 1004";
    for call in ["pidfd_open", "pidfd_send_signal"] {
        for error in ["ENOSYS", "EPERM"] {
            let sandbox = Sandbox::new();
            let words = ["-l", "calc", "--expires", "2", "--kill-after", "1000", "-c", script];
            let outcome = without(&sandbox, call, error, &words).run();
            outcome.assert_code(123).assert_one_line(&["expired", "all it started", "TERM"]);
            let pids = fs::read_to_string(sandbox.path("work/pids")).unwrap();
            let pids: Vec<i32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
            assert_eq!(pids.len(), 4);
            assert!(!pids.iter().any(|pid| is_alive(*pid)), "{call} {error}");
            assert!(!is_held(&sandbox.lock_file("calc")));
        }
    }
}
