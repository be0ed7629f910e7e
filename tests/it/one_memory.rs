//! Who waits lives in the memory of the lockrun that watches it, and only one
//! of the two is awake at once. Neither may hold the other one up for long.

use std::fs;
use std::thread;

use crate::support::{Sandbox, children, eventually, status_field};

#[test]
fn one_that_is_stopped_does_not_hold_up_its_command() {
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
fn one_that_cannot_write_holds_up_neither_its_command_nor_the_next() {
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

/// Awake again and again, while it is their turn.
#[test]
fn those_that_get_signals_all_the_time_all_get_their_turns() {
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
                // SAFETY: kill has no memory effects; these signals do nothing
                // to whoever gets them, should the id be a stranger's by now.
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
