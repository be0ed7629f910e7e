//! Lock files are as open as their directory, whatever the umask.

use crate::support::Sandbox;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn group_and_others_may_use_a_lock_if_and_only_if_they_may_make_one() {
    for (directory, file) in [
        (0o700, 0o600),
        (0o750, 0o600),
        (0o755, 0o600),
        (0o770, 0o660),
        (0o2770, 0o660),
        (0o2775, 0o660),
        (0o777, 0o666),
        (0o1777, 0o666),
    ] {
        for umask in [0o000, 0o022, 0o077, 0o777] {
            let sandbox = Sandbox::new();
            let locks = sandbox.make_dir("locks", directory);
            let attempt = sandbox.lockrun(&["-l", "calc", "--", "true"]).umask(umask);
            attempt.run().assert_code(0).assert_silent();
            let made = mode(&sandbox.lock_file("calc"));
            assert_eq!(made, file, "in {directory:o} under umask {umask:03o}");
            assert_eq!(mode(&locks), directory, "the directory is used as it is");
        }
    }
}

#[test]
fn the_queue_file_of_a_path_is_as_open_as_the_directory() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    sandbox.write("work/file", "");
    let attempt = sandbox.lockrun(&["--file", "file", "--", "true"]);
    attempt.umask(0o077).run().assert_code(0).assert_silent();
    for name in sandbox.files_in_locks() {
        assert_eq!(mode(&sandbox.locks().join(&name)), 0o666, "{name}");
    }
}

#[test]
fn the_command_keeps_the_callers_umask() {
    let sandbox = Sandbox::new();
    let attempt = sandbox.lockrun(&["-l", "calc", "-c", "umask"]).umask(0o027);
    attempt.run().assert_stdout("0027\n");
}
