//! `lockrun renew` and `lockrun check` without a token inside a run, on every engine.

use crate::support::{Place, Sandbox, eventually};

const CALC: [&str; 2] = ["-l", "calc"];

/// When the lock `calc` expires, as `list` says.
fn expires(place: &Place, sandbox: &Sandbox) -> Option<std::time::SystemTime> {
    let list = place.lockrun(sandbox, &["list", "--json", "calc"]).run();
    let locks: serde_json::Value = serde_json::from_str(&list.assert_code(0).stdout).unwrap();
    let at = locks[0]["holders"][0]["expires"].as_str().or(locks[0]["expires"].as_str())?;
    Some(humantime::parse_rfc3339(at).unwrap())
}

fn in_minutes(minutes: u64) -> std::time::SystemTime {
    std::time::SystemTime::now() + std::time::Duration::from_secs(60 * minutes)
}

#[test]
fn the_command_expires_at_its_new_time_and_list_shows_it() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let script = "lockrun renew --expires 1h || exit; echo renewed; cat; lockrun renew --expires 50ms && cat";
        let script = format!("{script}; exec sleep 1000");
        let args = [&CALC as &[&str], &["--expires", "30m", "-c", &script]].concat();
        let mut run = place.lockrun(&sandbox, &args).input("").start().until_says("renewed");
        eventually("list shows it", || expires(&place, &sandbox).is_some_and(|at| at > in_minutes(40)));
        run.close_stdin();
        run.wait().assert_code(123).assert_one_line(&["calc", "expired after", "ended the command"]);
    }
}

#[test]
fn a_command_that_waited_for_its_lock_can_renew() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &CALC);
        let script = "lockrun renew --expires 1h || exit; echo renewed; cat";
        let args = [&CALC as &[&str], &["--expires", "30m", "-c", script]].concat();
        let run = place.lockrun(&sandbox, &args).input("").start();
        place.until_waiting(&sandbox, 1);
        holder.release();
        let run = run.until_says("renewed");
        eventually("list shows it", || expires(&place, &sandbox).is_some_and(|at| at > in_minutes(40)));
        run.wait().assert_code(0);
    }
}

#[test]
fn a_run_without_expiry_has_nothing_to_renew() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let outcome = place.lockrun(&sandbox, &["-l", "calc", "-c", "lockrun renew --expires 1h"]).run();
        outcome.assert_code(125).assert_stderr_has(&["no expiry", "--expires"]);
    }
}

#[test]
fn check_finds_the_locks_around_it_in_every_place() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let script = "lockrun check && lockrun check --json && echo \"$LOCKRUN_FENCE\"";
        let run = |options: &[&str]| {
            let outcome = place.lockrun(&sandbox, &[options, &["-c", script]].concat()).run();
            let (json, fences) = outcome.assert_code(0).assert_silent().stdout.split_once('\n').unwrap();
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(json["fence"].to_string(), fences.lines().next().unwrap(), "{outcome:?}");
            json
        };
        let json = run(&["-l", "calc", "--expires", "1000"]);
        assert_eq!(json["name"], "calc");
        assert!((900.0..=1000.0).contains(&json["remaining"].as_f64().unwrap()), "{json}");
        assert_eq!(run(&["-l", "calc"])["remaining"], serde_json::Value::Null);
        assert_eq!(run(&["-l", "pool", "--slots", "3"])["slot"], 0);
        run(&["-l", "b", "-l", "a"]);
        run(&["-s", "-l", "calc"]);
    }
}

#[test]
fn check_after_the_run_says_that_the_lock_is_not_held() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let script = "(until [ -e released ]; do sleep 0.01; done; lockrun check; echo $? >code) >/dev/null 2>&1 &";
        place.lockrun(&sandbox, &["-l", "calc", "-c", script]).run().assert_code(0);
        let _next = place.hold(&sandbox, &CALC);
        sandbox.write("work/released", "");
        let code = || std::fs::read_to_string(sandbox.path("work/code")).unwrap_or_default();
        eventually("it has checked", || code().ends_with('\n'));
        assert_eq!(code(), "123\n");
    }
}
