//! At a terminal: Ctrl-C, Ctrl-\, Ctrl-Z and fg, a hang-up, as for COMMAND alone.

use crate::support::{Sandbox, SignalReporter, Terminal, children, eventually, is_alive, is_held, status_field};

const CTRL_C: &str = "\x03";
const CTRL_BACKSLASH: &str = "\x1c";
const CTRL_Z: &str = "\x1a";

/// The last process of a chain of only children: what the terminal runs.
fn innermost(pid: i32) -> i32 {
    match children(pid)[..] {
        [child] => innermost(child),
        _ => pid,
    }
}

fn has_stopped(pid: i32) -> bool {
    status_field(pid, "State").starts_with('T')
}

/// lockrun around the reporter of signals, as a script in the sandbox.
fn reporter(sandbox: &Sandbox) -> &'static str {
    sandbox.write("work/reporter", SignalReporter::SCRIPT);
    "lockrun -l calc -- sh ./reporter"
}

#[test]
fn what_the_terminal_sends_reaches_the_command_exactly_once() {
    let sandbox = Sandbox::new();
    let command = reporter(&sandbox);
    let mut shell = Terminal::shell(&sandbox);
    shell.enter(command);
    shell.until_shows("ready\r\n");
    let lockrun = children(shell.pid())[0];
    for (keys, report) in [(CTRL_C, "INT\r\n"), (CTRL_BACKSLASH, "QUIT\r\n"), (CTRL_C, "INT\r\n")] {
        shell.press(keys);
        let passed = shell.until_shows(report);
        assert!(["^C", "^\\"].contains(&passed.trim()), "{passed:?} before {report:?}");
    }
    sandbox.sh(&format!("kill -USR1 {lockrun}; kill -PROF {lockrun}")).run().assert_code(0);
    let passed = shell.until_shows("end\r\n");
    assert_eq!(passed, "USR1\r\n");
}

#[test]
fn a_shell_loop_stops_on_ctrl_c() {
    let sandbox = Sandbox::new();
    let mut shell = Terminal::shell(&sandbox);
    shell.enter("while :; do lockrun -l calc -c 'echo turn; exec sleep 1000'; done");
    shell.until_shows("turn\r\n");
    eventually("the command sleeps", || status_field(innermost(shell.pid()), "Name") == "sleep");
    shell.press(CTRL_C);
    let passed = shell.until_shows("ready> ");
    assert!(!passed.contains("turn"), "{passed:?}");
    shell.enter("echo code $?");
    shell.until_shows("code 130\r\n");
}

#[test]
fn a_shell_loop_stops_on_ctrl_c_while_it_waits() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut shell = Terminal::shell(&sandbox);
    shell.enter("while :; do lockrun -l calc -- echo turn; done");
    eventually("it waits", || shell.is_waiting());
    shell.press(CTRL_C);
    shell.until_shows("ready> ");
    holder.release();
    shell.enter("echo code $?");
    let passed = shell.until_shows("code 130\r\n");
    assert!(!passed.contains("turn"), "{passed:?}");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it() {
    let sandbox = Sandbox::new();
    let mut shell = Terminal::shell(&sandbox);
    shell.enter("lockrun -l calc -c 'echo on; read line; echo got $line'");
    shell.until_shows("on\r\n");
    let command = innermost(shell.pid());
    for _ in 0..2 {
        shell.press(CTRL_Z);
        shell.until_shows("Stopped");
        shell.until_shows("ready> ");
        assert!(has_stopped(command), "the command runs on");
        assert!(is_held(&sandbox.lock_file("calc")));
        shell.enter("fg");
        shell.until_shows("read line");
        eventually("the command goes on", || !has_stopped(command));
    }
    shell.enter("hello");
    shell.until_shows("got hello\r\n");
    shell.enter("echo code $?");
    shell.until_shows("code 0\r\n");
}

#[test]
fn fg_reaches_the_command_exactly_once() {
    let sandbox = Sandbox::new();
    let command = reporter(&sandbox);
    let mut shell = Terminal::shell(&sandbox);
    shell.enter(command);
    shell.until_shows("ready\r\n");
    let lockrun = children(shell.pid())[0];
    shell.press(CTRL_Z);
    shell.until_shows("ready> ");
    shell.enter("fg");
    shell.until_shows("CONT\r\n");
    sandbox.sh(&format!("kill -USR1 {lockrun}")).run().assert_code(0);
    let passed = shell.until_shows("USR1\r\n");
    assert_eq!(passed, "");
}

