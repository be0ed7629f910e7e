//! Tokens, `lockrun -- cmd` and flock(1) exclude each other, and share.

use crate::support::{Sandbox, is_held};
use std::path::Path;

/// Tries to get a lock without waiting, by each of the ways; the exit codes.
fn attempts(sandbox: &Sandbox, file: &Path, shared: bool) -> [Option<i32>; 3] {
    let path = file.to_str().unwrap();
    let (ours, theirs) = if shared { (&["-s"] as &[&str], "-s") } else { (&[] as &[&str], "-x") };
    let token = sandbox.lockrun(&[&["acquire", "-n", "--file", path], ours].concat()).run();
    if token.code == Some(0) {
        sandbox.release(token.stdout.trim()).assert_code(0);
    }
    let run = sandbox.lockrun(&[ours, &["-n", "--file", path, "--", "true"]].concat()).run();
    let flock = sandbox.command("flock", &[theirs, "-n", path, "true"]).run();
    [token.code, run.code, flock.code]
}

const BUSY: [Option<i32>; 3] = [Some(75), Some(75), Some(1)];
const FREE: [Option<i32>; 3] = [Some(0); 3];

#[test]
fn each_kind_of_holder_excludes_the_others() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    let token = sandbox.acquire(&["--file", "file"]);
    assert_eq!([true, false].map(|shared| attempts(&sandbox, &file, shared)), [BUSY, BUSY]);
    sandbox.release(&token).assert_code(0);
    assert_eq!(attempts(&sandbox, &file, false), FREE);
    let run = sandbox.hold(&["--file", "file"]);
    assert_eq!(attempts(&sandbox, &file, false), BUSY);
    run.release();
    let flock = sandbox.hold_by_flock(&[], &file);
    assert_eq!(attempts(&sandbox, &file, false), BUSY);
    flock.release();
    assert_eq!(attempts(&sandbox, &file, false), FREE);
}

#[test]
fn shared_tokens_share_with_every_kind_of_reader() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    let [one, other] = [(); 2].map(|()| sandbox.acquire(&["-s", "--file", "file"]));
    assert_eq!([true, false].map(|shared| attempts(&sandbox, &file, shared)), [FREE, BUSY]);
    sandbox.release(&one).assert_code(0);
    assert_eq!([true, false].map(|shared| attempts(&sandbox, &file, shared)), [FREE, BUSY]);
    sandbox.release(&other).assert_code(0);
    assert_eq!(attempts(&sandbox, &file, false), FREE);
}

#[test]
fn a_token_waits_for_flock_and_flock_for_a_token() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    let flock = sandbox.hold_by_flock(&[], &file);
    let waiter = sandbox.lockrun(&["acquire", "--file", "file"]).start().until_waiting();
    flock.release();
    let token = waiter.wait().assert_code(0).stdout.trim().to_owned();
    let flock = sandbox.command("flock", &["file", "true"]).start().until_waiting();
    sandbox.release(&token).assert_code(0);
    flock.wait().assert_code(0);
}

#[test]
fn several_locks_are_held_by_one_token() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "a", "-l", "b"]);
    for name in ["a", "b"] {
        assert!(is_held(&sandbox.lock_file(name)));
        sandbox.lockrun(&["-n", "-l", name, "--", "true"]).run().assert_code(75);
    }
    sandbox.release(&token).assert_code(0);
    ["a", "b"].iter().for_each(|name| sandbox.assert_free(name));
}
