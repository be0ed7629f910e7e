//! `lockrun path`: a lock file that a script opens itself.

use crate::support::{Sandbox, is_held};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

#[test]
fn it_creates_the_file_of_a_name_and_prints_its_path() {
    let sandbox = Sandbox::new();
    for words in [&["path", "calc"][..], &["path", "--name", "calc"], &["path", "-l", "calc"]] {
        let expected = format!("{}\n", sandbox.lock_file("calc").display());
        sandbox.lockrun(words).run().assert_code(0).assert_silent().assert_stdout(&expected);
    }
    let file = fs::metadata(sandbox.lock_file("calc")).unwrap();
    assert_eq!((file.len(), file.mode() & 0o777), (0, 0o600));
}

#[test]
fn the_path_is_absolute_and_follows_dir_and_the_name() {
    let sandbox = Sandbox::new();
    let printed = |words: &[&str]| sandbox.lockrun(words).run().assert_code(0).stdout.clone();
    let work = sandbox.path("work");
    assert_eq!(printed(&["path", "-d", "here", "a/b c"]), format!("{}/here/a%2Fb%20c.lock\n", work.display()));
    assert_eq!(printed(&["path", "--dir", ".", "-l", "-x"]), format!("{}/%2Dx.lock\n", work.display()));
    assert!(work.join("here/a%2Fb%20c.lock").exists());
}

#[test]
fn its_mode_is_that_of_the_directory_whatever_the_umask() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o2770);
    sandbox.lockrun(&["path", "calc"]).umask(0o077).run().assert_code(0);
    assert_eq!(fs::metadata(sandbox.lock_file("calc")).unwrap().mode() & 0o777, 0o660);
}

#[test]
fn the_content_of_the_file_stays() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let record = fs::read_to_string(sandbox.lock_file("calc")).unwrap();
    sandbox.sh("exec 9<>\"$(lockrun path calc)\"").run().assert_code(0).assert_silent();
    assert_eq!(fs::read_to_string(sandbox.lock_file("calc")).unwrap(), record);
}

#[test]
fn its_lock_is_the_one_of_the_name() {
    let sandbox = Sandbox::new();
    let script = "exec 9<>\"$(lockrun path calc)\" || exit; flock -n 9 || exit 1; echo holding; exec cat";
    let holder = sandbox.sh(script).input("").start().until_says("holding");
    assert!(is_held(&sandbox.lock_file("calc")));
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    holder.wait().assert_code(0);
}

#[test]
fn it_takes_exactly_one_name() {
    let sandbox = Sandbox::new();
    for words in [&["path"][..], &["path", "a", "b"], &["path", "a", "-l", "b"]] {
        sandbox.lockrun(words).run().assert_usage_error(&["which lock?"]).assert_stdout("");
    }
    sandbox.lockrun(&["path", ""]).run().assert_code(125).assert_stdout("").assert_one_line(&["empty"]);
    assert!(sandbox.files_in_locks().is_empty());
}

/// A script that continues with an empty path must not open anything.
#[test]
fn anything_but_a_lock_file_is_left_alone_and_no_path_is_printed() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    let victim = sandbox.write("work/victim", "precious\n");
    symlink(&victim, sandbox.lock_file("link")).unwrap();
    fs::create_dir(sandbox.lock_file("directory")).unwrap();
    fs::write(sandbox.lock_file("foreign"), "1234\n").unwrap();
    for name in ["link", "directory", "foreign"] {
        let outcome = sandbox.lockrun(&["path", name]).run();
        outcome.assert_code(125).assert_stdout("").assert_one_line(&[&format!("{name}.lock")]);
    }
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious\n");
    let script = "exec 9<>\"$(lockrun path foreign)\" || exit; echo locked nothing";
    for shell in ["bash", "zsh"] {
        let outcome = sandbox.command(shell, &["-c", script]).run();
        assert!(outcome.code != Some(0) && outcome.stdout.is_empty(), "{outcome:?}");
    }
}
