//! Something else stands where the lock file belongs: 125, and it is left alone.

use crate::support::{Sandbox, may_act_as_root};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

/// A sandbox with an empty locks directory.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    sandbox
}

#[track_caller]
fn assert_refused(sandbox: &Sandbox) {
    let file = sandbox.lock_file("calc");
    let state = |path: &Path| {
        let it = fs::symlink_metadata(path).unwrap();
        (it.ino(), it.mode(), it.size(), it.mtime(), it.mtime_nsec(), it.nlink())
    };
    let before = state(&file);
    for form in [&[] as &[&str], &["-n"], &["--shared"], &["--exec"]] {
        let args = [form, &["-l", "calc", "--", "touch", "ran"]].concat();
        let outcome = sandbox.lockrun(&args).run();
        outcome.assert_code(125).assert_one_line(&["calc.lock"]);
    }
    assert_eq!(state(&file), before);
    assert_eq!(sandbox.files_in_locks(), ["calc.lock"]);
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn a_symlink_is_not_followed() {
    let sandbox = sandbox();
    let target = sandbox.write("work/target", "precious\n");
    symlink(&target, sandbox.lock_file("calc")).unwrap();
    assert_refused(&sandbox);
    assert_eq!(fs::read_to_string(target).unwrap(), "precious\n");
}

#[test]
fn a_dangling_symlink_creates_nothing() {
    let sandbox = sandbox();
    let target = sandbox.path("work/target");
    symlink(&target, sandbox.lock_file("calc")).unwrap();
    assert_refused(&sandbox);
    assert!(!target.exists());
}

#[test]
fn a_fifo_blocks_nobody() {
    let sandbox = sandbox();
    sandbox.command("mkfifo", &[sandbox.lock_file("calc")]).run().assert_code(0);
    assert_refused(&sandbox);
}

#[test]
fn a_socket_is_refused() {
    let sandbox = sandbox();
    let _listener = std::os::unix::net::UnixListener::bind(sandbox.lock_file("calc")).unwrap();
    assert_refused(&sandbox);
}

#[test]
fn a_directory_is_refused() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.lock_file("calc")).unwrap();
    assert_refused(&sandbox);
}

#[test]
fn a_device_is_not_opened() {
    if !may_act_as_root("mknod") {
        return;
    }
    let sandbox = sandbox();
    let file = sandbox.lock_file("calc");
    let null = [file.to_str().unwrap(), "c", "1", "3"];
    sandbox.command("mknod", &null).run().assert_code(0);
    assert_refused(&sandbox);
}

#[test]
fn a_hard_link_is_refused() {
    let sandbox = sandbox();
    let target = sandbox.write("work/target", "");
    fs::hard_link(&target, sandbox.lock_file("calc")).unwrap();
    assert_refused(&sandbox);
}

#[test]
fn a_file_with_foreign_text_is_not_touched() {
    let lock_files = ["version = 4\n\n[[package]]\n", "{\"lockfileVersion\": 3}\n", "4242\n", "\n", "x"];
    for text in lock_files {
        let sandbox = sandbox();
        let file = sandbox.write("locks/calc.lock", text);
        assert_refused(&sandbox);
        assert_eq!(fs::read_to_string(file).unwrap(), text);
    }
}

#[test]
fn an_empty_or_torn_file_is_a_lock_file_like_any_other() {
    let sandbox = sandbox();
    // The second is what a power cut can leave of a text: its length.
    // The third is one that was torn while it was written.
    for text in ["", &"\0".repeat(1024), "{\"lockrun\":1,\"fence\":42,\"pi"] {
        sandbox.write("locks/calc.lock", text);
        let attempt = sandbox.lockrun(&["-l", "calc", "--", "true"]);
        attempt.run().assert_code(0).assert_silent();
    }
}
