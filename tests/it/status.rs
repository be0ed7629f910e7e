//! `lockrun status LOCK`: 0 if `--timeout 0` would get it now, 1 if not.

use crate::support::Sandbox;

#[track_caller]
fn assert_status(sandbox: &Sandbox, words: &[&str], code: i32) {
    let outcome = sandbox.lockrun(&[&["status"], words].concat()).run();
    outcome.assert_code(code).assert_silent().assert_stdout("");
}

#[test]
fn it_tells_free_from_held_in_every_mode() {
    let sandbox = Sandbox::new();
    assert_status(&sandbox, &["calc"], 0);
    let holder = sandbox.hold(&["-l", "calc"]);
    assert_status(&sandbox, &["calc"], 1);
    assert_status(&sandbox, &["other"], 0);
    holder.release();
    assert_status(&sandbox, &["calc"], 0);
    let reader = sandbox.hold(&["-l", "calc", "--shared"]);
    assert_status(&sandbox, &["calc"], 1);
    reader.release();
    let foreign = sandbox.hold_by_python(&sandbox.lock_file("python"));
    assert_status(&sandbox, &["python"], 1);
    foreign.release();
    assert_status(&sandbox, &["python"], 0);
}

#[test]
fn it_takes_a_path() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/data", "precious\n");
    assert_status(&sandbox, &["--file", "data"], 0);
    assert_status(&sandbox, &["--file", "missing"], 0);
    assert!(!sandbox.path("work/missing").exists());
    let _holder = sandbox.hold_by_flock(&[], &file);
    assert_status(&sandbox, &["--file", "data"], 1);
}

/// `--timeout 0` would not get it, because it does not pass waiters.
#[test]
fn a_lock_with_waiters_is_not_free() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-l", "calc", "--exec", "--", "true"]).start().until_waiting();
    waiter.signal(libc::SIGSTOP);
    holder.release();
    assert_status(&sandbox, &["calc"], 1);
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    waiter.signal(libc::SIGCONT);
    waiter.wait().assert_code(0);
    assert_status(&sandbox, &["calc"], 0);
}

#[test]
fn an_unknown_state_is_125() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    sandbox.write("locks/foreign.lock", "4242\n");
    std::os::unix::fs::symlink("/dev/null", sandbox.lock_file("link")).unwrap();
    for words in [&["foreign"] as &[&str], &["link"], &[""]] {
        let outcome = sandbox.lockrun(&[&["status"], words].concat()).run();
        outcome.assert_code(125).assert_one_line(&[]).assert_stdout("");
    }
    for words in [&[] as &[&str], &["a", "b"], &["a", "--file", "b"]] {
        let outcome = sandbox.lockrun(&[&["status"], words].concat()).run();
        outcome.assert_usage_error(&["which lock?"]).assert_stdout("");
    }
}
