//! What COMMAND gets: its lock's name and fencing token, and otherwise what lockrun
//! got.

use crate::support::Sandbox;

#[test]
fn command_finds_its_lock_in_the_environment() {
    let sandbox = Sandbox::new();
    let script = r#"echo "$LOCKRUN_NAME"; case $LOCKRUN_FENCE in *[!0-9]*|"") echo bad;; esac"#;
    let outcome = sandbox.lockrun(&["-l", "my calc", "-c", script]).run();
    outcome.assert_code(0).assert_stdout("my calc\n");
}

#[test]
fn command_gets_input_directory_and_environment_unchanged() {
    let sandbox = Sandbox::new();
    let outcome = sandbox
        .lockrun(&["-l", "calc", "-c", "cat; pwd; echo $COLOUR; echo err >&2"])
        .env("COLOUR", "blue")
        .input("from stdin\n")
        .run();
    let work = sandbox.path("work");
    outcome.assert_code(0).assert_stdout(&format!("from stdin\n{}\nblue\n", work.display()));
    assert_eq!(outcome.stderr, "err\n");
}

#[test]
fn command_gets_arguments_that_look_like_options() {
    let sandbox = Sandbox::new();
    let args = ["-l", "calc", "--", "printf", "%s.", "-n", "--", "--exec", ""];
    let outcome = sandbox.lockrun(&args).run();
    outcome.assert_code(0).assert_stdout("-n.--.--exec..");
}

#[test]
fn a_command_line_that_is_too_long_for_a_variable_runs_without_that_variable() {
    let sandbox = Sandbox::new();
    let script = r#"echo "${LOCKRUN_NAME-no name} $#"; test "$LOCKRUN_FENCE""#;
    let words: Vec<String> = (0..30_000).map(|number| number.to_string()).collect();
    let command = ["sh", "-c", script, "sh"].into_iter().chain(words.iter().map(String::as_str));
    let args =
        |options: &[&'static str]| options.iter().copied().chain(["--"]).chain(command.clone()).collect::<Vec<_>>();
    for options in [&[] as &[&str], &["--exec"], &["--reentrant"]] {
        sandbox.lockrun(&args(options)).run().assert_code(0).assert_stdout("no name 30000\n").assert_silent();
    }
    // The same after a wait, where the environment is written in advance.
    let holder =
        [&["sh", "-c", "echo holding; exec cat", "sh"], &words.iter().map(String::as_str).collect::<Vec<_>>()[..]];
    for options in [&[] as &[&str], &["--exec"]] {
        let lock = sandbox.hold(&["-l", "calc"]);
        let waiting = sandbox.lockrun(&[&["-l", "calc", "-l", "other"], &args(options)[..]].concat());
        let waiting = waiting.start().until_waiting();
        lock.release();
        // A set is taken in the order of its files' inodes.
        let stdout = waiting.wait().assert_code(0).stdout.clone();
        assert!(["calc\nother 30000\n", "other\ncalc 30000\n"].contains(&&*stdout), "{stdout}");
    }
    let first = sandbox.lockrun(&[&["--"], &holder.concat()[..]].concat()).input("").start().until_says("holding");
    let second = sandbox.lockrun(&[&["--"], &holder.concat()[..]].concat()).start().until_waiting();
    first.wait().assert_code(0);
    second.wait().assert_code(0).assert_stdout("holding\n").assert_silent();
}
