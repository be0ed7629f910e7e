//! At a terminal, with the lock on a server: the waiting line, Ctrl-C, Ctrl-Z and fg,
//! as with files.

use std::time::{Duration, Instant};

use crate::support::{Etcd, Place, Sandbox, SignalReporter, Terminal, eventually, visible_lines};

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";

fn server() -> Place {
    Place::Etcd(Etcd::start())
}

/// The last line that is left to see.
fn last_line(terminal: &mut Terminal) -> String {
    visible_lines(&terminal.screen()).pop().unwrap()
}

#[test]
fn the_line_names_whoever_holds_the_lock_by_now() {
    let (place, sandbox) = (server(), Sandbox::new());
    let holder = place.hold(&sandbox, &["-l", "calc"]);
    let next = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "echo mine; exec sleep 600"], 1);
    let waiter = place.lockrun(&sandbox, &["-t", "1000", "-l", "calc", "--", "echo", "ran"]).env("TERM", "xterm");
    let mut terminal = Terminal::start_with_width(waiter, 200);
    let first = format!("left: calc; held by pid {} on ", holder.pid());
    eventually("it names the holder", || last_line(&mut terminal).contains(&first));
    let age = |line: &str| line.rsplit("for ").next()?.strip_suffix('s')?.parse::<f64>().ok();
    eventually("the holder grows older", || age(&last_line(&mut terminal)).is_some_and(|age| age > 3.0));
    holder.release();
    let second = format!("left: calc; held by pid {} on ", next.pid());
    eventually("it names the next holder", || last_line(&mut terminal).contains(&second));
    next.signal(libc::SIGTERM);
    next.wait();
    let outcome = terminal.wait();
    outcome.assert_code(0);
    assert_eq!(visible_lines(&outcome.stdout), ["ran", ""], "{:?}", outcome.stdout);
}

#[test]
fn so_does_the_line_of_a_timeout() {
    let (place, sandbox) = (server(), Sandbox::new());
    let holder = place.hold(&sandbox, &["-l", "calc"]);
    let next = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "echo mine; exec sleep 600"], 1);
    let last = place.wait_in_queue(&sandbox, &["-t", "7", "-l", "calc", "--", "true"], 2);
    holder.release();
    let next = next.until_says("mine");
    let now = format!("held by pid {} on ", next.pid());
    last.wait().assert_code(124).assert_one_line(&["timed out after 7s", &now]);
}

#[test]
fn ctrl_z_gives_up_the_place_and_fg_queues_anew() {
    let (place, sandbox) = (server(), Sandbox::new());
    let holder = place.hold(&sandbox, &["-l", "calc"]);
    let url = place.server().url("jobs");
    let mut shell = Terminal::shell(&sandbox);
    shell.press(&format!("lockrun --store {url} -l calc -- echo ran\n"));
    shell.until_shows("lockrun: waiting");
    place.until_waiting(&sandbox, 1);
    shell.press(CTRL_Z);
    shell.until_shows("Stopped");
    shell.until_shows("ready> ");
    let lines = visible_lines(&shell.screen());
    assert!(!lines.iter().any(|line| line.contains("waiting")), "{lines:?}");
    place.until_waiting(&sandbox, 0);
    holder.release();
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
    let holder = place.hold(&sandbox, &["-l", "calc"]);
    shell.press("fg\n");
    shell.until_shows("lockrun: waiting");
    holder.release();
    shell.until_shows("ran\r\n");
}

#[test]
fn time_spent_stopped_counts_for_the_timeout() {
    let (place, sandbox) = (server(), Sandbox::new());
    let _holder = place.hold(&sandbox, &["-l", "calc"]);
    let url = place.server().url("jobs");
    let mut shell = Terminal::shell(&sandbox);
    let began = Instant::now();
    shell.press(&format!("lockrun -t 3 --store {url} -l calc -- echo ran\n"));
    shell.until_shows("lockrun: waiting");
    shell.press(CTRL_Z);
    shell.until_shows("Stopped");
    eventually("the time is over", || began.elapsed() > Duration::from_secs(6));
    shell.press("fg\n");
    let passed = shell.until_shows("timed out after 3s");
    assert!(!passed.contains("waiting"), "{passed:?}");
}

#[test]
fn ctrl_c_leaves_a_clean_line() {
    let (place, sandbox) = (server(), Sandbox::new());
    let _holder = place.hold(&sandbox, &["-l", "calc"]);
    let waiter = place.lockrun(&sandbox, &["-l", "calc", "--", "echo", "ran"]).env("TERM", "xterm");
    let mut terminal = Terminal::start(waiter);
    terminal.until_shows("lockrun: waiting");
    terminal.press(CTRL_C);
    eventually("it has ended", || terminal.has_ended());
    let lines = visible_lines(&terminal.screen());
    assert!(lines.iter().all(|line| ["", "^C"].contains(&line.as_str())), "{lines:?}");
    terminal.wait().assert_signal(libc::SIGINT);
    place.until_waiting(&sandbox, 0);
}

/// The keeper has left the terminal, and is not ended by it.
#[test]
fn what_the_terminal_sends_reaches_the_command_exactly_once() {
    let (place, sandbox) = (server(), Sandbox::new());
    sandbox.write("work/reporter", SignalReporter::SCRIPT);
    let command = ["-l", "calc", "-c", "exec sh ./reporter >reported 2>&1"];
    let mut terminal = Terminal::start(place.lockrun(&sandbox, &command));
    let reported = || std::fs::read_to_string(sandbox.path("work/reported")).unwrap_or_default();
    eventually("it reports", || reported().contains("ready\n"));
    for (keys, name) in [(CTRL_C, "INT\n"), ("\x1c", "QUIT\n")] {
        terminal.press(keys);
        eventually("the key is reported", || reported().contains(name));
    }
    terminal.hang_up();
    eventually("the hang-up is reported", || reported().contains("HUP\n"));
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    terminal.signal(libc::SIGPROF);
    terminal.wait().assert_code(3);
    let reported: Vec<_> = reported().lines().filter(|line| *line != "CONT").map(str::to_owned).collect();
    assert_eq!(reported, ["ready", "INT", "QUIT", "HUP", "end"]);
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn ctrl_z_stops_the_command_and_not_the_keeper() {
    let (place, sandbox) = (server(), Sandbox::new());
    let url = place.server().url("jobs");
    let mut shell = Terminal::shell(&sandbox);
    shell.enter(&format!("lockrun --store '{url}?ttl=2' -l calc -c 'echo on; read line; echo got $line'"));
    shell.until_shows("on\r\n");
    shell.press(CTRL_Z);
    shell.until_shows("Stopped");
    shell.until_shows("ready> ");
    let began = Instant::now();
    eventually("a lease has passed", || {
        place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(1);
        began.elapsed() > Duration::from_secs(3)
    });
    shell.enter("fg");
    shell.until_shows("read line");
    shell.enter("hello");
    shell.until_shows("got hello\r\n");
    shell.enter("echo code $?");
    shell.until_shows("code 0\r\n");
}
