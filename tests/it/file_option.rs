//! `--file PATH`: the very lock that flock(1) takes on it.

use crate::support::{Sandbox, is_held, may_act_as_root};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

/// A file and a directory, both relative to the directory commands run in.
fn with_both(test: impl Fn(&Sandbox, &str)) {
    let sandbox = Sandbox::new();
    sandbox.write("work/file", "precious\n");
    sandbox.make_dir("work/directory", 0o755);
    test(&sandbox, "file");
    test(&sandbox, "directory");
    let text = fs::read_to_string(sandbox.path("work/file")).unwrap();
    assert_eq!(text, "precious\n");
}

#[test]
fn it_excludes_flock() {
    with_both(|sandbox, path| {
        let holder = sandbox.hold(&["--file", path]);
        let flock = || sandbox.command("flock", &["-n", path, "true"]).run();
        flock().assert_code(1);
        holder.release().assert_code(0).assert_silent();
        flock().assert_code(0);
    });
}

#[test]
fn flock_excludes_it() {
    with_both(|sandbox, path| {
        let holder = sandbox.hold_by_flock(&[], &sandbox.path("work").join(path));
        let attempt = || sandbox.lockrun(&["-n", "--file", path, "--", "true"]).run();
        attempt().assert_code(75).assert_one_line(&[path]);
        holder.release().assert_code(0);
        attempt().assert_code(0).assert_silent();
    });
}

#[test]
fn it_waits_for_flock_and_flock_for_it() {
    with_both(|sandbox, path| {
        let holder = sandbox.hold_by_flock(&[], &sandbox.path("work").join(path));
        let waiter = sandbox.lockrun(&["--file", path, "--", "true"]).start().until_waiting();
        holder.release();
        waiter.wait().assert_code(0).assert_silent();

        let holder = sandbox.hold(&["--file", path]);
        let flock = sandbox.command("flock", &[path, "true"]);
        let waiter = flock.start().until_waiting();
        holder.release();
        waiter.wait().assert_code(0);
    });
}

#[test]
fn shared_agrees_only_with_flock_shared() {
    with_both(|sandbox, path| {
        let _reader = sandbox.hold_by_flock(&["--shared"], &sandbox.path("work").join(path));
        let attempt = |args: &[&str]| {
            let args = [args, &["-n", "--file", path, "--", "true"]].concat();
            sandbox.lockrun(&args).run()
        };
        attempt(&["--shared"]).assert_code(0);
        attempt(&[]).assert_code(75);
    });
}

#[test]
fn two_spellings_of_a_file_are_one_lock() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    fs::hard_link(&file, sandbox.path("work/hard")).unwrap();
    symlink("file", sandbox.path("work/soft")).unwrap();
    let holder = sandbox.hold(&["--file", "file"]);
    for spelling in ["../work/./file", file.to_str().unwrap(), "soft", "hard"] {
        let outcome = sandbox.lockrun(&["-n", "--file", spelling, "--", "true"]).run();
        outcome.assert_code(75);
    }
    let waiter = sandbox.lockrun(&["--file", "soft", "--", "true"]).start().until_waiting();
    holder.release();
    waiter.wait().assert_code(0);
}

#[test]
fn a_missing_file_is_created_as_flock_does() {
    let sandbox = Sandbox::new();
    for umask in [0o000, 0o022, 0o077] {
        let mode_after = |program: &str, args: &[&str]| {
            let run = sandbox.command(program, args).umask(umask).run();
            run.assert_code(0).assert_silent();
            let made = sandbox.path("work/made");
            let mode = fs::metadata(&made).unwrap().mode() & 0o7777;
            fs::remove_file(&made).unwrap();
            mode
        };
        let theirs = mode_after("flock", &["made", "true"]);
        let lockrun = sandbox.path("bin/lockrun");
        let ours = mode_after(lockrun.to_str().unwrap(), &["--file", "made", "--", "true"]);
        assert_eq!(ours, theirs, "under umask {umask:03o}");
    }
}

