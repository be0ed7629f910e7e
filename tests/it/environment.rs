//! What COMMAND is given: its lock's name and number, and else what we got.

use crate::support::Sandbox;

#[test]
fn command_finds_its_lock_in_the_environment() {
    let sandbox = Sandbox::new();
    let script = r#"echo "$LOCKRUN_NAME"; case $LOCKRUN_FENCE in *[!0-9]*|"") echo bad;; esac"#;
    let outcome = sandbox.lockrun(&["-l", "my calc", "-c", script]).run();
    outcome.assert_code(0).assert_stdout("my calc\n");
}

#[test]
fn command_gets_input_directory_and_environment_as_they_are() {
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
