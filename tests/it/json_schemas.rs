//! What is printed for programs is as docs/schema says.

use crate::support::Sandbox;
use std::fs;

/// Fails where a schema is wrong, a text does not follow it, or a text has a member that
/// the schema does not name.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator as Validator
schema = json.load(open(sys.argv[1]))
def closed(part):
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    part = {key: closed(value) for key, value in part.items()}
    return {**part, "additionalProperties": False} if "properties" in part else part
Validator.check_schema(schema)
Validator(closed(schema)).validate(json.load(sys.stdin))
"#;

#[track_caller]
fn validate(sandbox: &Sandbox, schema: &str, text: &str) {
    let schema = format!("{}/docs/schema/{schema}.json", env!("CARGO_MANIFEST_DIR"));
    let outcome = sandbox.command("python3", &["-c", VALIDATE, &schema]).input(text).run();
    assert_eq!(outcome.code, Some(0), "{text}\n{}", outcome.stderr);
}

#[test]
fn a_list_of_every_kind_of_lock() {
    let sandbox = Sandbox::new();
    validate(&sandbox, "list", "[]");
    for (name, script) in [("good", "true"), ("bad", "exit 3"), ("killed", "kill -KILL $$")] {
        sandbox.lockrun(&["-l", name, "-c", script]).run();
    }
    let _exclusive = sandbox.hold(&["-l", "exclusive", "--expires", "1h"]);
    let _shared = sandbox.hold(&["-l", "shared", "-s"]);
    let _slot = sandbox.hold(&["-l", "slots", "--slots", "3"]);
    let _foreign = sandbox.hold_by_flock(&[], &sandbox.lock_file("foreign"));
    let _waiter = sandbox.lockrun(&["-l", "exclusive", "--", "true"]).start().until_waiting();
    sandbox.acquire(&["-l", "token", "--owner", &std::process::id().to_string()]);
    let list = sandbox.lockrun(&["list", "--json"]).run().assert_code(0).stdout.clone();
    assert_eq!(list.lines().count(), 10, "{list}");
    validate(&sandbox, "list", &list);
}

#[test]
fn a_check_of_a_token_in_a_pool_and_of_one_without_expiry() {
    let sandbox = Sandbox::new();
    let lasting: &[&str] = &["-l", "calc", "--expires", "forever"];
    for options in [&["-l", "gpu", "--slots", "2", "--expires", "1h"], lasting] {
        let token = sandbox.acquire(options);
        let outcome = sandbox.lockrun(&["check", "--json", &token]).run();
        validate(&sandbox, "check", &outcome.assert_code(0).stdout);
        sandbox.lockrun(&["release", &token]).run().assert_code(0);
    }
}

#[test]
fn a_report_of_a_run_and_of_one_that_did_not_get_the_lock() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--report", "report", "--", "true"]).run().assert_code(0);
    let _holder = sandbox.hold(&["-l", "calc"]);
    sandbox.lockrun(&["-n", "-l", "calc", "--report", "report", "--", "true"]).run().assert_code(75);
    for line in fs::read_to_string(sandbox.path("work/report")).unwrap().lines() {
        validate(&sandbox, "report", line);
    }
}
