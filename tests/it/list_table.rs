//! `lockrun list` for people.

use crate::support::{Sandbox, Terminal};

/// The lines on a terminal of that width, as they are written.
fn on_terminal(sandbox: &Sandbox, columns: u16, environment: &[(&str, &str)]) -> Vec<String> {
    let mut list = sandbox.lockrun(&["list"]).env("TERM", "xterm");
    for (name, value) in environment {
        list = list.env(name, value);
    }
    let outcome = Terminal::start_with_width(list, columns).wait();
    outcome.assert_code(0);
    outcome.stdout.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn busy_sandbox() -> (Sandbox, Vec<crate::support::Holder>) {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "idle", "--", "true"]).run().assert_code(0);
    let long_name = "a-name-that-is-rather-long-for-a-terminal";
    let holders = vec![
        sandbox.hold(&["-l", "calc", "--expires", "1h"]),
        sandbox.hold(&["-l", "data", "--shared"]),
        sandbox.hold(&["-l", "data", "--shared"]),
        sandbox.hold(&["-l", long_name]),
    ];
    (sandbox, holders)
}

#[test]
fn every_lock_and_every_holder_has_a_line() {
    let (sandbox, holders) = busy_sandbox();
    let outcome = sandbox.lockrun(&["list"]).run();
    outcome.assert_code(0).assert_silent();
    let lines: Vec<Vec<&str>> = outcome.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["LOCK", "STATE", "PID", "USER", "COMMAND", "AGE", "UNTIL"], "{outcome:?}");
    assert_eq!(lines[2][..3], ["calc", "held", &holders[0].pid().to_string()], "{outcome:?}");
    assert!(outcome.stdout.lines().nth(2).unwrap().contains(" in 59m"), "{outcome:?}");
    assert_eq!(lines[3][..4], ["data", "shared", "by", "2"], "{outcome:?}");
    assert_eq!(lines[5], [""; 0], "{outcome:?}");
    assert_eq!(lines[6], ["LOCK", "STATE", "LAST", "RUN", "ENDED", "TOOK", "USER", "COMMAND"], "{outcome:?}");
    assert_eq!(lines[7][..4], ["idle", "free", "exit", "0"], "{outcome:?}");
    assert_eq!(lines.len(), 8, "{outcome:?}");
}

#[test]
fn only_held_ones() {
    let (sandbox, _holders) = busy_sandbox();
    let outcome = sandbox.lockrun(&["list", "--held"]).run();
    assert_eq!(outcome.stdout.lines().count(), 5, "{outcome:?}");
    assert!(!outcome.stdout.contains("idle"), "{outcome:?}");
    assert_eq!(sandbox.list(&["--held", "idle", "calc"]).len(), 1);
}

#[test]
fn where_there_is_nothing_a_sentence_says_so() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    let locks = sandbox.locks().display().to_string();
    sandbox.lockrun(&["list"]).run().assert_code(0).assert_stdout("").assert_one_line(&["no locks in", &locks]);
    sandbox.lockrun(&["-l", "idle", "--", "true"]).run().assert_code(0);
    let outcome = sandbox.lockrun(&["list", "--held"]).run();
    outcome.assert_code(0).assert_stdout("").assert_one_line(&["nobody holds a lock in", &locks]);
}

#[test]
fn a_pipe_gets_everything_uncut() {
    let sandbox = Sandbox::new();
    let name = "n".repeat(75);
    let word = "w".repeat(400);
    let args = ["-l", &name, "--", "sh", "-c", "echo holding; exec cat", &word];
    let _running = sandbox.lockrun(&args).input("").start().until_says("holding");
    let outcome = sandbox.lockrun(&["list"]).run();
    assert!(outcome.stdout.contains(&name) && outcome.stdout.contains(&word), "{outcome:?}");
}

#[test]
fn it_fits_the_terminal() {
    let (sandbox, _holders) = busy_sandbox();
    for columns in [40, 60, 80, 120] {
        let lines = on_terminal(&sandbox, columns, &[("NO_COLOR", "1")]);
        assert_eq!(lines.len(), 8, "{lines:#?}");
        let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns.into(), "{widest} of {columns}: {lines:#?}");
        assert!(lines[0].starts_with("LOCK") && lines[2].starts_with("calc"), "{lines:#?}");
        assert!(lines[2].contains("held"), "{lines:#?}");
    }
    let wide = on_terminal(&sandbox, 120, &[("NO_COLOR", "1")]);
    assert!(wide[0].contains("COMMAND") && wide[0].contains("UNTIL"), "{wide:#?}");
    assert!(on_terminal(&sandbox, 80, &[("NO_COLOR", "1")])[6].ends_with("COMMAND"));
}

#[test]
fn a_terminal_that_does_not_say_its_width_has_80_columns() {
    let (sandbox, _holders) = busy_sandbox();
    let [unknown, narrow] = [0, 80].map(|columns| on_terminal(&sandbox, columns, &[("NO_COLOR", "1")]));
    // Ages get longer meanwhile, and widths with them.
    let titles = |lines: &[String]| lines[0].split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(titles(&unknown), titles(&narrow));
    assert!(unknown.iter().all(|line| line.chars().count() <= 80), "{unknown:#?}");
    let unlimited = sandbox.lockrun(&["list"]).run();
    assert!(unlimited.stdout.lines().any(|line| line.trim_end().chars().count() > 80), "{unlimited:?}");
}

#[test]
fn only_a_terminal_that_wants_colours_gets_them() {
    let (sandbox, _holders) = busy_sandbox();
    let coloured = |environment: &[(&str, &str)]| on_terminal(&sandbox, 80, environment).concat().contains('\x1b');
    assert!(coloured(&[]));
    assert!(coloured(&[("NO_COLOR", "")]));
    assert!(!coloured(&[("NO_COLOR", "1")]));
    assert!(!coloured(&[("TERM", "dumb")]));
    let piped = sandbox.lockrun(&["list"]).env("TERM", "xterm").run();
    assert!(!piped.stdout.contains('\x1b'), "{piped:?}");
}

#[test]
fn nothing_that_a_terminal_obeys_gets_through() {
    let sandbox = Sandbox::new();
    let wild = "a\x1b[31m\x07\n\u{202e}b";
    let args = ["-l", wild, "--", "sh", "-c", "echo holding; exec cat", wild];
    let _running = sandbox.lockrun(&args).input("").start().until_says("holding");
    sandbox.make_dir("locks", 0o700);
    let other = ["sh", "-c", "echo holding; exec cat", wild];
    let file = sandbox.lock_file("other");
    let foreign = [&["-x", file.to_str().unwrap()], &other[..]].concat();
    let _foreign = sandbox.command("flock", &foreign).input("").start().until_says("holding");
    let outcome = sandbox.lockrun(&["list"]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout.lines().count(), 3, "{outcome:?}");
    let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!outcome.stdout.contains(obeyed), "{outcome:?}");
    assert!(outcome.stdout.contains("\\x1b[31m"), "{outcome:?}");
}

#[test]
fn output_that_cannot_be_printed_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    sandbox.sh("lockrun list >/dev/full").run().assert_code(125).assert_one_line(&["stdout"]);
}
