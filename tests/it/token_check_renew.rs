//! `check --json` and `renew`.

use crate::support::{Outcome, Sandbox, eventually, holder_of, is_alive};
use serde_json::Value;
use std::fs;

fn details(sandbox: &Sandbox, token: &str) -> Value {
    let outcome = sandbox.lockrun(&["check", token, "--json"]).run();
    outcome.assert_code(0).assert_silent();
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn remaining(sandbox: &Sandbox, token: &str) -> Option<f64> {
    details(sandbox, token)["remaining"].as_f64()
}

fn renew(sandbox: &Sandbox, token: &str, options: &[&str]) -> Outcome {
    let outcome = sandbox.lockrun(&[&["renew", token], options].concat()).run();
    outcome.assert_stdout("").clone()
}

#[test]
fn check_prints_name_slot_fence_expires_and_remaining() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "a b", "--expires", "60"]);
    let details = details(&sandbox, &token);
    assert_eq!(details["name"], "a b");
    assert_eq!(details["slot"], Value::Null);
    let record: Value = serde_json::from_str(&fs::read_to_string(sandbox.locks().join("a%20b.lock")).unwrap()).unwrap();
    assert_eq!(details["fence"], record["fence"]);
    let left = details["remaining"].as_f64().unwrap();
    assert!(left > 0.0 && left <= 60.0, "{details}");
    let expires = humantime::parse_rfc3339(details["expires"].as_str().unwrap()).unwrap();
    let left = expires.duration_since(std::time::SystemTime::now()).unwrap().as_secs_f64();
    assert!(left > 0.0 && left <= 60.1, "{details}");
}

#[test]
fn the_fence_rises_with_every_token() {
    let sandbox = Sandbox::new();
    let fence = || {
        let token = sandbox.acquire(&["-l", "calc"]);
        let fence = details(&sandbox, &token)["fence"].as_u64().unwrap();
        sandbox.release(&token).assert_code(0);
        fence
    };
    let fences: Vec<_> = (0..5).map(|_| fence()).collect();
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

#[test]
fn a_token_without_expiry_has_neither_time() {
    let sandbox = Sandbox::new();
    let forever = sandbox.acquire(&["-l", "a", "--expires", "forever"]);
    let owned = sandbox.acquire(&["-l", "b", "--owner", &std::process::id().to_string()]);
    for token in [forever, owned] {
        let details = details(&sandbox, &token);
        assert_eq!((&details["expires"], &details["remaining"]), (&Value::Null, &Value::Null));
        sandbox.release(&token).assert_code(0);
    }
}

#[test]
fn a_lost_lock_has_no_details() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    sandbox.release(&token).assert_code(0);
    sandbox.lockrun(&["check", &token, "--json"]).run().assert_code(123).assert_stdout("");
    renew(&sandbox, &token, &[]).assert_code(123).assert_one_line(&["calc", "released at 2"]);
}

#[test]
fn renew_without_a_time_extends_by_the_original_time() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "60"]);
    renew(&sandbox, &token, &["--expires", "5"]).assert_code(0).assert_silent();
    renew(&sandbox, &token, &[]).assert_code(0).assert_silent();
    let after = remaining(&sandbox, &token);
    assert!(after > Some(5.0) && after <= Some(60.0), "{after:?}");
    renew(&sandbox, &token, &["--expires", "2h"]).assert_code(0);
    renew(&sandbox, &token, &[]).assert_code(0).assert_silent();
    assert!(remaining(&sandbox, &token) <= Some(60.0));
}

#[test]
fn renew_takes_a_time_from_now_or_none() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "60"]);
    renew(&sandbox, &token, &["--expires", "2h"]).assert_code(0);
    let left = remaining(&sandbox, &token).unwrap();
    assert!(left > 7100.0 && left <= 7200.0, "{left}");
    renew(&sandbox, &token, &["--expires", "forever"]).assert_code(0);
    assert_eq!(remaining(&sandbox, &token), None);
    renew(&sandbox, &token, &["--expires", "5"]).assert_code(0);
    assert!(remaining(&sandbox, &token) <= Some(5.0));
    for wrong in ["0", "-1s", "soon", ""] {
        renew(&sandbox, &token, &["--expires", wrong]).assert_code(125);
    }
    sandbox.release(&token).assert_code(0);
}

#[test]
fn a_renewed_lock_expires_at_its_new_time() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    let holder = holder_of(&sandbox.lock_file("calc"));
    renew(&sandbox, &token, &["--expires", "50ms"]).assert_code(0);
    eventually("it expires", || !is_alive(holder));
    sandbox.check(&token).assert_code(123).assert_one_line(&["expired at 2"]);
}

#[test]
fn times_beyond_all_calendars_are_accepted() {
    let sandbox = Sandbox::new();
    for time in ["300000000000", "99999999999999999", "584000000000y"] {
        let token = sandbox.acquire(&["-l", "calc", "--expires", time]);
        let remaining = remaining(&sandbox, &token);
        assert!(remaining.is_none_or(|left| left > 1e11), "{time}: {remaining:?}");
        sandbox.release(&token).assert_code(0);
    }
}

#[test]
fn inside_a_run_a_check_without_a_token_is_about_the_lock_around_it() {
    let sandbox = Sandbox::new();
    let run = |words: &[&str], script: &str| sandbox.lockrun(&[words, &["--", "sh", "-c", script]].concat()).run();
    for options in [&["-l", "calc"] as &[&str], &["-l", "calc", "-s"], &["--file", "."], &["-l", "p", "--slots", "2"]] {
        run(options, "lockrun check").assert_code(0).assert_silent().assert_stdout("");
        // Also where the descriptor was closed on the way.
        run(options, "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; lockrun check").assert_code(0).assert_silent();
    }
    let outcome = run(&["-l", "calc", "--expires", "1h"], "lockrun check --json; echo $LOCKRUN_FENCE");
    let (json, fence) = outcome.stdout.split_once('\n').unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!((&json["name"], json["fence"].to_string()), (&"calc".into(), fence.trim().to_owned()));
    assert!((3000.0..=3600.0).contains(&json["remaining"].as_f64().unwrap()), "{json}");
    sandbox.lockrun(&["check"]).run().assert_code(125);
}

#[test]
fn what_outlives_its_run_has_lost_the_lock() {
    let sandbox = Sandbox::new();
    let script = "(until [ -e released ]; do sleep 0.01; done; lockrun check; echo $? >code) >/dev/null 2>&1 &";
    sandbox.lockrun(&["-l", "calc", "--", "sh", "-c", script]).run().assert_code(0);
    let _next = sandbox.hold(&["-l", "calc"]);
    sandbox.write("work/released", "");
    let code = || std::fs::read_to_string(sandbox.path("work/code")).unwrap_or_default();
    crate::support::eventually("it has checked", || code().ends_with('\n'));
    assert_eq!(code(), "123\n");
    let remove = format!("rm {}; lockrun check", sandbox.lock_file("other").display());
    let outcome = sandbox.lockrun(&["-l", "other", "--", "sh", "-c", &remove]).run();
    outcome.assert_code(123);
    assert!(outcome.stderr.contains("removed or replaced"), "{outcome:?}");
}
