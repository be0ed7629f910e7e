//! `--report FILE`: one line of JSON about each run.

use crate::support::Sandbox;
use serde_json::Value;

fn lines(sandbox: &Sandbox) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.path("work/report")).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_run_is_described() {
    let sandbox = Sandbox::new();
    let run = sandbox.lockrun(&["-l", "calc", "--report", "report", "-c", "echo $LOCKRUN_FENCE; exit 3"]).run();
    run.assert_code(3).assert_silent();
    let [line] = &lines(&sandbox)[..] else { panic!("one line") };
    assert_eq!((&line["name"], &line["code"]), (&"calc".into(), &3.into()));
    assert_eq!(line["command"], "/bin/sh -c echo $LOCKRUN_FENCE; exit 3");
    assert_eq!(line["fence"].to_string(), run.stdout.trim());
    assert_eq!((&line["result"], &line["path"]), (&"failed".into(), &sandbox.lock_file("calc").to_str().into()));
    assert_eq!(line["directory"].as_str(), sandbox.path("work").to_str());
    assert!(line["pid"].as_u64().is_some_and(|pid| pid > 0) && line["host"].is_string(), "{line}");
    assert!(!line["user"].as_str().unwrap().is_empty(), "{line}");
    let time = |field: &str| humantime::parse_rfc3339(line[field].as_str().unwrap()).unwrap();
    assert!(time("started") <= time("granted") && time("granted") <= time("ended"), "{line}");
    assert!(line["waited"].as_f64().unwrap() < 60.0 && line["held"].as_f64().unwrap() < 60.0, "{line}");
}

#[test]
fn waiting_and_holding_are_told_apart() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let args = ["-l", "calc", "--report", "report", "-c", "echo $LOCKRUN_FENCE; sleep 0.3"];
    let waiter = sandbox.lockrun(&args).start().until_waiting();
    sandbox.command("sleep", &["0.5"]).run();
    holder.release();
    let outcome = waiter.wait();
    outcome.assert_code(0);
    let line = &lines(&sandbox)[0];
    let seconds = |field: &str| line[field].as_f64().unwrap();
    assert!(seconds("waited") >= 0.4 && seconds("held") >= 0.3, "{line}");
    assert_eq!(line["fence"].to_string(), outcome.stdout.trim());
}

#[test]
fn a_run_that_did_not_get_the_lock_is_reported() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    for (timeout, code) in [("0", 75), ("0.1", 124)] {
        let args = ["-t", timeout, "-l", "calc", "--report", "report", "--", "true"];
        sandbox.lockrun(&args).run().assert_code(code);
    }
    let lines = lines(&sandbox);
    assert_eq!([&lines[0]["code"], &lines[1]["code"]], [75, 124]);
    for line in &lines {
        assert_eq!([&line["granted"], &line["held"], &line["fence"]], [&Value::Null; 3]);
    }
    assert!(lines[1]["waited"].as_f64().unwrap() >= 0.1, "{lines:?}");
}

#[test]
fn a_command_that_cannot_be_executed_is_reported_as_a_holder() {
    let sandbox = Sandbox::new();
    let args = ["-l", "calc", "--report", "report", "--", "./missing"];
    sandbox.lockrun(&args).run().assert_code(127);
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&args).start().until_waiting();
    holder.release();
    waiter.wait().assert_code(127);
    for line in lines(&sandbox) {
        assert!(line["granted"].is_string() && line["held"].is_number() && line["fence"].is_number(), "{line}");
    }
}

#[test]
fn fifty_at_once_write_whole_lines() {
    let sandbox = Sandbox::new();
    let padding = "x".repeat(3000);
    let start = |_| sandbox.lockrun(&["-s", "-l", "calc", "--report", "report", "--", "true", &padding]).start();
    for running in (0..50).map(start).collect::<Vec<_>>() {
        running.wait().assert_code(0).assert_silent();
    }
    let lines = lines(&sandbox);
    assert_eq!(lines.len(), 50);
    assert!(lines.iter().all(|line| line["code"] == 0));
}

#[test]
fn a_report_that_cannot_be_written_fails_before_anything_runs() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["-l", "calc", "--report", "missing/report", "--", "touch", "ran"]).run();
    outcome.assert_code(125).assert_one_line(&["missing/report"]);
    assert!(!sandbox.path("work/ran").exists());
    let outcome = sandbox.lockrun(&["-l", "calc", "--report", "/dev/full", "--", "true"]).run();
    outcome.assert_code(0).assert_one_line(&["/dev/full"]);
}

#[test]
fn it_is_refused_with_exec() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["--exec", "--report", "report", "-l", "calc", "--", "true"]).run();
    outcome.assert_usage_error(&["--report"]);
}

#[test]
fn the_result_is_said_in_a_word_also_where_the_code_was_chosen() {
    let sandbox = Sandbox::new();
    let run = |words: &[&str]| {
        sandbox.lockrun(&[&["-l", "calc", "--report", "report"], words].concat()).run();
        lines(&sandbox).pop().unwrap()["result"].as_str().unwrap().to_owned()
    };
    assert_eq!(run(&["--", "true"]), "succeeded");
    assert_eq!(run(&["--", "sh", "-c", "kill -KILL $$"]), "killed");
    assert_eq!(run(&["--", "no-such-command"]), "not found");
    assert_eq!(run(&["--expires", "0.05", "--", "sleep", "1000"]), "lost");
    let _holder = sandbox.hold(&["-l", "calc"]);
    assert_eq!(run(&["-n", "--", "true"]), "busy");
    assert_eq!(run(&["-n", "-E", "0", "--", "true"]), "busy");
    assert_eq!(run(&["-t", "0.05", "-E", "1", "--", "true"]), "timed out");
    assert_eq!(run(&["--max-waiters", "0", "--", "true"]), "queue full");
}

#[test]
fn a_dash_is_stderr() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["-l", "calc", "--report", "-", "--", "true"]).run();
    let line: Value = serde_json::from_str(&outcome.assert_code(0).assert_stdout("").stderr).unwrap();
    assert_eq!(line["result"], "succeeded");
    assert!(!sandbox.path("work/-").exists());
}
