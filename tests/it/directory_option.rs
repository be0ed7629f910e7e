//! `--dir DIR` and `LOCKRUN_DIR`: where the names live.

use crate::support::{Sandbox, am_root, may_act_as_root};
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn the_option_beats_the_environment() {
    let sandbox = Sandbox::new();
    for option in ["-d", "--dir"] {
        sandbox.lockrun(&[option, "given", "-l", "calc", "--", "true"]).run().assert_code(0).assert_silent();
    }
    assert!(sandbox.path("work/given/calc.lock").is_file());
    assert!(!sandbox.locks().exists());
}

#[test]
fn the_same_name_in_another_directory_is_another_lock() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let attempt = |dir: &str| sandbox.lockrun(&["-n", "--dir", dir, "-l", "calc", "--", "true"]);
    attempt("other").run().assert_code(0);
    attempt("../locks").run().assert_code(75);
}

#[test]
fn a_missing_directory_is_made_for_its_user_alone() {
    for umask in [0o000, 0o022, 0o077, 0o277] {
        let sandbox = Sandbox::new();
        sandbox.lockrun(&["-l", "calc", "--", "true"]).umask(umask).run().assert_code(0);
        let mode = fs::metadata(sandbox.locks()).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o700, "under umask {umask:03o}");
    }
}

#[test]
fn users_who_give_the_same_directory_exclude_each_other() {
    if !may_act_as_root("acting as two users") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o777);
    let command = ["-l", "calc", "-c", "echo holding; exec cat"];
    let holder = sandbox.lockrun(&command).by_user(54321, 54321).input("");
    let holder = holder.start().until_says("holding");
    let attempt = |uid| {
        let args = ["-n", "-l", "calc", "--", "true"];
        sandbox.lockrun(&args).by_user(uid, uid).run()
    };
    attempt(54322).assert_code(75);
    attempt(0).assert_code(75);
    holder.wait().assert_code(0);
    attempt(54322).assert_code(0).assert_silent();
}

#[test]
fn a_lock_that_is_closed_to_us_is_named_even_to_cron() {
    if !may_act_as_root("acting as two users") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o755);
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let cron = ["-n", "-E", "0", "-q", "-l", "calc", "--", "echo", "ran"];
    let outcome = sandbox.lockrun(&cron).by_user(54321, 54321).run();
    outcome.assert_code(125).assert_stdout("").assert_one_line(&["calc.lock"]);
}

#[test]
fn what_cannot_be_the_directory_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("work/file", "");
    for dir in ["file", "file/below"] {
        let outcome = sandbox.lockrun(&["--dir", dir, "-l", "calc", "--", "touch", "ran"]).run();
        outcome.assert_code(125).assert_one_line(&[dir]);
        assert!(!sandbox.path("work/ran").exists());
    }
}

#[test]
fn a_directory_without_write_permission_is_named() {
    let sandbox = Sandbox::new();
    let locks = sandbox.make_dir("locks", 0o555);
    let attempt = sandbox.lockrun(&["-l", "calc", "--", "echo", "ran"]);
    // Permissions do not bind root.
    let attempt = match am_root() {
        true => attempt.by_user(54321, 54321),
        false => attempt,
    };
    let outcome = attempt.run();
    outcome.assert_code(125).assert_stdout("").assert_one_line(&[locks.to_str().unwrap()]);
    assert!(sandbox.files_in_locks().is_empty());
}
