//! Where tokens come from, and which exit code several of them give.

use crate::support::Sandbox;

#[test]
fn a_token_may_come_from_the_environment() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    for command in ["check", "renew", "release"] {
        sandbox.lockrun(&[command]).env("LOCKRUN_TOKEN", &token).run().assert_code(0).assert_silent();
    }
    sandbox.assert_free("calc");
}

#[test]
fn a_token_may_come_from_stdin() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    for command in ["check", "renew", "release"] {
        let text = format!("{token}\n");
        sandbox.lockrun(&[command, "-"]).input(&text).run().assert_code(0).assert_silent();
    }
    sandbox.assert_free("calc");
}

#[test]
fn several_are_released_at_once() {
    let sandbox = Sandbox::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| sandbox.acquire(&["-l", name]));
    sandbox.lockrun(&["release", &a, "-"]).input(&format!("{b}\n{c}\n")).run().assert_code(0).assert_silent();
    ["a", "b", "c"].iter().for_each(|name| sandbox.assert_free(name));
}

#[test]
fn all_are_tried_and_the_worst_counts() {
    let sandbox = Sandbox::new();
    let lost = sandbox.acquire(&["-l", "lost"]);
    sandbox.release(&lost).assert_code(0);
    let codes: &[(&[&str], i32)] =
        &[(&[&lost], 123), (&["nonsense"], 125), (&[""], 125), (&["nonsense", &lost], 125), (&[&lost, "", &lost], 125)];
    for (words, code) in codes {
        for around in [0, 1] {
            let token = sandbox.acquire(&["-l", "calc"]);
            let (before, after) = words.split_at(words.len() * around);
            let args = [&["release"], before, &[&token], after].concat();
            sandbox.lockrun(&args).run().assert_code(*code);
            sandbox.assert_free("calc");
        }
    }
}

#[test]
fn the_same_token_twice_is_a_second_release() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    sandbox.lockrun(&["release", &token, &token]).run().assert_code(123);
}

#[test]
fn no_token_on_stdin_is_a_failure_that_stops_no_other() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["release", "-"]).run().assert_code(125).assert_one_line(&["token"]);
    let token = sandbox.acquire(&["-l", "calc"]);
    sandbox.lockrun(&["release", &token, "-"]).run().assert_code(125);
    sandbox.assert_free("calc");
}

#[test]
fn no_token_at_all_is_a_failure() {
    let sandbox = Sandbox::new();
    for command in ["check", "renew", "release"] {
        let outcome = sandbox.lockrun(&[command]).run();
        outcome.assert_code(125).assert_one_line(&["token", "LOCKRUN_TOKEN"]);
        sandbox.lockrun(&[command]).env("LOCKRUN_TOKEN", "").run().assert_code(125).assert_one_line(&["empty"]);
    }
}

#[test]
fn an_empty_word_never_means_the_environments_token() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    for command in ["check", "renew", "release"] {
        let empty = sandbox.lockrun(&[command, ""]).env("LOCKRUN_TOKEN", &token);
        empty.run().assert_code(125).assert_one_line(&["empty"]);
        let nothing = sandbox.lockrun(&[command, "-"]).env("LOCKRUN_TOKEN", &token);
        nothing.run().assert_code(125);
    }
    sandbox.check(&token).assert_code(0);
}
