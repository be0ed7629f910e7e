//! What the lock file says about its holder: one line of JSON, for people.

use crate::support::{Sandbox, is_alive};
use serde_json::Value;
use std::fs;

fn text(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.lock_file("calc")).unwrap()
}

fn parsed(sandbox: &Sandbox) -> Value {
    let text = text(sandbox);
    assert!(text.starts_with("{\"lockrun\":1,"), "{text}");
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn it_says_who_holds_the_lock() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let record = parsed(&sandbox);
    let said_by = |script: &str| {
        let outcome = sandbox.sh(script).run();
        Value::from(outcome.assert_code(0).stdout.trim())
    };
    assert_eq!(record["pid"], holder.pid());
    assert_eq!(record["user"], said_by("id -un 2>/dev/null || true"));
    assert_eq!(record["host"], said_by("uname -n"));
    let command = record["command"].as_str().unwrap();
    assert!(command.contains("echo holding; exec cat"), "{record}");
    let since = humantime::parse_rfc3339(record["since"].as_str().unwrap()).unwrap();
    let age = since.elapsed().unwrap();
    assert!(age.as_secs() < 60, "{record}");
    assert!(record["expires"].is_null(), "{record}");
    let fence = record["fence"].as_u64().unwrap();
    assert!(fence > 1_600_000_000_000_000, "microseconds: {record}");
}

#[test]
fn it_names_a_living_process_after_a_wait() {
    let sandbox = Sandbox::new();
    let first = sandbox.hold(&["-l", "calc"]);
    let command = ["-l", "calc", "-c", "echo holding; exec cat"];
    let second = sandbox.lockrun(&command).input("").start().until_waiting();
    first.release();
    let second = second.until_says("holding");
    let pid = parsed(&sandbox)["pid"].as_i64().unwrap();
    assert!(is_alive(pid.try_into().unwrap()));
    second.wait().assert_code(0);
}

#[test]
fn it_says_when_the_lock_expires() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc", "--expires", "1h"]);
    let record = parsed(&sandbox);
    let time = |field: &str| humantime::parse_rfc3339(record[field].as_str().unwrap()).unwrap();
    let length = time("expires").duration_since(time("since")).unwrap();
    assert_eq!(length.as_secs_f64().round(), 3600.0, "{record}");
}

#[test]
fn only_the_holder_writes_it() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let before = text(&sandbox);
    let attempt = |args: &[&str]| sandbox.lockrun(&[args, &["-l", "calc", "--", "true"]].concat());
    attempt(&["-n"]).run().assert_code(75);
    attempt(&["-t", "0.01"]).run().assert_code(124);
    let waiter = attempt(&[]).start().until_waiting();
    assert_eq!(text(&sandbox), before);
    holder.release();
    waiter.wait().assert_code(0);
    assert_ne!(text(&sandbox), before);
}

#[test]
fn nothing_of_an_older_record_stays() {
    let sandbox = Sandbox::new();
    let run = |argument: &str| {
        let script = format!("cat {}", sandbox.lock_file("calc").display());
        let outcome = sandbox.lockrun(&["-l", "calc", "--", "sh", "-c", &script, argument]).run();
        outcome.assert_code(0).assert_silent();
        assert_eq!(parsed(&sandbox)["command"], "sh", "without arguments once it has ended");
        let record: Value = serde_json::from_str(&outcome.stdout).unwrap();
        (text(&sandbox).len(), record["command"].as_str().unwrap().to_owned())
    };
    let (length, command) = run(&"long ".repeat(20_000));
    assert!(command.contains("long long"), "{command}");
    let (same_length, command) = run("short");
    assert_eq!(same_length, length);
    assert!(command.ends_with("calc.lock short"), "{command}");
}

#[test]
fn what_it_quotes_stays_one_printable_line() {
    let sandbox = Sandbox::new();
    let wild = "a\nb\u{1b}[31m\u{7f}\"\\\t";
    let args = ["-l", "calc", "--", "sh", "-c", "echo holding; exec cat", wild];
    let _running = sandbox.lockrun(&args).input("").start().until_says("holding");
    parsed(&sandbox);
    let text = text(&sandbox);
    let control = text.trim_end().chars().any(|c| c.is_ascii_control() && c != '\u{7f}');
    assert!(!control, "{text:?}");
    let outcome = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    outcome.assert_code(75).assert_one_line(&["calc"]);
    outcome.assert_printable();
}

#[test]
fn foreign_text_in_it_is_shown_escaped() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let forged = text(&sandbox).replace("holding", "\\u001b[2J\\n");
    assert!(forged.contains("[2J"), "{forged}");
    fs::write(sandbox.lock_file("calc"), forged).unwrap();
    let outcome = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    outcome.assert_code(75).assert_one_line(&["calc"]);
    outcome.assert_printable();
}
