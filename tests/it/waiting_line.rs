//! The living line that people see while lockrun waits at a terminal.

use crate::support::{Sandbox, Terminal, eventually, visible_lines};

/// A lockrun that waits for `calc` at a terminal, with these options.
fn waiter(sandbox: &Sandbox, options: &[&str]) -> Terminal {
    let args = [options, &["-l", "calc", "--", "echo", "ran"]].concat();
    let terminal = Terminal::start(sandbox.lockrun(&args).env("TERM", "xterm"));
    eventually("it waits", || terminal.is_waiting());
    terminal
}

#[test]
fn it_names_the_lock_the_holder_and_its_command() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut terminal = waiter(&sandbox, &["-t", "100"]);
    let pid = holder.pid().to_string();
    terminal.until_shows("lockrun: waiting");
    eventually("the line is whole", || {
        let lines = visible_lines(&terminal.screen());
        let line = lines.last().unwrap();
        let words = ["calc", &pid, "left"];
        line.starts_with("lockrun: ") && words.iter().all(|word| line.contains(word))
    });
}

#[test]
fn the_times_come_first_and_a_long_name_leaves_room_for_the_holder() {
    let sandbox = Sandbox::new();
    let name = format!("begin{}end", "n".repeat(100));
    let holder = sandbox.hold(&["-l", &name]);
    let waiter = sandbox.lockrun(&["-t", "100", "-l", &name, "--", "true"]).env("TERM", "xterm");
    let mut terminal = Terminal::start_with_width(waiter, 80);
    let held = format!("; held by pid {} ", holder.pid());
    eventually("the line is whole", || {
        let line = visible_lines(&terminal.screen()).pop().unwrap();
        let times = line.strip_prefix("lockrun: waiting").and_then(|rest| rest.split_once(" left: begin"));
        times.is_some_and(|(_, rest)| rest.contains("n…n") && rest.contains(&format!("end{held}")))
    });
}

#[test]
fn on_a_wide_terminal_it_names_the_holders_command() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let script = "stty cols 300; exec lockrun -l calc -- echo ran";
    let mut terminal = Terminal::start(sandbox.sh(script).env("TERM", "xterm"));
    terminal.until_shows("exec cat");
    let line = visible_lines(&terminal.screen()).pop().unwrap();
    assert!(line.contains("user "), "{line:?}");
}

#[test]
fn it_vanishes_before_the_command_writes_anything() {
    let sandbox = Sandbox::new();
    // Whether the command is faster than what clears the line is chance.
    for _ in 0..5 {
        let holder = sandbox.hold(&["-l", "calc"]);
        let mut terminal = waiter(&sandbox, &[]);
        terminal.until_shows("lockrun: waiting");
        holder.release();
        let outcome = terminal.wait();
        outcome.assert_code(0);
        assert_eq!(visible_lines(&outcome.stdout), ["ran", ""], "{:?}", outcome.stdout);
    }
}

#[test]
fn it_vanishes_before_a_failure_is_printed() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let mut terminal = waiter(&sandbox, &["-t", "0.8"]);
    terminal.until_shows("lockrun: waiting");
    terminal.until_shows("timed out");
    eventually("one line is left", || {
        let lines = visible_lines(&terminal.screen());
        lines.len() == 2 && lines[0].starts_with("lockrun: calc: timed out") && lines[1].is_empty()
    });
    terminal.wait().assert_code(124);
}

#[test]
fn a_short_wait_shows_nothing() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let terminal = waiter(&sandbox, &["-t", "0.1"]);
    let outcome = terminal.wait();
    outcome.assert_code(124);
    assert!(!outcome.stdout.contains("waiting"), "{outcome:?}");
    holder.release();
}

#[test]
fn quiet_waits_show_nothing() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    // Longer than what shows the line in the tests above.
    waiter(&sandbox, &["-q", "-t", "2"]).wait().assert_code(124).assert_stdout("");
}

#[test]
fn it_is_shown_only_on_a_terminal() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let script = "lockrun -t 2 -l calc -- echo ran 2>messages; cat messages";
    let outcome = Terminal::start(sandbox.sh(script).env("TERM", "xterm")).wait();
    assert!(!outcome.stdout.contains("waiting"), "{outcome:?}");
    assert!(!outcome.stdout.contains('\x1b'), "{outcome:?}");
}

#[test]
fn it_ends_before_the_terminals_edge_where_keys_are_echoed() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    for columns in [30, 80] {
        let waiter = sandbox.lockrun(&["-l", "calc", "--", "true"]).env("TERM", "xterm");
        let mut terminal = Terminal::start_with_width(waiter, columns);
        terminal.until_shows("lockrun: waiting");
        for line in terminal.screen().split('\r') {
            assert!(line.trim_end_matches("\x1b[K").chars().count() <= usize::from(columns) - 4, "{line:?}");
        }
        terminal.press("\x03");
        let screen = terminal.wait().assert_signal(libc::SIGINT).stdout.clone();
        assert!(screen.ends_with("^C\r\x1b[K"), "{screen:?}");
    }
}

#[test]
fn ctrl_c_leaves_a_clean_line() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let mut terminal = waiter(&sandbox, &[]);
    terminal.until_shows("lockrun: waiting");
    terminal.press("\x03");
    eventually("it has ended", || terminal.has_ended());
    let lines = visible_lines(&terminal.screen());
    assert!(lines.iter().all(|line| ["", "^C"].contains(&line.as_str())), "{lines:?}");
    terminal.wait().assert_signal(libc::SIGINT);
}

#[test]
fn ctrl_z_leaves_a_clean_line_and_fg_shows_it_again() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut shell = Terminal::shell(&sandbox);
    shell.press("lockrun -l calc -- echo ran\n");
    shell.until_shows("lockrun: waiting");
    shell.press("\x1a");
    shell.until_shows("Stopped");
    shell.until_shows("ready> ");
    let lines = visible_lines(&shell.screen());
    assert!(!lines.iter().any(|line| line.contains("waiting")), "{lines:?}");
    shell.press("fg\n");
    shell.until_shows("lockrun: waiting");
    holder.release();
    shell.until_shows("ran\r\n");
}