#[test]
fn ctrl_z_stops_the_job_when_only_the_commands_children_are_left() {
    let sandbox = Sandbox::new();
    let mut shell = Terminal::shell(&sandbox);
    shell.enter("lockrun --hold tree -l calc -c 'sleep 1000 & exit 3'");
    let left = || children(*children(shell.pid()).first()?).first().copied();
    eventually("COMMAND has ended", || left().is_some_and(|pid| status_field(pid, "Name") == "sleep"));
    let left = left().unwrap();
    shell.press(CTRL_Z);
    shell.until_shows("Stopped");
    shell.until_shows("ready> ");
    sandbox.sh(&format!("kill -KILL {left}")).run().assert_code(0);
    shell.enter("fg; echo ended with $?");
    shell.until_shows("ended with 3\r\n");
}

#[test]
fn a_job_in_the_background_is_continued_by_bg() {
    let sandbox = Sandbox::new();
    sandbox.sh("mkfifo fifo").run().assert_code(0);
    let mut shell = Terminal::shell(&sandbox);
    shell.enter("lockrun -l calc -c 'echo on; read line <fifo; echo got $line' &");
    shell.until_shows("on\r\n");
    let lockrun = children(shell.pid())[0];
    shell.enter("fg");
    shell.until_shows("lockrun -l calc");
    shell.press(CTRL_Z);
    shell.until_shows("Stopped");
    shell.enter("bg");
    eventually("both go on", || !has_stopped(lockrun) && !has_stopped(children(lockrun)[0]));
    shell.enter("echo hello >fifo");
    shell.until_shows("got hello");
}

#[test]
fn where_no_shell_could_continue_it_ctrl_z_does_not_stop_a_wait() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut terminal = Terminal::start(sandbox.lockrun(&["-l", "calc", "--", "echo", "ran"]));
    eventually("it waits", || terminal.is_waiting());
    terminal.press(CTRL_Z);
    terminal.until_shows("^Z");
    terminal.signal(libc::SIGWINCH); // Read by lockrun after the other one.
    holder.release();
    terminal.until_shows("ran");
    terminal.wait().assert_code(0);
}

#[test]
fn where_no_shell_could_continue_it_ctrl_z_does_not_stop_the_command() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::start(sandbox.lockrun(&["-l", "calc", "-c", "echo on; read line; echo got $line"]));
    terminal.until_shows("on\r\n");
    terminal.press(CTRL_Z);
    terminal.until_shows("^Z");
    terminal.press("hello\n");
    terminal.until_shows("got hello");
    terminal.wait().assert_code(0);
}

#[test]
fn a_hang_up_reaches_the_command_of_a_session_leader() {
    let sandbox = Sandbox::new();
    sandbox.write("work/reporter", SignalReporter::SCRIPT);
    let command = ["-l", "calc", "-c", "exec sh ./reporter >reported 2>&1"];
    let mut terminal = Terminal::start(sandbox.lockrun(&command));
    let reported = || std::fs::read_to_string(sandbox.path("work/reported")).unwrap_or_default();
    eventually("it reports", || reported().contains("ready\n"));
    terminal.hang_up();
    eventually("the hang-up is reported", || reported().contains("HUP\n"));
    terminal.signal(libc::SIGPROF);
    terminal.wait().assert_code(3);
    let reported: Vec<_> = reported().lines().filter(|line| *line != "CONT").map(str::to_owned).collect();
    assert_eq!(reported, ["ready", "HUP", "end"]);
}

#[test]
fn a_hang_up_ends_the_wait_of_a_session_leader() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let mut terminal = Terminal::start(sandbox.lockrun(&["-l", "calc", "--", "touch", "ran"]));
    eventually("it waits", || terminal.is_waiting());
    let child = children(terminal.pid())[0];
    terminal.hang_up();
    terminal.wait().assert_signal(libc::SIGHUP);
    eventually("nothing is left", || !is_alive(child));
}