#[test]
fn its_queue_is_kept_in_the_locks_directory() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "precious\n");
    let before = fs::metadata(&file).unwrap();
    sandbox.lockrun(&["--file", "file", "--", "true"]).run().assert_code(0);
    let after = fs::metadata(&file).unwrap();
    let stamp = |of: &fs::Metadata| (of.ino(), of.mode(), of.size(), of.mtime_nsec());
    assert_eq!(stamp(&after), stamp(&before));
    let names = sandbox.files_in_locks();
    assert!(names.iter().all(|name| name.starts_with("%-")), "a lock's NAME could be the same: {names:?}");
    let beside = fs::read_dir(sandbox.path("work")).unwrap().count();
    assert_eq!(beside, 1, "something was made beside the file");
}

#[test]
fn a_read_only_file_can_be_locked() {
    if !may_act_as_root("acting as another user") {
        return;
    }
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    let locks = sandbox.make_dir("theirs", 0o777);
    let running = sandbox
        .lockrun(&["--file", "file", "-c", "echo holding; exec cat"])
        .env("LOCKRUN_DIR", &locks)
        .by_user(54321, 54321)
        .input("")
        .start()
        .until_says("holding");
    assert!(is_held(&file));
    running.wait().assert_code(0).assert_silent();
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("work/file", "");
    for path in ["no/such/directory", "file/below"] {
        let outcome = sandbox.lockrun(&["--file", path, "--", "touch", "ran"]).run();
        outcome.assert_code(125).assert_one_line(&[path]);
        assert!(!sandbox.path("work/ran").exists());
    }
}

#[test]
fn a_relative_path_is_recorded_and_shown_as_an_absolute_one() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    sandbox.make_dir("work/elsewhere", 0o755);
    let elsewhere = sandbox.path("work/elsewhere");
    let path = file.to_str().unwrap();
    let holder = sandbox.lockrun(&["--file", "./file", "-c", "echo $LOCKRUN_NAME; exec cat"]);
    let holder = holder.input("").start().until_says(&format!("{path}\n"));
    let listed = sandbox.lockrun(&["list", "--json"]).current_dir(&elsewhere).run();
    let listed: serde_json::Value = serde_json::from_str(&listed.assert_code(0).stdout).unwrap();
    assert_eq!([&listed[0]["name"], &listed[0]["path"]], [path, path], "{listed}");
    for asked in [&["--file", "../file"], &["--file", path]] {
        let attempt = sandbox.lockrun(&[&["-n"], &asked[..], &["--", "true"]].concat());
        let outcome = attempt.current_dir(&elsewhere).run();
        outcome.assert_code(75).assert_one_line(&["/file: busy", sandbox.path("work").to_str().unwrap()]);
    }
    let said = sandbox.lockrun(&["-n", "--file", "file", "--", "true"]).run();
    assert!(said.stderr.starts_with(&format!("lockrun: {path}: busy")), "{said:?}");
    holder.wait().assert_code(0);
    let token = sandbox.acquire(&["--file", "file", "--expires", "1h"]);
    let checked = sandbox.lockrun(&["check", "--json", &token]).run();
    assert!(checked.stdout.contains(&format!("\"name\":\"{path}\"")), "{checked:?}");
    sandbox.release(&token).assert_code(0);
    for record in sandbox.files_in_locks() {
        let text = fs::read_to_string(sandbox.locks().join(record)).unwrap();
        assert!(text.contains(&format!("\"name\":\"{path}\"")), "{text}");
    }
}

#[test]
fn a_relative_directory_is_listed_as_an_absolute_one() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-q", "--dir", "given", "-l", "calc", "--", "true"]).run().assert_code(0);
    let listed = sandbox.list(&["--dir", "given"]);
    assert_eq!(listed[0]["path"], sandbox.path("work/given/calc.lock").to_str().unwrap());
}
