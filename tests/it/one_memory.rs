//! A waiter lives in the memory of the lockrun that watches it, and only one of the two
//! runs at a time. Neither may hold up the other for long.

use std::fs;
use std::thread;

use crate::support::{Interruption, Outcome, Sandbox, children, eventually, interrupt, status_field};

#[test]
fn a_stopped_lockrun_does_not_hold_up_its_command() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-l", "calc", "--", "echo", "ran"]).start().until_waiting();
    waiter.signal(libc::SIGSTOP);
    holder.release();
    eventually("the command runs", || waiter.stdout() == "ran\n");
    waiter.signal(libc::SIGCONT);
    waiter.wait().assert_code(0).assert_silent();
}

/// After a minute it wants to say that it waits, where nobody reads.
#[test]
fn a_lockrun_that_cannot_write_holds_up_neither_its_command_nor_the_next() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let _full = sandbox.full_pipe("full");
    let waiter = sandbox.sh("exec lockrun -l calc -- true 2>full").start().until_waiting();
    let sleeps = || status_field(waiter.pid(), "voluntary_ctxt_switches");
    let before = sleeps();
    eventually("it wakes, with nothing to do but to say so", || sleeps() != before);
    holder.release();
    waiter.wait().assert_code(0);
}

/// Signals wake them again and again during their turn.
#[test]
fn waiters_under_constant_signals_all_get_their_turns() {
    const LOOPS: usize = 6;
    const TURNS: usize = 40;
    let sandbox = Sandbox::new();
    sandbox.write("work/count", "0\n");
    let turn = "read count <count; echo $((count + 1)) >count";
    let script = format!("for i in $(seq {TURNS}); do lockrun -l calc -c '{turn}' || exit 1; done");
    let mut loops: Vec<_> = (0..LOOPS).map(|_| sandbox.sh(&script).start()).collect();
    let pids: Vec<_> = loops.iter().map(|each| each.pid()).collect();
    thread::scope(|scope| {
        let ended =
            scope.spawn(|| eventually("all have had their turns", || loops.iter_mut().all(|each| each.has_ended())));
        while !ended.is_finished() {
            for lockrun in pids.iter().flat_map(|pid| children(*pid)) {
                // SAFETY: kill has no memory effects; the default of
                // these signals is harmless, should the id have been reused.
                for signal in [libc::SIGWINCH, libc::SIGURG, libc::SIGCONT] {
                    unsafe { libc::kill(lockrun, signal) };
                }
            }
        }
    });
    for each in loops {
        each.wait().assert_code(0).assert_silent();
    }
    let count = fs::read_to_string(sandbox.path("work/count")).unwrap();
    assert_eq!(count, format!("{}\n", LOOPS * TURNS));
}

/// In one memory with its parent, or not.
const WAYS: [&[&str]; 3] = [&[], &["-s"], &["--slots", "2"]];

/// The process that waits hangs before each of its system calls in turn, until
/// it executes the command.
fn hang_everywhere(options: &[&str], signal: Option<i32>, release: bool, check: impl Fn(&Outcome)) {
    for nth in 1.. {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&["-l", "calc"]);
        let lockrun = sandbox.lockrun(&[options, &["-l", "calc", "--", "echo", "ran"]].concat());
        let all_sleep = || {
            if release {
                holder.close_stdin();
            }
        };
        let (running, interrupted) = interrupt(lockrun, 1, nth, Interruption::Hang { signal }, all_sleep);
        let outcome = running.wait();
        if !interrupted {
            assert!(nth > 5, "it made only {nth} calls");
            assert_eq!(outcome.stdout, if release { "ran\n" } else { "" });
            return;
        }
        check(&outcome);
        assert_eq!(outcome.stdout, "");
        holder.release().assert_code(0);
        sandbox.assert_free("calc");
    }
}

#[test]
fn a_child_that_hangs_at_any_system_call_keeps_nobody_from_ending_lockrun() {
    hang_everywhere(&[], Some(libc::SIGTERM), true, |outcome| {
        assert_eq!(outcome.signal, Some(libc::SIGTERM), "{outcome:?}");
    });
}

#[test]
fn a_child_that_hangs_at_any_system_call_keeps_nobody_waiting_longer_than_the_timeout() {
    for options in WAYS {
        let options = [options, &["-t", "0.3"]].concat();
        hang_everywhere(&options, None, false, |outcome| {
            assert_eq!(outcome.code, Some(124), "{options:?}: {outcome:?}");
        });
    }
}

/// Stopped where the grant is recorded.
#[test]
fn a_child_that_is_stopped_when_the_lock_is_granted_keeps_nobody_from_ending_lockrun() {
    for options in WAYS {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let stop = ["-f", "-qq", "-o", "trace", "-e", "inject=pwrite64:signal=STOP", "lockrun", "-l", "calc"];
        let traced = sandbox.command("strace", &[&stop, options, &["--", "echo", "ran"]].concat()).start();
        let traced = traced.until_waiting();
        holder.release();
        let trace = sandbox.path("work/trace");
        eventually("the grant is recorded", || fs::read_to_string(&trace).unwrap().contains(" pwrite64("));
        let lockrun = children(traced.pid())[0];
        // SAFETY: kill has no memory effects; strace has not waited for it.
        unsafe { libc::kill(lockrun, libc::SIGTERM) };
        let outcome = traced.wait();
        assert_eq!((outcome.signal, outcome.stdout.as_str()), (Some(libc::SIGTERM), ""), "{options:?}: {outcome:?}");
        sandbox.assert_free("calc");
    }
}

/// Some sandboxes refuse a child that shares our memory.
#[test]
fn where_clone_is_refused_the_child_is_forked() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let refused = ["-f", "-o", "trace", "-e", "trace=clone", "-e", "inject=clone:error=EPERM:when=1"];
    let lockrun = ["lockrun", "-l", "calc", "--", "echo", "ran"];
    let waiter = sandbox.command("strace", &[&refused[..], &lockrun].concat()).start().until_waiting();
    let trace = fs::read_to_string(sandbox.path("work/trace")).unwrap();
    assert!(trace.contains("CLONE_VM") && trace.contains("EPERM"), "{trace}");
    holder.release();
    waiter.wait().assert_code(0).assert_stdout("ran\n");
}
