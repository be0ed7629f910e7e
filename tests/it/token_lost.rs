//! A token that no longer holds its lock: 123, and one line that says since when.

use crate::support::{Outcome, Sandbox, eventually, holder_of, is_held};
use std::fs;
use std::time::SystemTime;

/// Kills the process behind a token on `calc`.
fn kill_holder(sandbox: &Sandbox) {
    let pid = holder_of(&sandbox.lock_file("calc"));
    // SAFETY: kill has no memory effects; the holder lives.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    eventually("the killed holder's lock is free", || !is_held(&sandbox.lock_file("calc")));
}

/// All token commands say 123 and this.
#[track_caller]
fn assert_lost(sandbox: &Sandbox, token: &str, words: &[&str]) -> Outcome {
    for command in ["check", "renew"] {
        sandbox.with_token(command, token).assert_code(123).assert_one_line(words);
    }
    let outcome = sandbox.release(token);
    outcome.assert_code(123).assert_stdout("").assert_one_line(words).clone()
}

/// The time after this word is between `start` and now.
#[track_caller]
fn assert_time_behind(outcome: &Outcome, word: &str, start: SystemTime) {
    let behind = outcome.stderr.split_once(word).unwrap_or_else(|| panic!("{word}: {outcome:?}")).1;
    let text: String = behind.trim_start().chars().take_while(|c| !c.is_whitespace() && *c != ';').collect();
    let time = humantime::parse_rfc3339(&text).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    // It is told to the millisecond.
    let start = start - std::time::Duration::from_millis(1);
    assert!(start <= time && time <= SystemTime::now(), "{outcome:?}");
}

#[test]
fn the_lock_of_a_killed_holder_is_free_at_once() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    kill_holder(&sandbox);
    sandbox.assert_free("calc");
    assert_lost(&sandbox, &token, &["lockrun: calc: lost", "not protected to the end"]);
}

#[test]
fn a_killed_holder_is_reported_as_killed() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    kill_holder(&sandbox);
    assert_lost(&sandbox, &token, &["killed"]);
}

#[test]
fn a_second_release_says_when_the_first_one_was() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let start = SystemTime::now();
    sandbox.release(&token).assert_code(0);
    let outcome = assert_lost(&sandbox, &token, &["calc", "released at 2"]);
    assert_time_behind(&outcome, "released at", start);
    assert!(!outcome.stderr.contains("lost"), "given back, not lost: {outcome:?}");
}

#[test]
fn an_expired_lock_says_when_it_expired() {
    let sandbox = Sandbox::new();
    let start = SystemTime::now();
    // Time enough to be handed over on a busy machine.
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1s"]);
    eventually("it expires", || !is_held(&sandbox.lock_file("calc")));
    sandbox.assert_free("calc");
    let again = sandbox.acquire(&["-l", "else", "--expires", "1h"]);
    sandbox.lockrun(&["renew", &again, "--expires", "10ms"]).run().assert_code(0);
    eventually("it expires", || !is_held(&sandbox.lock_file("else")));
    let outcome = assert_lost(&sandbox, &again, &["else", "lost", "expired at 2", "not protected to the end"]);
    assert_time_behind(&outcome, "expired at", start);
    assert_lost(&sandbox, &token, &["calc", "lost", " at 2"]);
}

#[test]
fn a_lock_that_others_have_now_is_not_touched() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    kill_holder(&sandbox);
    let holder = sandbox.hold(&["-l", "calc"]);
    assert_lost(&sandbox, &token, &["calc", "granted to others"]);
    assert!(is_held(&sandbox.lock_file("calc")));
    holder.release().assert_code(0).assert_silent();
    let next = sandbox.acquire(&["-l", "calc"]);
    assert_lost(&sandbox, &token, &["calc"]);
    sandbox.release(&next).assert_code(0);
}

#[test]
fn a_removed_lock_file_is_a_lost_lock() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    fs::remove_file(sandbox.lock_file("calc")).unwrap();
    assert_lost(&sandbox, &token, &["calc", "lost", "removed"]);
    assert!(sandbox.files_in_locks().is_empty(), "it came back: {:?}", sandbox.files_in_locks());
}

#[test]
fn a_removed_directory_is_a_lost_lock() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    fs::remove_dir_all(sandbox.locks()).unwrap();
    assert_lost(&sandbox, &token, &["calc", "lost"]);
    assert!(!sandbox.locks().exists());
    // Nothing is left to say since when.
    sandbox.release(&token).assert_code(123).assert_one_line(&["calc"]);
}

#[test]
fn without_owner_and_expiry_it_ends_after_an_hour_and_says_so() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["acquire", "-l", "calc"]).run();
    outcome.assert_code(0).assert_one_line(&["calc", "1h"]);
    let details = sandbox.lockrun(&["check", "--json", outcome.stdout.trim()]).run();
    let details: serde_json::Value = serde_json::from_str(&details.stdout).unwrap();
    let left = details["remaining"].as_f64().unwrap();
    assert!(left > 3500.0 && left <= 3600.0, "{details}");
}

#[test]
fn with_owner_or_expiry_nothing_is_printed() {
    let sandbox = Sandbox::new();
    let owner = std::process::id().to_string();
    for options in [["--expires", "forever"], ["--expires", "1h"], ["--owner", &owner]] {
        let outcome = sandbox.lockrun(&[&["acquire", "-l", "calc"], &options as &[&str]].concat()).run();
        outcome.assert_code(0).assert_silent();
        sandbox.release(outcome.stdout.trim()).assert_code(0);
    }
}

#[test]
fn the_expiry_runs_on_the_clock_that_runs_through_suspend() {
    let sandbox = Sandbox::new();
    sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    let pid = holder_of(&sandbox.lock_file("calc"));
    let timers = || fs::read_to_string(format!("/proc/{pid}/timers")).unwrap();
    eventually("it has a timer", || timers().contains("ClockID:"));
    assert!(timers().contains(&format!("ClockID: {}\n", libc::CLOCK_BOOTTIME)), "{}", timers());
}

#[test]
fn a_token_whose_holder_cannot_be_reached_but_lives_is_not_called_lost() {
    if !crate::support::may_act_as_root("a network namespace") {
        return;
    }
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let outcome = sandbox.command("unshare", &["--net", "lockrun", "release", &token]).run();
    match outcome.code {
        Some(0) => sandbox.assert_free("calc"),
        _ => {
            outcome.assert_code(125).assert_one_line(&["calc"]);
            sandbox.release(&token).assert_code(0);
        }
    }
}
