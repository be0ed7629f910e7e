//! Fencing numbers: every grant of a name has a larger one than the last.

use crate::support::Sandbox;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The number of one grant, as COMMAND sees it.
#[track_caller]
fn grant(sandbox: &Sandbox, options: &[&str]) -> u64 {
    let args = [options, &["-c", "echo $LOCKRUN_FENCE"]].concat();
    let outcome = sandbox.lockrun(&args).run();
    outcome.assert_code(0).assert_silent();
    let fence = outcome.stdout.trim().parse();
    fence.unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

fn microseconds_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_micros().try_into().unwrap()
}

/// Puts another number into the lock file.
fn forge(sandbox: &Sandbox, from: u64, to: u64) {
    let file = sandbox.lock_file("calc");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(&from.to_string()), "{text}");
    fs::write(&file, text.replace(&from.to_string(), &to.to_string())).unwrap();
}

#[test]
fn it_rises_with_every_grant() {
    let sandbox = Sandbox::new();
    for options in [&["-l", "calc"] as &[&str], &["--file", "."]] {
        let fences: Vec<_> = (0..10).map(|_| grant(&sandbox, options)).collect();
        assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
    }
}

#[test]
fn it_is_the_wall_clock_in_microseconds() {
    let sandbox = Sandbox::new();
    let before = microseconds_now();
    let fence = grant(&sandbox, &["-l", "calc"]);
    assert!((before..=microseconds_now()).contains(&fence), "{fence}");
}

#[test]
fn it_rises_after_the_file_was_removed() {
    let sandbox = Sandbox::new();
    let before = grant(&sandbox, &["-l", "calc"]);
    fs::remove_file(sandbox.lock_file("calc")).unwrap();
    assert!(grant(&sandbox, &["-l", "calc"]) > before);
    fs::remove_dir_all(sandbox.locks()).unwrap();
    assert!(grant(&sandbox, &["-l", "calc"]) > before);
}

#[test]
fn it_goes_on_from_a_number_in_the_future() {
    let sandbox = Sandbox::new();
    let future = 9_000_000_000_000_000;
    let now = grant(&sandbox, &["-l", "calc"]);
    forge(&sandbox, now, future);
    assert_eq!(grant(&sandbox, &["-l", "calc"]), future + 1);
    assert_eq!(grant(&sandbox, &["-l", "calc", "--shared"]), future + 2);
    assert_eq!(grant(&sandbox, &["-l", "calc", "--exec"]), future + 3);
    assert!(grant(&sandbox, &["-l", "other"]) < future);
}

#[test]
fn where_it_cannot_rise_any_more_nobody_is_let_in() {
    let sandbox = Sandbox::new();
    let now = grant(&sandbox, &["-l", "calc"]);
    forge(&sandbox, now, u64::MAX);
    let attempt = sandbox.lockrun(&["-l", "calc", "--", "echo", "ran"]);
    attempt.run().assert_code(125).assert_stdout("").assert_one_line(&["calc"]);
}

#[test]
fn it_rises_for_those_who_wait_in_the_order_of_their_turns() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let append = ["-l", "calc", "-c", "echo $LOCKRUN_FENCE >>fences"];
    let waiters = [(); 5].map(|()| sandbox.lockrun(&append).start().until_waiting());
    holder.release();
    for waiter in waiters {
        waiter.wait().assert_code(0);
    }
    let text = fs::read_to_string(sandbox.path("work/fences")).unwrap();
    let fences: Vec<u64> = text.lines().flat_map(str::parse).collect();
    assert_eq!(fences.len(), 5, "{text}");
    assert!(fences.is_sorted_by(|one, next| one < next), "{text}");
}

#[test]
fn readers_who_hold_together_have_different_ones() {
    let sandbox = Sandbox::new();
    let reader = ["-l", "calc", "-s", "-c", "echo $LOCKRUN_FENCE; exec cat"];
    let readers = [(); 3].map(|()| {
        let reader = sandbox.lockrun(&reader).input("");
        reader.start().until_says("\n")
    });
    let fences = readers.map(|reader| reader.stdout());
    let rising = fences[0] < fences[1] && fences[1] < fences[2];
    assert!(rising, "{fences:?}");
}
