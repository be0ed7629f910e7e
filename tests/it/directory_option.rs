//! `--dir DIR` and `LOCKRUN_DIR`: where the names live.

use crate::support::{Sandbox, am_root, may_act_as_root};
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn the_option_beats_the_environment() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("work/given", 0o700);
    for option in ["-d", "--dir"] {
        sandbox.lockrun(&[option, "given", "-l", "calc", "--", "true"]).run().assert_code(0).assert_silent();
    }
    assert!(sandbox.path("work/given/calc.lock").is_file());
    assert!(sandbox.files_in_locks().is_empty());
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
        sandbox.lockrun(&["--dir", "new/locks", "-l", "calc", "--", "true"]).umask(umask).run().assert_code(0);
        for made in ["work/new", "work/new/locks"] {
            let mode = fs::metadata(sandbox.path(made)).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o700, "{made} under umask {umask:03o}");
        }
    }
}

#[test]
fn a_new_directory_is_mentioned_once_and_not_with_quiet() {
    let sandbox = Sandbox::new();
    let absolute = |dir: &str| sandbox.path("work").join(dir).display().to_string();
    let run = |options: &[&str]| sandbox.lockrun(&[options, &["-l", "calc", "--", "true"]].concat());
    let told = |dir: &str| format!("lockrun: created the locks directory {}\n", absolute(dir));
    assert_eq!(run(&["--dir", "typo"]).run().assert_code(0).stderr, told("typo"));
    run(&["--dir", "typo"]).run().assert_code(0).assert_silent();
    run(&["--dir", "quiet", "-q"]).run().assert_code(0).assert_silent();
    assert_eq!(run(&[]).env("LOCKRUN_DIR", "environment").run().assert_code(0).stderr, told("environment"));
    let acquired = sandbox.lockrun(&["acquire", "--dir", "token", "-l", "calc", "--expires", "1h"]).run();
    assert_eq!(acquired.assert_code(0).stderr, told("token"));
    let path = sandbox.lockrun(&["path", "--dir", "path", "calc"]).run();
    path.assert_code(0).assert_stdout(&format!("{}/calc.lock\n", absolute("path")));
    assert_eq!(path.stderr, told("path"));
}

#[test]
fn looking_into_a_missing_directory_fails_and_makes_nothing() {
    let sandbox = Sandbox::new();
    let commands: [&[&str]; 7] = [
        &["list"],
        &["list", "--json", "calc"],
        &["status", "calc"],
        &["status", "--file", "file"],
        &["wait", "calc"],
        &["break", "calc"],
        &["prune"],
    ];
    for command in commands {
        let words = [command, &["--dir", "typo"]].concat();
        let said = ["the locks directory typo does not exist", "--dir"];
        sandbox.lockrun(&words).run().assert_code(125).assert_stdout("").assert_one_line(&said);
        let by_environment = sandbox.lockrun(command).env("LOCKRUN_DIR", "typo").run();
        by_environment.assert_code(125).assert_stdout("").assert_one_line(&["typo does not exist", "LOCKRUN_DIR"]);
    }
    assert_eq!(fs::read_dir(sandbox.path("work")).unwrap().count(), 0);
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
fn a_lock_without_permission_is_named_even_with_quiet() {
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
fn something_that_is_no_directory_is_named() {
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
