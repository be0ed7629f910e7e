//! Bad input of every kind: 125, what is wrong, nothing created, COMMAND not run.
//! What is proposed instead is in [`crate::suggestions`].

use crate::support::{Outcome, Sandbox};

/// Runs lockrun with arguments it must refuse. COMMAND, where there is one, is
/// `touch ran`.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) -> Outcome {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(args).run();
    outcome.assert_code(125).assert_stdout("").assert_stderr_has(words);
    match outcome.stderr.lines().count() {
        1 => outcome.assert_one_line(&[]),
        _ => outcome.assert_usage_error(&[]),
    };
    let created = !sandbox.files_in_locks().is_empty() || sandbox.path("work/ran").exists();
    assert!(!created, "something was created by {outcome:?}");
    outcome
}

/// The same with `-l calc -- touch ran` behind the bad options.
#[track_caller]
fn refused_options(options: &[&str], words: &[&str]) {
    refused(&[options, &["-l", "calc", "--", "touch", "ran"]].concat(), words);
}

#[test]
fn nothing_to_run() {
    refused(&[], &["COMMAND"]);
    refused(&["-l", "calc"], &["COMMAND"]);
    refused(&["-l", "calc", "--"], &["COMMAND"]);
}

#[test]
fn a_command_without_dashes_before_it() {
    refused(&["-l", "calc", "touch", "ran"], &["-- touch"]);
    refused(&["touch", "ran"], &["-- touch"]);
    refused(&["-l", "calc", "touch", "--", "ran"], &["--", "touch"]);
}

#[test]
fn extra_words_after_or_before_a_subcommand() {
    for words in [&["prune", "x"] as &[&str], &["check", "a", "b"], &["renew", "a", "b"]] {
        refused(words, &["one word too many", words[0]]);
    }
    refused(&["-q", "list"], &["try: lockrun list\n"]);
}

#[test]
fn unknown_options() {
    refused_options(&["--frobnicate"], &["--frobnicate"]);
    refused_options(
        &["--timeuot", "3"],
        &["unknown option '--timeuot'\n", "try: lockrun --timeout 3 -l calc -- touch"],
    );
    refused_options(&["-Z"], &["-Z"]);
}

#[test]
fn options_without_their_value() {
    refused(&["-l"], &["name"]);
    refused(&["-l", "calc", "-t"], &["timeout"]);
    refused(&["-l", "calc", "-c"], &["-c"]);
}

#[test]
fn an_empty_name_directory_or_file() {
    refused(&["-l", "", "--", "touch", "ran"], &["name", "empty"]);
    refused(&["--file", "", "--", "touch", "ran"], &["file"]);
    refused_options(&["--dir", ""], &["dir"]);
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["-l", "calc", "--", "touch", "ran"]).env("LOCKRUN_DIR", "").run();
    outcome.assert_code(125).assert_one_line(&["LOCKRUN_DIR"]);
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn invalid_durations() {
    for duration in [
        "abc",
        "1e400",
        "-5",
        "-0.5",
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "infinity",
        "10x",
        "1,5",
        "1.2.3",
        ".",
        "-",
        "--",
        "5 5",
        "0x10",
        "١",
        "-1s",
        "99999999999999999999999",
    ] {
        refused_options(&["--timeout", duration], &["timeout"]);
        refused_options(&[&format!("-t{duration}x")], &["timeout"]);
        let sandbox = Sandbox::new();
        let attempt = sandbox.lockrun(&["-l", "calc", "--", "touch", "ran"]);
        let outcome = attempt.env("LOCKRUN_TIMEOUT", duration).run();
        outcome.assert_code(125).assert_one_line(&["LOCKRUN_TIMEOUT"]);
        assert!(sandbox.files_in_locks().is_empty());
    }
}

#[test]
fn invalid_expiry_and_kill_after() {
    for option in ["--expires", "--kill-after"] {
        for duration in ["abc", "-5", "", "1e400"] {
            refused_options(&[option, duration], &[option]);
        }
    }
    refused_options(&["--hold", "maybe"], &["--hold", "command", "tree"]);
}

#[test]
fn invalid_exit_codes() {
    for code in ["256", "-1", "abc", "", "1.5", "99999999999999999999"] {
        refused_options(&["-E", code], &["conflict-exit-code"]);
    }
}

#[test]
fn exec_with_options_that_watch_the_command() {
    for options in [&["--expires", "5"] as &[&str], &["--kill-after", "5"], &["--hold", "tree"], &["--hold", "command"]]
    {
        refused_options(&[&["--exec"], options].concat(), &["--exec", options[0]]);
    }
}

#[test]
fn a_shell_string_and_a_command() {
    refused(&["-l", "calc", "-c", "touch ran", "--", "touch", "ran"], &["-c"]);
    refused(&["-l", "calc", "-c", "touch ran", "ran"], &["ran"]);
}

#[test]
fn slots_with_conflicting_options() {
    refused_options(&["--slot", "1"], &["--slot"]);
    refused_options(&["--slots", "2", "--shared"], &["--slots"]);
    refused(&["--slots", "2", "--file", "file", "--", "touch", "ran"], &["--slots"]);
    refused_options(&["--slots", "0"], &["--slots"]);
}

#[test]
fn replace_with_conflicting_options() {
    for options in [&["--timeout", "0"] as &[&str], &["-n"], &["--shared"], &["--slots", "2"]] {
        refused_options(&[&["--replace"], options].concat(), &["--replace"]);
    }
}

#[test]
fn quiet_does_not_hide_the_error() {
    refused_options(&["-q", "-t", "abc"], &["abc"]);
    refused_options(&["-n", "-q", "-E", "999"], &["999"]);
}

#[test]
fn control_characters_are_escaped_in_the_error() {
    let timeout = "a\u{1b}[31m\nb\u{7}";
    refused(&["-t", timeout, "-l", "calc", "--", "touch", "ran"], &["timeout"]).assert_printable();
}
