//! Signals sent to lockrun reach COMMAND, once.

use crate::support::{Running, Sandbox, SignalReporter, children, eventually, in_pid_namespace, status_field};

/// Every signal that the reporter knows, as shells name them.
const SIGNALS: [(&str, i32); 12] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("WINCH", libc::SIGWINCH),
    ("ALRM", libc::SIGALRM),
    ("PIPE", libc::SIGPIPE),
    ("URG", libc::SIGURG),
    ("40", 40),
];

/// Starts a lockrun around the reporter; with a wait first, or at once.
fn reporter(sandbox: &Sandbox, after_a_wait: bool) -> Running {
    let holder = after_a_wait.then(|| sandbox.hold(&["-l", "calc"]));
    let reporter = sandbox.lockrun(&["-l", "calc", "-c", SignalReporter::SCRIPT]).start();
    let Some(holder) = holder else {
        return reporter.until_says("ready\n");
    };
    let reporter = reporter.until_waiting();
    holder.release();
    reporter.until_says("ready\n")
}

#[test]
fn each_signal_reaches_the_command_exactly_once() {
    let sandbox = Sandbox::new();
    let mut running = reporter(&sandbox, false);
    for (name, signal) in SIGNALS {
        running.signal(signal);
        running = running.until_says(&format!("{name}\n"));
    }
    assert_eq!(SignalReporter::reported(running), SIGNALS.map(|(name, _)| name));
}

#[test]
fn the_first_signal_after_a_wait_reaches_the_command() {
    let sandbox = Sandbox::new();
    for (name, signal) in SIGNALS {
        let running = reporter(&sandbox, true);
        running.signal(signal);
        let running = running.until_says(&format!("{name}\n"));
        assert_eq!(SignalReporter::reported(running), [name]);
    }
}

#[test]
fn a_signal_to_the_whole_group_harms_nobody() {
    let sandbox = Sandbox::new();
    let running = reporter(&sandbox, false);
    running.signal_group(libc::SIGTERM);
    let reported = SignalReporter::reported(running.until_says("TERM\n"));
    assert!(reported.iter().all(|name| name == "TERM"), "{reported:?}");
}

#[test]
fn lockrun_stays_until_a_command_that_cleans_up_has_ended() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo cleaning; read line; exit 4' TERM; echo ready; while :; do sleep 0.01; done";
    let running = sandbox.lockrun(&["-l", "calc", "-c", script]).input("").start().until_says("ready");
    running.signal(libc::SIGTERM);
    let running = running.until_says("cleaning");
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    running.wait().assert_code(4).assert_silent();
}

#[test]
fn a_command_that_ignores_term_goes_on() {
    let sandbox = Sandbox::new();
    let script = "trap '' TERM; trap 'echo USR1' USR1; echo ready; while read line; do :; done; exit 6";
    let running = sandbox.lockrun(&["-l", "calc", "-c", script]).input("").start().until_says("ready");
    running.signal(libc::SIGTERM);
    running.signal(libc::SIGUSR1);
    running.until_says("USR1").wait().assert_code(6).assert_silent();
}

#[test]
fn a_stopped_command_goes_on_with_lockrun() {
    let sandbox = Sandbox::new();
    let running = sandbox.lockrun(&["-l", "calc", "-c", "echo ready; kill -STOP $$; echo on"]).start();
    let running = running.until_says("ready");
    let command = children(running.pid())[0];
    eventually("the command has stopped", || status_field(command, "State").starts_with('T'));
    running.signal(libc::SIGCONT);
    running.until_says("on").wait().assert_code(0);
}

#[test]
fn a_signal_while_waiting_ends_lockrun_by_it() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let ending = SIGNALS.iter().filter(|(name, _)| !["CONT", "WINCH", "URG"].contains(name));
    for option in [&[] as &[&str], &["--exec"], &["-t", "100"], &["--exec", "-t", "100"]] {
        for (_, signal) in ending.clone() {
            let args = [option, &["-l", "calc", "--", "touch", "ran"]].concat();
            let waiter = sandbox.lockrun(&args).start().until_waiting();
            waiter.signal(*signal);
            waiter.wait().assert_signal(*signal).assert_silent();
        }
    }
    holder.release();
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn a_signal_that_ends_nobody_does_not_end_a_wait() {
    let sandbox = Sandbox::new();
    for option in [&[] as &[&str], &["--exec"], &["-t", "100"], &["--exec", "-t", "100"]] {
        let holder = sandbox.hold(&["-l", "calc"]);
        let args = [option, &["-l", "calc", "--", "echo", "ran"]].concat();
        let waiter = sandbox.lockrun(&args).start().until_waiting();
        for signal in [libc::SIGCONT, libc::SIGWINCH, libc::SIGURG, libc::SIGCHLD] {
            waiter.signal(signal);
        }
        let waiter = waiter.until_waiting();
        holder.release();
        waiter.wait().assert_code(0).assert_stdout("ran\n");
    }
}

#[test]
fn under_nohup_a_hang_up_does_not_end_a_wait() {
    let sandbox = Sandbox::new();
    for option in ["-q", "--exec"] {
        let holder = sandbox.hold(&["-l", "calc"]);
        let waiter = sandbox.command("nohup", &["lockrun", option, "-l", "calc", "--", "echo", "ran"]);
        let waiter = waiter.start().until_waiting();
        waiter.signal(libc::SIGHUP);
        let waiter = waiter.until_waiting();
        holder.release();
        waiter.wait().assert_code(0).assert_stdout("ran\n");
    }
}

#[test]
fn as_the_first_process_it_passes_signals_on_and_exits_with_128_and_the_signal() {
    let sandbox = Sandbox::new();
    let command = ["lockrun", "-l", "calc", "-c", "echo ready; exec sleep 1000"];
    let Some(invocation) = in_pid_namespace(&sandbox, &command) else {
        return;
    };
    let running = invocation.start().until_says("ready");
    let lockrun = children(running.pid())[0];
    sandbox.sh(&format!("kill -TERM {lockrun}")).run().assert_code(0);
    running.wait().assert_code(143).assert_silent();
}

#[test]
fn as_the_first_process_it_reaps_orphans() {
    let sandbox = Sandbox::new();
    let script = "for i in 1 2 3; do (setsid true & echo) >/dev/null; done; echo ready; exec cat";
    let Some(invocation) = in_pid_namespace(&sandbox, &["lockrun", "-l", "calc", "-c", script]) else {
        return;
    };
    let running = invocation.input("").start().until_says("ready");
    let lockrun = children(running.pid())[0];
    eventually("only the command is left", || children(lockrun).len() == 1);
    running.wait().assert_code(0).assert_silent();
}

#[test]
fn as_the_first_process_a_signal_ends_its_wait() {
    waits_as_the_first_process_until_a_signal("-q");
}

#[test]
fn as_the_first_process_a_signal_ends_its_wait_with_exec() {
    waits_as_the_first_process_until_a_signal("--exec");
}

#[track_caller]
fn waits_as_the_first_process_until_a_signal(option: &str) {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let command = ["lockrun", option, "-l", "calc", "--", "touch", "ran"];
    let Some(invocation) = in_pid_namespace(&sandbox, &command) else {
        return;
    };
    let running = invocation.start().until_waiting();
    let lockrun = children(running.pid())[0];
    sandbox.sh(&format!("kill -TERM {lockrun}")).run().assert_code(0);
    running.wait().assert_code(143).assert_silent();
}
