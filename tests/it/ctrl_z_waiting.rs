//! Ctrl-Z while lockrun waits: a stopped job holds up nobody, for none of its locks.

use std::fs::File;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::support::{Running, Sandbox, Terminal, children, eventually, status_field};

const CTRL_Z: &str = "\x1a";

/// Whether strace(1) has seen a stop in the process that it traces.
fn saw_a_stop(sandbox: &Sandbox) -> bool {
    let trace = std::fs::read_to_string(sandbox.path("work/trace"));
    trace.is_ok_and(|trace| trace.contains("--- stopped by SIGTSTP ---"))
}

#[test]
fn ctrl_z_while_waiting_gives_up_the_place_and_fg_queues_anew() {
    for option in ["-v", "-q"] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let mut shell = Terminal::shell(&sandbox);
        shell.enter(&format!("lockrun {option} -l calc -- echo ran 2>/dev/null"));
        eventually("it waits", || shell.is_waiting());
        shell.press(CTRL_Z);
        shell.until_shows("Stopped");
        shell.until_shows("ready> ");
        holder.release();
        sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
        let holder = sandbox.hold(&["-l", "calc"]);
        shell.enter("fg");
        eventually("it waits again", || shell.is_waiting());
        holder.release();
        shell.until_shows("ran\r\n");
        shell.until_shows("ready> ");
    }
}

/// Stops a lockrun that waits with these options for what `holder` has, looks
/// whether `others` get theirs when that is free, and lets it go on.
fn nothing_is_kept(sandbox: &Sandbox, holder: &[&str], waiter: &str, others: &[&str]) {
    let holder = sandbox.hold(holder);
    let mut shell = Terminal::shell(sandbox);
    shell.enter(&format!("lockrun {waiter} -- echo ran"));
    eventually("it waits", || shell.is_waiting());
    shell.press(CTRL_Z);
    shell.until_shows("Stopped");
    holder.release();
    sandbox.lockrun(&[&["-n"], others, &["--", "true"]].concat()).run().assert_code(0);
    shell.enter("fg");
    shell.until_shows("ran\r\n");
}

#[test]
fn ctrl_z_gives_up_the_place_with_exec_too() {
    nothing_is_kept(&Sandbox::new(), &["-l", "calc"], "--exec -l calc", &["-l", "calc"]);
}

#[test]
fn a_stopped_set_keeps_none_of_its_locks() {
    for form in ["", "--exec"] {
        let sandbox = Sandbox::new();
        let [first, last] = sandbox.in_order(["a", "b"]);
        nothing_is_kept(&sandbox, &["-l", last], &format!("{form} -l a -l b"), &["-l", first]);
    }
}

/// Neither who waits for a place, nor who waits to share all of them.
#[test]
fn a_stopped_waiter_of_a_pool_does_not_block_the_whole_lock() {
    for waiter in ["--slots 1", "--slots 1 --exec", "--shared", "--shared --exec"] {
        let holder = ["--slots", "1", "-l", "calc"];
        nothing_is_kept(&Sandbox::new(), &holder, &format!("{waiter} -l calc"), &["-l", "calc"]);
    }
}

/// strace(1) on a lockrun that waits by `--exec`: with the grant, this happens
/// to it.
#[track_caller]
fn with_the_grant(sandbox: &Sandbox, waiter: i32, what: &str) -> Running {
    let inject = format!("inject=newfstatat:{what}:when=1");
    let waiter = waiter.to_string();
    let tracer = ["-e", "trace=newfstatat", "-e", &inject, "-o", "trace", "-p", &waiter];
    let tracer = sandbox.command("strace", &tracer).start();
    eventually("strace is there", || tracer.stderr().contains("attached"));
    tracer
}

#[test]
fn ctrl_z_at_the_grant_stops_the_process_that_becomes_the_command() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut shell = Terminal::shell(&sandbox);
    shell.enter("lockrun --exec -l calc -- echo ran");
    eventually("it waits", || shell.is_waiting());
    let lockrun = children(shell.pid())[0];
    let tracer = with_the_grant(&sandbox, lockrun, "signal=TSTP");
    holder.release();
    eventually("it is stopped", || saw_a_stop(&sandbox));
    tracer.signal(libc::SIGTERM);
    tracer.wait();
    shell.until_shows("Stopped");
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    shell.enter("fg");
    shell.until_shows("ran\r\n");
}

#[test]
fn a_waiter_replaced_at_the_grant_does_not_become_the_command() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["--exec", "-l", "calc", "--", "echo", "ran"]).start().until_waiting();
    let tracer = with_the_grant(&sandbox, waiter.pid(), "delay_enter=100s");
    holder.release();
    eventually("it has the lock", || sandbox.list(&["calc"])[0]["holders"][0]["pid"] == waiter.pid());
    let replacer = sandbox.lockrun(&["--replace", "-l", "calc", "--", "true"]).start().until_waiting();
    tracer.signal(libc::SIGTERM);
    let by = format!("replaced while waiting, by pid {}", replacer.pid());
    waiter.wait().assert_code(123).assert_stdout("").assert_one_line(&["calc", &by]);
    tracer.wait();
    replacer.wait().assert_code(0);
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

/// All signals are blocked when lockrun begins; what came before it could tell
/// must not stop it with a place in the queue.
#[test]
fn ctrl_z_before_the_wait_gives_up_the_place_too() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut shell = Terminal::shell(&sandbox);
    let inject = "-e trace=newfstatat -e inject=newfstatat:signal=TSTP:when=1";
    shell.enter(&format!("strace -o trace {inject} lockrun --exec -l calc -- echo ran"));
    eventually("it is stopped", || saw_a_stop(&sandbox));
    let lockrun = children(children(shell.pid())[0])[0];
    holder.release();
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
    sandbox.sh(&format!("kill -CONT {lockrun}")).run().assert_code(0);
    shell.until_shows("ran\r\n");
}

/// Sends what Ctrl-Z sends to a lockrun and all that it started, and lets them
/// go on when it is stopped, however often that takes.
#[track_caller]
fn stop_and_go_on(mut lockrun: Running) {
    lockrun.signal_group(libc::SIGTSTP);
    let is_stopped = |pid| status_field(pid, "State").starts_with('T');
    eventually("it is stopped, or has ended", || lockrun.has_ended() || is_stopped(lockrun.pid()));
    eventually("it goes on", || {
        let ended = lockrun.has_ended();
        if !ended {
            lockrun.signal_group(libc::SIGCONT);
        }
        ended
    });
    lockrun.wait().assert_code(0);
}

/// Its child may be on the way to the command, where nobody could see it stop.
#[test]
fn ctrl_z_around_the_grant_stops_lockrun_too() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let file = File::open(sandbox.lock_file("calc")).unwrap();
    for round in 0..60 {
        flock(&file, FlockOperation::LockExclusive).unwrap();
        // With a timeout, because it is ours that it waits for.
        let waiter = sandbox.lockrun(&["-q", "-t", "100", "-l", "calc", "--", "true"]).start().until_waiting();
        flock(&file, FlockOperation::Unlock).unwrap();
        sleep(Duration::from_micros(5 * round));
        stop_and_go_on(waiter);
    }
}

#[test]
fn ctrl_z_around_the_start_of_the_command_stops_lockrun_too() {
    let sandbox = Sandbox::new();
    for round in 0..150 {
        let lockrun = sandbox.lockrun(&["-q", "-l", "calc", "--", "true"]).start();
        sleep(Duration::from_micros(20 * round));
        stop_and_go_on(lockrun);
    }
}
