//! `lockrun wait LOCK...`: returns once free, taking nothing.

use crate::support::{Sandbox, eventually};

#[test]
fn a_free_lock_is_not_waited_for() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["wait", "calc"]).run().assert_code(0).assert_silent().assert_stdout("");
    assert!(sandbox.files_in_locks().is_empty());
}

#[test]
fn it_returns_when_the_holder_lets_go() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut waiting = sandbox.lockrun(&["wait", "calc"]).start();
    eventually("it sleeps", || crate::support::status_field(waiting.pid(), "State").starts_with('S'));
    assert!(!waiting.has_ended());
    holder.release();
    waiting.wait().assert_code(0).assert_silent();
}

#[test]
fn it_waits_for_all_of_them() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/data", "");
    let holders = [sandbox.hold(&["-l", "one"]), sandbox.hold(&["-l", "two"]), sandbox.hold_by_flock(&[], &file)];
    let [first, second, third] = holders;
    let mut waiting = sandbox.lockrun(&["wait", "one", "two", "--file", "data"]).start();
    first.release();
    third.release();
    sandbox.lockrun(&["wait", "one", "--file", "data"]).run().assert_code(0);
    assert!(!waiting.has_ended());
    second.release();
    waiting.wait().assert_code(0);
}

#[test]
fn under_the_lock_itself_it_fails_at_once() {
    let sandbox = Sandbox::new();
    sandbox.write("work/data", "");
    let ways = [
        "-l calc -- lockrun wait calc",
        "-l calc -- lockrun wait free calc",
        "--file data -- lockrun wait --file data",
    ];
    for way in ways {
        let outcome = sandbox.sh(&format!("lockrun {way}")).run();
        outcome.assert_code(122).assert_one_line(&["would deadlock", "held by pid"]);
    }
    let _holder = sandbox.hold(&["-l", "another"]);
    let outcome = sandbox.sh("lockrun -l calc -- lockrun wait another calc").run();
    outcome.assert_code(122).assert_one_line(&["lockrun: calc: would deadlock"]);
    let script = "export LOCKRUN_TOKEN=$(lockrun acquire -l calc) && lockrun wait calc; echo $?; lockrun release";
    sandbox.sh(script).run().assert_code(0).assert_stdout("122\n");
}

/// `--replace` asks a holder to let go by a SIGTERM with this value. A look may
/// lock too, for a moment.
#[test]
fn a_request_to_let_go_does_not_end_it() {
    const REPLACE: u32 = u32::from_be_bytes(*b"lrRP");
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiting = sandbox.lockrun(&["wait", "calc"]).start();
    eventually("it sleeps", || crate::support::status_field(waiting.pid(), "State").starts_with('S'));
    let value = libc::sigval { sival_ptr: REPLACE as usize as *mut libc::c_void };
    assert_eq!(unsafe { libc::sigqueue(waiting.pid(), libc::SIGTERM, value) }, 0);
    holder.release();
    waiting.wait().assert_code(0).assert_silent();
}

#[test]
fn below_another_lock_it_waits() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut waiting = sandbox.lockrun(&["-l", "other", "--", "lockrun", "wait", "calc"]).start();
    eventually("it watches the holder", || !crate::support::children(waiting.pid()).is_empty());
    assert!(!waiting.has_ended());
    holder.release();
    waiting.wait().assert_code(0).assert_silent();
}

#[test]
fn it_gives_up_after_the_timeout() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let outcome = sandbox.lockrun(&["wait", "calc", "--timeout", "0.2"]).run();
    outcome.assert_code(124).assert_one_line(&["calc", "timed out after 200ms", "held by pid"]);
    assert!(outcome.took.as_millis() >= 200, "{outcome:?}");
    sandbox.lockrun(&["wait", "-t", "0", "calc"]).run().assert_code(124);
}

/// It is in no queue: others come and go as if it was not there.
#[test]
fn it_holds_nobody_up() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc", "--shared"]);
    let _waiting = [(); 5].map(|()| sandbox.lockrun(&["wait", "calc"]).start());
    for _ in 0..100 {
        sandbox.lockrun(&["-n", "-s", "-l", "calc", "--", "true"]).run().assert_code(0);
    }
    assert_eq!(sandbox.list(&["calc"])[0]["waiting"], 0);
    holder.release();
}

#[test]
fn a_process_that_inherited_the_lock_is_waited_for_too() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    let script = format!("(flock 9; sleep 1000 & echo $! >pid) 9>{}", sandbox.lock_file("calc").display());
    sandbox.sh(&script).run().assert_code(0);
    let mut waiting = sandbox.lockrun(&["wait", "calc"]).start();
    eventually("it sleeps", || crate::support::status_field(waiting.pid(), "State").starts_with('S'));
    assert!(!waiting.has_ended());
    sandbox.sh("kill $(cat pid)").run().assert_code(0);
    waiting.wait().assert_code(0);
}

#[test]
fn it_needs_a_lock() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["wait"]).run().assert_usage_error(&["which lock?"]);
}
