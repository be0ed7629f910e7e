//! `acquire`, then `release`: the lock is held in between, whatever the lock
//! options and wherever the token is used.

use crate::support::{Sandbox, is_held};

#[test]
fn the_lock_is_held_from_acquire_to_release() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["--name", "calc", "--timeout", "10"]);
    assert!(is_held(&sandbox.lock_file("calc")));
    sandbox.check(&token).assert_code(0).assert_silent().assert_stdout("");
    sandbox.release(&token).assert_code(0).assert_silent().assert_stdout("");
    sandbox.assert_free("calc");
}

#[test]
fn a_token_is_one_word_that_needs_no_quoting() {
    let sandbox = Sandbox::new();
    for name in ["calc", "a b;'\"$(x)", "\u{1b}[31m\n", "é", &"long".repeat(1000)] {
        let outcome = sandbox.lockrun(&["acquire", "-l", name, "--expires", "60"]).run();
        let token = outcome.assert_code(0).assert_silent().stdout.strip_suffix('\n').unwrap();
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{token}");
        assert!(!token.is_empty() && !token.starts_with('-'), "{token}");
        sandbox.release(token).assert_code(0);
    }
}

#[test]
fn a_path_can_be_locked() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "text");
    let token = sandbox.acquire(&["--file", "file"]);
    assert!(is_held(&file));
    sandbox.release(&token).assert_code(0);
    assert!(!is_held(&file));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn the_directory_can_be_given() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["--dir", "relative", "-l", "calc"]);
    assert!(is_held(&sandbox.path("work/relative/calc.lock")));
    assert!(sandbox.files_in_locks().is_empty());
    let elsewhere = sandbox.lockrun(&["release", &token]).current_dir("/".as_ref());
    elsewhere.run().assert_code(0).assert_silent();
    assert!(!is_held(&sandbox.path("work/relative/calc.lock")));
}

#[test]
fn a_held_lock_is_reported_as_in_the_run_form() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let attempt = |options: &[&str]| {
        let args = [&["acquire", "-l", "calc"], options].concat();
        let outcome = sandbox.lockrun(&args).run();
        outcome.assert_stdout("").clone()
    };
    for nonblock in [&["-n"] as &[&str], &["-t", "0"]] {
        attempt(nonblock).assert_code(75).assert_one_line(&["calc", "busy", "held by pid"]);
    }
    attempt(&["-t", "0.05"]).assert_code(124).assert_one_line(&["calc", "timed out after 50ms", "held by pid"]);
    attempt(&["-n", "-E", "7"]).assert_code(7);
    attempt(&["-t", "0.05", "-E", "7"]).assert_code(7);
    attempt(&["-q", "-n"]).assert_code(75).assert_silent();
}

#[test]
fn a_free_lock_is_taken_without_waiting() {
    let sandbox = Sandbox::new();
    for _ in 0..50 {
        let token = sandbox.acquire(&["-n", "-l", "calc"]);
        sandbox.release(&token).assert_code(0);
    }
}

#[test]
fn the_timeout_of_the_environment_counts() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let attempt = sandbox.lockrun(&["acquire", "-l", "calc"]).env("LOCKRUN_TIMEOUT", "0.01");
    attempt.run().assert_code(124);
}

#[test]
fn it_waits_for_its_turn() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["acquire", "-l", "calc", "--expires", "60"]).start().until_waiting();
    holder.release();
    let outcome = waiter.wait();
    outcome.assert_code(0).assert_silent();
    sandbox.release(outcome.stdout.trim()).assert_code(0);
}

#[test]
fn verbose_prints_the_path_and_the_wait() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["acquire", "-v", "-l", "calc", "--expires", "60"]).run();
    let file = sandbox.lock_file("calc");
    outcome.assert_code(0).assert_stderr_has(&["lockrun: calc: locked", file.to_str().unwrap(), "waited"]);
}

#[test]
fn senseless_options_are_refused() {
    let sandbox = Sandbox::new();
    let cases: &[(&[&str], &str)] = &[
        (&[], "--name"),
        (&["-l", ""], "empty"),
        (&["-l", "calc", "-E", "0"], "-E 0"),
        (&["-l", "calc", "--exec"], "--exec"),
        (&["-l", "calc", "--hold", "tree"], "--hold"),
        (&["-l", "calc", "--kill-after", "1"], "--kill-after"),
        (&["-l", "calc", "--report", "file"], "--report"),
        (&["-l", "calc", "-c", "true"], "-c"),
        (&["-l", "calc", "--", "true"], "true"),
        (&["-l", "calc", "--expires", "0"], "expires"),
        (&["-l", "calc", "--expires", "soon"], "soon"),
    ];
    for (options, word) in cases {
        let outcome = sandbox.lockrun(&[&["acquire"], *options].concat()).run();
        outcome.assert_code(125).assert_stdout("").assert_stderr_has(&[word]);
    }
    assert!(sandbox.files_in_locks().is_empty());
}

#[test]
fn the_token_works_anywhere_and_survives_its_creator() {
    let sandbox = Sandbox::new();
    let script = "cd /tmp; sh -c 'lockrun acquire -l calc --expires 60'";
    let token = sandbox.sh(script).run().assert_code(0).stdout.trim().to_owned();
    let elsewhere = |command: &str| {
        let script = format!("exec env -i LOCKRUN_DIR=/nonexistent HOME=/ $(command -v lockrun) {command} {token}");
        sandbox.sh(&script).current_dir("/".as_ref()).run()
    };
    elsewhere("check").assert_code(0).assert_silent();
    elsewhere("renew").assert_code(0).assert_silent();
    elsewhere("release").assert_code(0).assert_silent();
    sandbox.assert_free("calc");
}
