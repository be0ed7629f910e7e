//! How long a lock is held: as long as COMMAND lives, whichever process is killed.

use crate::support::{Running, Sandbox, children, eventually, in_pid_namespace, is_alive, is_held};

/// Shell text that leaves a daemon with every descriptor it inherited, and says
/// its pid.
const LEAVE_A_DAEMON: &str = "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 0";

fn number_in(text: &str) -> i32 {
    text.trim().parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// A lockrun that is seen to wait for `calc`, and the process that sleeps for it.
fn waiter(sandbox: &Sandbox) -> (Running, i32) {
    let waiter = sandbox.lockrun(&["-l", "calc", "--", "touch", "ran"]).start().until_waiting();
    let [child] = children(waiter.pid())[..] else {
        panic!("not one child: {waiter:?}");
    };
    (waiter, child)
}

#[test]
fn a_daemon_that_the_command_leaves_does_not_keep_the_lock() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["-l", "calc", "-c", LEAVE_A_DAEMON]).run();
    outcome.assert_code(0).assert_silent();
    assert!(!is_held(&sandbox.lock_file("calc")));
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn a_daemon_does_not_keep_the_lock_after_a_wait_either() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-l", "calc", "-c", LEAVE_A_DAEMON]).start().until_waiting();
    holder.release();
    waiter.wait().assert_code(0).assert_silent();
    assert!(!is_held(&sandbox.lock_file("calc")));
}

#[test]
fn a_daemon_keeps_the_lock_with_hold_tree() {
    let sandbox = Sandbox::new();
    let holder = sandbox.lockrun(&["-l", "calc", "--hold", "tree", "-c", LEAVE_A_DAEMON]).start().until_says("\n");
    let daemon = number_in(&holder.stdout());
    eventually("the command has ended", || children(holder.pid()) == [daemon]);
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    sandbox.sh(&format!("kill {daemon}")).run().assert_code(0);
    holder.wait().assert_code(0).assert_silent();
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn with_hold_tree_signals_reach_what_the_command_left() {
    let sandbox = Sandbox::new();
    let script = format!("{LEAVE_A_DAEMON}; exit 4").replace("exec sleep 0", "true");
    let holder = sandbox.lockrun(&["-l", "calc", "--hold", "tree", "-c", &script]).start().until_says("\n");
    let daemon = number_in(&holder.stdout());
    eventually("the command has ended", || children(holder.pid()) == [daemon]);
    holder.signal(libc::SIGTERM);
    holder.wait().assert_code(4).assert_silent();
    assert!(!is_alive(daemon));
}

#[test]
fn when_lockrun_is_killed_the_lock_stays_until_the_command_ends() {
    let sandbox = Sandbox::new();
    for after_a_wait in [false, true] {
        let before = after_a_wait.then(|| sandbox.hold(&["-l", "calc"]));
        let script = "echo $$ >pid; read line <fifo; echo >ended";
        sandbox.sh("rm -f pid ended fifo; mkfifo fifo").run().assert_code(0);
        let mut holder = sandbox.lockrun(&["-l", "calc", "-c", script]).start();
        if let Some(before) = before {
            holder = holder.until_waiting();
            before.release();
        }
        eventually("the command runs", || sandbox.path("work/pid").exists());
        let next = sandbox.lockrun(&["-l", "calc", "--", "test", "-e", "ended"]).start().until_waiting();
        holder.signal(libc::SIGKILL);
        holder.wait().assert_signal(libc::SIGKILL);
        sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
        assert!(next.is_waiting());
        sandbox.sh("echo >fifo").run().assert_code(0);
        next.wait().assert_code(0);
    }
}

#[test]
fn when_a_waiter_is_killed_nothing_is_left_and_the_queue_goes_on() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let (waiter, child) = waiter(&sandbox);
    let next = sandbox.lockrun(&["-l", "calc", "--", "echo", "next"]).start().until_waiting();
    waiter.signal(libc::SIGKILL);
    waiter.wait().assert_signal(libc::SIGKILL).assert_silent();
    eventually("the process that slept is gone", || !is_alive(child));
    holder.release();
    next.wait().assert_code(0).assert_stdout("next\n");
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn when_the_waiting_child_is_killed_lockrun_fails_and_the_queue_goes_on() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let (waiter, child) = waiter(&sandbox);
    let next = sandbox.lockrun(&["-l", "calc", "--", "echo", "next"]).start().until_waiting();
    sandbox.sh(&format!("kill -KILL {child}")).run().assert_code(0);
    waiter.wait().assert_code(125).assert_one_line(&["not started"]);
    holder.release();
    next.wait().assert_code(0).assert_stdout("next\n");
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn no_zombie_is_left_while_the_command_runs() {
    let sandbox = Sandbox::new();
    let script = "for i in 1 2 3; do (setsid true & echo) >/dev/null; done; echo ready; exec cat";
    let holder = sandbox.lockrun(&["-l", "calc", "-c", script]).input("").start().until_says("ready");
    let command = children(holder.pid())[0];
    eventually("only the command is left", || children(holder.pid()) == [command]);
    holder.wait().assert_code(0).assert_silent();
}

#[test]
fn a_child_that_existed_before_is_not_taken_for_the_command() {
    let sandbox = Sandbox::new();
    let script = "sh -c 'exit 9' & exec lockrun -l calc -c 'echo ready; read line; exit 5'";
    let holder = sandbox.sh(script).input("").start().until_says("ready");
    let earlier_ended = || children(holder.pid()).len() == 1;
    eventually("the earlier child is reaped", earlier_ended);
    holder.wait().assert_code(5).assert_silent();
}

#[test]
fn a_waiting_child_in_another_pid_namespace_knows_that_lockrun_lives() {
    let sandbox = Sandbox::new();
    // Without --fork, unshare(1) itself stays outside: lockrun's child is the
    // first process of the namespace, and sees no parent.
    let Some(invocation) =
        in_pid_namespace(&sandbox, &["unshare", "--pid", "lockrun", "-l", "calc", "--", "echo", "ran"])
    else {
        return;
    };
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = invocation.start().until_waiting();
    holder.release();
    waiter.wait().assert_code(0).assert_stdout("ran\n");
}
