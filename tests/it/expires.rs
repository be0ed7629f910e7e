//! `--expires`, `--kill-after`: the end of COMMAND and of all that it started.

use crate::support::{Invocation, Running, Sandbox, eventually, in_pid_namespace, is_alive, status_field, with_mounts};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: [&str; 6] = ["-l", "calc", "--expires", "0.1", "--kill-after", "0.1"];

/// A lockrun whose COMMAND, shell text, expires soon.
fn expiring(sandbox: &Sandbox, script: &str) -> Running {
    sandbox.lockrun(&[&SOON as &[&str], &["-c", script]].concat()).start()
}

/// The pid that a command has written to this file.
#[track_caller]
fn pid_in(path: &Path) -> i32 {
    let mut pid = None;
    eventually(&format!("a pid in {}", path.display()), || {
        let text = fs::read_to_string(path).unwrap_or_default();
        pid = text.strip_suffix('\n').and_then(|text| text.parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

#[test]
fn an_expired_command_gets_term() {
    let sandbox = Sandbox::new();
    let outcome = expiring(&sandbox, "exec sleep 1000").wait();
    outcome.assert_code(123).assert_one_line(&["calc", "expired", "TERM"]);
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn the_line_names_the_commands_own_code() {
    let sandbox = Sandbox::new();
    let script = "trap 'exit 7' TERM; while :; do sleep 0.01; done";
    expiring(&sandbox, script).wait().assert_code(123).assert_stderr_has(&["expired", "code 7"]);
}

#[test]
fn a_command_that_ignores_term_is_killed() {
    let sandbox = Sandbox::new();
    let outcome = expiring(&sandbox, "trap '' TERM; exec sleep 1000").wait();
    outcome.assert_code(123).assert_one_line(&["expired", "KILL"]);
}

#[test]
fn kill_after_is_time_to_clean_up() {
    let sandbox = Sandbox::new();
    let script = "trap 'read line; echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let args = ["-l", "calc", "--expires", "0.1", "--kill-after", "100", "-c", script];
    let running = sandbox.lockrun(&args).input("").start().until_says("ready");
    running.wait().assert_code(123).assert_stdout("ready\ncleaned\n");
}

#[test]
fn a_daemon_that_double_forked_is_ended_too() {
    let sandbox = Sandbox::new();
    for trap in ["", "trap '' TERM;"] {
        let daemon = format!("{trap} echo $$ >daemon; exec sleep 1000");
        let script = format!("(setsid sh -c \"{}\" &); exec sleep 1000", daemon.replace('$', "\\$"));
        let outcome = expiring(&sandbox, &script).wait();
        outcome.assert_code(123);
        let daemon = pid_in(&sandbox.path("work/daemon"));
        assert!(!is_alive(daemon), "{trap} {outcome:?}");
    }
}

#[test]
fn a_daemon_of_a_command_that_ended_in_time_is_left_alone() {
    let sandbox = Sandbox::new();
    let script = "setsid sh -c 'echo $$ >daemon; exec sleep 1000' & exit 3";
    let args = ["-l", "calc", "--expires", "100", "-c", script];
    sandbox.lockrun(&args).run().assert_code(3).assert_silent();
    assert!(is_alive(pid_in(&sandbox.path("work/daemon"))));
}

#[test]
fn with_hold_tree_a_daemon_ends_at_the_expiry() {
    let sandbox = Sandbox::new();
    let script = "setsid sh -c 'echo $$ >daemon; exec sleep 1000' & exit 3";
    let args = [&SOON as &[&str], &["--hold", "tree", "-c", script]].concat();
    sandbox.lockrun(&args).run().assert_code(123).assert_one_line(&["expired", "3"]);
    assert!(!is_alive(pid_in(&sandbox.path("work/daemon"))));
}

#[test]
fn processes_that_keep_forking_do_not_get_away() {
    let sandbox = Sandbox::new();
    // Each one starts the next and ends: it never has the same pid for long.
    let chain = sandbox.path("work/chain").display().to_string();
    sandbox.write("work/chain", &format!("trap '' TERM; setsid sh {chain} & exit"));
    let script = format!("sh {chain}; sh {chain}; trap '' TERM; exec sleep 1000");
    expiring(&sandbox, &script).wait().assert_code(123);
    for _ in 0..20 {
        assert_eq!(runs_with(&chain), None);
    }
}

/// A process with this word in its command line.
fn runs_with(word: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.map(|entry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default());
    lines.find(|line| line.split('\0').any(|part| part == word))
}

#[test]
fn stopped_processes_are_ended() {
    let sandbox = Sandbox::new();
    let script = "sh -c 'echo $$ >child; kill -STOP $$; exec sleep 1000' & kill -STOP $$; exec sleep 1000";
    let running = expiring(&sandbox, script);
    running.wait().assert_code(123).assert_one_line(&["TERM"]);
    assert!(!is_alive(pid_in(&sandbox.path("work/child"))));
}

#[test]
fn processes_that_the_caller_had_started_are_spared() {
    let sandbox = Sandbox::new();
    let script = format!("sleep 1000 & echo $! >before; exec lockrun {} -- sleep 1000", SOON.join(" "));
    sandbox.sh(&script).run().assert_code(123);
    assert!(is_alive(pid_in(&sandbox.path("work/before"))));
}

#[test]
fn processes_that_the_caller_had_started_are_spared_after_a_wait() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let script = format!("sleep 1000 & echo $! >before; exec lockrun {} -- sleep 1000", SOON.join(" "));
    let running = sandbox.sh(&script).start();
    let before = pid_in(&sandbox.path("work/before"));
    eventually("lockrun has its turn", || status_field(running.pid(), "Name") == "lockrun");
    let running = running.until_waiting();
    holder.release();
    running.wait().assert_code(123);
    assert!(is_alive(before));
}

#[test]
fn orphans_of_processes_that_the_caller_had_started_are_spared() {
    let sandbox = Sandbox::new();
    // Older than lockrun, or it could not be told from what COMMAND started.
    let earlier = "sh -c 'sleep 1000 & echo $! >orphan; read line <fifo' & until test -s orphan; do :; done;";
    let lockrun = format!("exec lockrun {} -c 'echo >fifo; exec sleep 1000'", SOON.join(" "));
    sandbox.sh(&format!("mkfifo fifo; {earlier} {lockrun}")).run().assert_code(123);
    assert!(is_alive(pid_in(&sandbox.path("work/orphan"))));
}

#[test]
fn time_spent_waiting_does_not_count() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let start = Instant::now();
    let args = ["-l", "calc", "--expires", "0.5", "--", "echo", "ran"];
    let waiter = sandbox.lockrun(&args).start().until_waiting();
    eventually("more time than the command may hold", || start.elapsed() > Duration::from_secs(1));
    holder.release();
    waiter.wait().assert_code(0).assert_stdout("ran\n").assert_silent();
}

#[test]
fn after_a_wait_the_time_counts_from_the_grant() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = expiring(&sandbox, "exec sleep 1000").until_waiting();
    holder.release();
    waiter.wait().assert_code(123).assert_one_line(&["expired", "TERM"]);
}

#[test]
fn an_expiry_that_is_not_reached_changes_nothing() {
    let sandbox = Sandbox::new();
    let attempt = |script| sandbox.lockrun(&["-l", "calc", "--expires", "1000s", "-c", script]).run();
    attempt("echo ran").assert_code(0).assert_stdout("ran\n").assert_silent();
    attempt("exit 5").assert_code(5).assert_silent();
    attempt("kill -USR1 $$").assert_signal(libc::SIGUSR1).assert_silent();
}

#[test]
fn the_next_in_the_queue_gets_the_lock() {
    let sandbox = Sandbox::new();
    let holder = sandbox.lockrun(&["-l", "calc", "--expires", "0.3", "--", "sleep", "1000"]).start();
    eventually("it holds", || sandbox.lock_file("calc").exists());
    let next = sandbox.lockrun(&["-l", "calc", "--", "echo", "next"]).start();
    next.wait().assert_code(0).assert_stdout("next\n");
    holder.wait().assert_code(123);
}

#[test]
fn an_expired_command_ends_without_proc() {
    let sandbox = Sandbox::new();
    let script = format!("mount -t tmpfs none /proc; exec lockrun {} -- sleep 1000", SOON.join(" "));
    let Some(invocation) = with_mounts(&sandbox, &script) else {
        return;
    };
    invocation.run().assert_code(123).assert_stderr_has(&["expired"]);
}

#[test]
fn an_expired_command_ends_where_proc_shows_other_processes() {
    let sandbox = Sandbox::new();
    // A second pid namespace in the first, which shows the first one's /proc.
    let lockrun = [&["unshare", "--pid", "--fork", "--kill-child", "lockrun"], &SOON as &[&str]].concat();
    let command = [&lockrun as &[&str], &["--", "sleep", "1000"]].concat();
    let Some(invocation) = in_pid_namespace(&sandbox, &command) else {
        return;
    };
    invocation.run().assert_code(123).assert_stderr_has(&["expired"]);
}

/// A lockrun that may have no signals pending.
fn without_pending_signals(sandbox: &Sandbox, args: &[&str]) -> Invocation {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a live value.
    let limit = move || assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const none) }, 0);
    sandbox.lockrun(args).before_exec(limit)
}

/// A limit on pending signals is one on timers.
#[test]
fn without_a_timer_the_command_is_not_started() {
    let sandbox = Sandbox::new();
    let limited = without_pending_signals(&sandbox, &["-l", "calc", "--expires", "100", "--", "touch", "ran"]);
    limited.run().assert_code(125).assert_one_line(&["--expires", "timer"]);
    assert!(!sandbox.path("work/ran").exists());
}

/// The kernel does not tell then who sent a signal.
#[test]
fn our_own_signal_is_not_passed_on_to_the_command() {
    let sandbox = Sandbox::new();
    for _ in 0..10 {
        let holder = sandbox.hold(&["-l", "calc"]);
        let args = ["-v", "-l", "calc", "--", "sh", "-c", "sleep 0.05; exit 3"];
        let waiter = without_pending_signals(&sandbox, &args).start().until_waiting();
        holder.release();
        waiter.wait().assert_code(3);
    }
}
