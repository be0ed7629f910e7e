//! How the last run of a free lock ended: in its file, in `lockrun list`.

use crate::support::{Sandbox, eventually, is_held};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

#[track_caller]
fn last(sandbox: &Sandbox, name: &str) -> Value {
    let locks = sandbox.list(&[name]);
    assert_eq!(locks[0]["state"], "free", "{locks:?}");
    locks[0]["last"].clone()
}

fn seconds_between(run: &Value) -> f64 {
    let [since, ended] = ["since", "ended"].map(|at| humantime::parse_rfc3339(run[at].as_str().unwrap()).unwrap());
    ended.duration_since(since).unwrap().as_secs_f64()
}

#[test]
fn the_exit_code_or_the_signal_is_kept_with_its_time() {
    let sandbox = Sandbox::new();
    let ends = [
        ("exit 0", json!(["succeeded", 0, null])),
        ("exit 7", json!(["failed", 7, null])),
        ("kill -KILL $$", json!(["killed", null, 9])),
    ];
    for (script, expected) in ends {
        sandbox.lockrun(&["-l", "calc", "--", "sh", "-c", script]).run();
        let run = last(&sandbox, "calc");
        assert_eq!(json!([run["result"], run["code"], run["signal"]]), expected, "{run}");
        assert_eq!(run["command"], "sh");
        let held = run["held"].as_f64().unwrap();
        assert!((seconds_between(&run) - held).abs() < 1.0, "{run}");
    }
}

/// COMMAND that had to wait is granted the lock in another process than lockrun's.
#[test]
fn a_run_that_had_to_wait_is_kept_as_well() {
    let sandbox = Sandbox::new();
    let options: [&[&str]; 4] = [&[], &["--expires", "1h"], &["-l", "other"], &["-v"]];
    for (code, more) in (10..).zip(options) {
        let holder = sandbox.hold(&["-l", "calc"]);
        let script = format!("exit {code}");
        let words = [&["-l", "calc"], more, &["--", "sh", "-c", &script]].concat();
        let waiter = sandbox.lockrun(&words).start().until_waiting();
        holder.release();
        waiter.wait().assert_code(code);
        let run = last(&sandbox, "calc");
        assert_eq!((&run["code"], &run["command"]), (&json!(code), &json!("sh")), "{more:?}: {run}");
    }
    assert_eq!(last(&sandbox, "other")["code"], 12, "each lock of a set");
}

#[test]
fn a_command_that_cannot_be_executed_has_a_code_as_well() {
    let sandbox = Sandbox::new();
    sandbox.write("work/text", "no program");
    for (command, code) in [("no-such-command", 127), ("./text", 126)] {
        sandbox.lockrun(&["-l", "calc", "--", command]).run().assert_code(code);
        assert_eq!(last(&sandbox, "calc")["code"], code);
        let holder = sandbox.hold(&["-l", "calc"]);
        let waiter = sandbox.lockrun(&["-l", "calc", "--", command]).start().until_waiting();
        holder.release();
        waiter.wait().assert_code(code);
        assert_eq!(last(&sandbox, "calc")["code"], code, "after a wait");
    }
}

#[test]
fn a_lock_that_was_lost_says_so() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--expires", "0.05", "--", "sleep", "1000"]).run().assert_code(123);
    assert_eq!(last(&sandbox, "calc")["result"], "lost");
    let token = sandbox.acquire(&["-l", "token", "--expires", "1h"]);
    sandbox.lockrun(&["break", "token"]).run().assert_code(0);
    assert_eq!(last(&sandbox, "token")["result"], "lost");
    sandbox.lockrun(&["release", &token]).run().assert_code(123);
    let token = sandbox.acquire(&["-l", "token", "--expires", "1h"]);
    sandbox.lockrun(&["release", &token]).run().assert_code(0);
    let run = last(&sandbox, "token");
    assert_eq!(run["result"], "released");
    let command = run["command"].as_str().unwrap();
    assert!(command.starts_with("token for ") && command.split(' ').count() == 3, "{command}");
    assert!(seconds_between(&run) >= 0.0, "{run}");
}

#[test]
fn nobody_writes_down_the_end_of_a_killed_lockrun() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let holder = sandbox.hold(&["-l", "calc"]);
    holder.signal(libc::SIGKILL);
    let pid = holder.pid().to_string();
    drop(holder);
    eventually("its command has ended", || !is_held(&sandbox.lock_file("calc")));
    let run = last(&sandbox, "calc");
    assert_eq!((&run["result"], &run["ended"], &run["code"]), (&json!("unknown"), &Value::Null, &Value::Null));
    assert!(fs::read_to_string(sandbox.lock_file("calc")).unwrap().contains(&pid));
}

#[test]
fn arguments_are_in_the_record_only_while_the_command_runs() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/data", "");
    let by_path = ["--file", file.to_str().unwrap()];
    let locks: [&[&str]; 4] = [&["-l", "calc"], &["-l", "calc", "-s"], &["-l", "pool", "--slots", "3"], &by_path];
    for lock in locks {
        let words = [lock, &["--", "sh", "-c", "echo holding; exec cat", "s3cret"]].concat();
        let running = sandbox.lockrun(&words).input("").start().until_says("holding");
        let is_there = || {
            let texts = sandbox.files_in_locks().into_iter().map(|name| fs::read(sandbox.locks().join(name)).unwrap());
            texts.into_iter().any(|text| text.windows(6).any(|part| part == b"s3cret"))
        };
        assert!(is_there(), "{lock:?}");
        running.wait().assert_code(0);
        assert!(!is_there(), "{lock:?}");
    }
}

#[test]
fn a_pool_and_a_shared_lock_have_a_last_run() {
    let sandbox = Sandbox::new();
    for options in [["--slots", "3"].as_slice(), &["--shared"]] {
        let name = options[0].trim_start_matches('-');
        let first = sandbox.hold(&[&["-l", name], options].concat());
        let words = [&["-l", name], options, &["--", "sh", "-c", "exit 3"]].concat();
        sandbox.lockrun(&words).run().assert_code(3);
        // A record says the time in milliseconds.
        let began = Instant::now();
        eventually("another millisecond", || began.elapsed() > Duration::from_millis(1));
        first.release();
        assert_eq!(last(&sandbox, name)["code"], 0, "the holder that began first ended last");
    }
}

/// A command may release the lock itself, by the descriptor that it inherits.
#[test]
fn the_record_of_the_next_holder_is_left_alone() {
    let sandbox = Sandbox::new();
    let script = "flock -u 3 2>/dev/null || for fd in /proc/$$/fd/*; do flock -u ${fd##*/} 2>/dev/null; done; \
                  echo holding; exec cat";
    let first = sandbox.lockrun(&["-l", "calc", "--", "bash", "-c", script]).input("").start().until_says("holding");
    let second = sandbox.hold(&["-l", "calc"]);
    let before = fs::read(sandbox.lock_file("calc")).unwrap();
    first.wait();
    assert_eq!(fs::read(sandbox.lock_file("calc")).unwrap(), before);
    assert_eq!(sandbox.list(&["calc"])[0]["holders"][0]["pid"], second.pid());
}
