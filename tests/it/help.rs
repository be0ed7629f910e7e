//! `--version`, `-h` and `--help`.

use crate::support::Sandbox;

fn shown(option: &str) -> String {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&[option]).run();
    outcome.assert_code(0).assert_silent();
    assert!(sandbox.files_in_locks().is_empty());
    outcome.stdout
}

#[test]
fn version_is_one_line() {
    let expected = concat!("lockrun ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(shown("--version"), expected);
    assert_eq!(shown("-V"), expected);
}

#[test]
fn short_help_fits_one_screen() {
    let text = shown("-h");
    assert!(text.lines().count() <= 40, "too long:\n{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "too wide: {line}");
    }
    assert!(text.contains("lockrun [") && text.contains("-- COMMAND"), "{text}");
}

#[test]
fn long_help_fits_80_columns() {
    let sandbox = Sandbox::new();
    let subcommands =
        "acquire release renew check list status wait break prune path flock completions".split(' ').map(Some);
    for subcommand in subcommands.chain([None]) {
        let args: Vec<_> = subcommand.into_iter().chain(["--help"]).collect();
        let text = sandbox.lockrun(&args).run().assert_code(0).stdout.clone();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "too wide: {line}");
        }
    }
}

#[test]
fn both_helps_name_every_option() {
    for text in [shown("-h"), shown("--help")] {
        for option in [
            "--name",
            "--file",
            "--dir",
            "--timeout",
            "--nonblock",
            "--shared",
            "--conflict-exit-code",
            "--quiet",
            "--verbose",
            "--exec",
            "--expires",
            "--kill-after",
            "--hold",
            "--help",
            "--version",
        ] {
            assert!(text.contains(option), "{option} is not in\n{text}");
        }
    }
}

#[test]
fn long_help_has_examples_and_the_exit_codes() {
    let text = shown("--help");
    for code in ["75", "123", "124", "125", "126", "127"] {
        let listed = text.lines().any(|line| line.trim().starts_with(code));
        assert!(listed, "no line on {code} in\n{text}");
    }
    assert!(text.to_lowercase().contains("examples"), "{text}");
    assert!(text.contains("LOCKRUN_DIR") && text.contains("LOCKRUN_TIMEOUT"));
}

#[test]
fn help_and_version_are_subcommands_too() {
    let sandbox = Sandbox::new();
    let shown = |words: &[&str]| sandbox.lockrun(words).run().assert_code(0).assert_silent().stdout.clone();
    assert_eq!(shown(&["help"]), shown(&["--help"]));
    assert_eq!(shown(&["help", "run"]), shown(&["--help"]));
    assert_eq!(shown(&["run", "--help"]), shown(&["--help"]));
    assert_eq!(shown(&["version"]), shown(&["--version"]));
    for command in "acquire release renew check list status wait break prune path flock completions".split(' ') {
        let help = shown(&["help", command]);
        assert_eq!(help, shown(&[command, "--help"]));
        assert!(help.lines().any(|line| line.starts_with("Usage: ") && line.contains("lockrun")), "{help}");
    }
}

#[test]
fn run_is_the_main_job() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["run", "-l", "calc"]);
    sandbox.lockrun(&["run", "-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    holder.release().assert_code(0);
    sandbox.lockrun(&["-l", "run", "--", "echo", "run"]).run().assert_code(0).assert_stdout("run\n");
}

#[test]
fn help_after_the_dashes_belongs_to_the_command() {
    let sandbox = Sandbox::new();
    let command = ["-l", "calc", "--", "sh", "-c", "echo $1", "sh", "--help"];
    let outcome = sandbox.lockrun(&command).run();
    outcome.assert_code(0).assert_stdout("--help\n");
}

#[test]
fn help_that_cannot_be_printed_is_an_error() {
    for option in ["--help", "-h", "--version"] {
        let sandbox = Sandbox::new();
        let outcome = sandbox.sh(&format!("lockrun {option} >/dev/full")).run();
        outcome.assert_code(125).assert_one_line(&["cannot print to stdout", "No space left"]);
    }
}
