//! `--name NAME`, `-c STRING`, and the command line as the name.

use crate::support::{Sandbox, is_held};

#[test]
fn command_runs_while_the_named_lock_is_held() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["--name", "calc"]);
    assert!(is_held(&sandbox.lock_file("calc")));
    holder.release().assert_code(0).assert_silent();
    assert!(!is_held(&sandbox.lock_file("calc")));
}

#[test]
fn one_lock_is_one_file_that_stays() {
    let sandbox = Sandbox::new();
    for _ in 0..3 {
        let outcome = sandbox.lockrun(&["-l", "calc", "--", "echo", "hi"]).run();
        outcome.assert_code(0).assert_stdout("hi\n").assert_silent();
    }
    assert_eq!(sandbox.files_in_locks(), ["calc.lock"]);
}

#[test]
fn the_same_name_excludes_and_another_does_not() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let attempt = |name| sandbox.lockrun(&["-n", "--name", name, "--", "true"]).run();
    attempt("calc").assert_code(75);
    attempt("other").assert_code(0);
    attempt("Calc").assert_code(0);
}

#[test]
fn a_string_is_run_by_the_shell() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["-l", "calc", "-c", "echo a && echo $((1 + 1)); exit 3"]).run();
    outcome.assert_code(3).assert_stdout("a\n2\n").assert_silent();
}

#[test]
fn without_a_name_the_same_command_line_never_runs_twice() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold::<&str>(&[]);
    let elsewhere = sandbox.make_dir("elsewhere", 0o755);
    let same = || sandbox.lockrun(&["-n", "--", "sh", "-c", "echo holding; exec cat"]);
    same().run().assert_code(75);
    same().current_dir(&elsewhere).run().assert_code(75);
    let other = sandbox.lockrun(&["-n", "--", "sh", "-c", "echo holding; exec cat", "x"]);
    other.run().assert_code(0);
}

#[test]
fn without_a_name_the_same_shell_string_never_runs_twice() {
    let sandbox = Sandbox::new();
    let string = "echo holding; exec cat";
    let _running = sandbox.lockrun(&["-c", string]).input("").start().until_says("holding");
    sandbox.lockrun(&["-n", "-c", string]).run().assert_code(75);
    sandbox.lockrun(&["-n", "-c", "true"]).run().assert_code(0);
}

#[test]
fn a_command_line_as_a_name_is_quoted_for_the_shell() {
    let sandbox = Sandbox::new();
    let script = r#"eval "set -- $LOCKRUN_NAME"; shift 3; printf '[%s]' "$@""#;
    let outcome = sandbox.lockrun(&["--", "sh", "-c", script, "a b", "it's", "$HOME", "*", "", "c"]).run();
    outcome.assert_code(0).assert_stdout("[a b][it's][$HOME][*][][c]");
}
