//! Locks on descriptors that several processes have: children, siblings, daemons. Which
//! of them is named, and which is ended.

use crate::support::{Running, SHELLS, Sandbox, children, eventually, is_alive, is_held};
use std::fs;

/// A script that opens `calc`, locks it and does `body`.
fn script(body: &str) -> String {
    format!("exec 9<>\"$(lockrun path calc)\" || exit; lockrun acquire --fd 9 || exit; {body}")
}

#[track_caller]
fn start(sandbox: &Sandbox, body: &str) -> Running {
    sandbox.command("bash", &["-c", &script(body)]).input("").start().until_says("holding")
}

/// The pids that a script wrote.
fn pids(sandbox: &Sandbox) -> Vec<i32> {
    let text = fs::read_to_string(sandbox.path("work/pids")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// What `list` says about the only holder.
#[track_caller]
fn holder(sandbox: &Sandbox) -> serde_json::Value {
    let seen = sandbox.list(&["calc"]);
    assert_eq!(seen[0]["holders"].as_array().unwrap().len(), 1, "{seen:?}");
    seen[0]["holders"][0].clone()
}

#[track_caller]
fn assert_held(sandbox: &Sandbox) {
    assert!(is_held(&sandbox.lock_file("calc")));
}

/// A process that has inherited the descriptor, and is nobody's child any more.
const DAEMON: &str = "(setsid sh -c 'echo $$ >>pids; exec sleep 1000' </dev/null >/dev/null 2>&1 &)
    until [ -s pids ]; do sleep 0.01; done;";

fn end_daemon(sandbox: &Sandbox) {
    // SAFETY: kill has no memory effects; the daemon is the test's own.
    unsafe { libc::kill(pids(sandbox)[0], libc::SIGKILL) };
    eventually("it is free without the daemon", || !is_held(&sandbox.lock_file("calc")));
}

#[test]
fn subshells_and_children_have_it_and_may_ask_again() {
    for shell in SHELLS {
        let sandbox = Sandbox::new();
        let text = shell.with_descriptor(
            "lockrun acquire --fd 9 -n || exit
            lockrun acquire --fd 9 -n || exit
            ( lockrun acquire --fd 9 -n || exit; lockrun check --fd 9 ) || exit
            sh -c 'lockrun acquire --fd 9 -n && lockrun check --fd 9' || exit
            flock -n \"$LOCKRUN_DIR/calc.lock\" true; echo $?
            lockrun release --fd 9 || exit
            flock -n \"$LOCKRUN_DIR/calc.lock\" true; echo $?",
        );
        let outcome = sandbox.shell(shell, &text).run();
        outcome.assert_code(0).assert_silent().assert_stdout("1\n0\n");
    }
}

/// Both would run at once: they have the description from one open.
#[test]
fn of_siblings_on_one_description_only_one_gets_it() {
    let sandbox = Sandbox::new();
    let text = "exec 9<>\"$(lockrun path calc)\" || exit
        sibling() { lockrun acquire --fd 9 2>err.$1 || { echo $?; exit; }; echo 0; until [ -e done ]; do sleep 0.01; done; }
        for i in 1 2 3 4 5; do (sibling $i) & done; cat; >done; wait";
    let siblings = sandbox.command("bash", &["-c", text]).input("").start();
    eventually("all have told", || siblings.stdout().lines().count() == 5);
    let told = siblings.stdout();
    let mut codes: Vec<_> = told.lines().collect();
    codes.sort_unstable();
    assert_eq!(codes, ["0", "125", "125", "125", "125"]);
    let line = (1..6).map(|i| fs::read_to_string(sandbox.path(&format!("work/err.{i}"))).unwrap());
    let told = line.filter(|line| !line.is_empty()).collect::<Vec<_>>();
    assert!(
        told.iter().all(|line| line.contains("9 is shared with pid") && line.contains("open the file again")),
        "{told:?}"
    );
    siblings.wait().assert_code(0);
}

/// Also if they wait for somebody else at the same time.
#[test]
fn of_waiting_siblings_on_one_description_only_one_gets_it() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let text = "exec 9<>\"$(lockrun path calc)\" || exit
        sibling() { lockrun acquire --fd 9 2>>err || { echo $?; exit; }; echo 0; until [ -e done ]; do sleep 0.01; done; }
        for i in 1 2 3; do (sibling) & done; cat; >done; wait";
    let siblings = sandbox.command("bash", &["-c", text]).input("").start();
    let waiting = || {
        let subshells = children(siblings.pid());
        subshells.iter().filter(|pid| crate::support::sleeps_in_a_lock_call(**pid)).count()
    };
    eventually("three wait", || waiting() == 3);
    holder.release();
    eventually("all have told", || siblings.stdout().lines().count() == 3);
    let told = siblings.stdout();
    let mut codes: Vec<_> = told.lines().collect();
    codes.sort_unstable();
    assert_eq!(codes, ["0", "125", "125"]);
    siblings.wait().assert_code(0);
}

#[test]
fn when_a_sibling_has_ended_its_lock_passes_to_the_script() {
    let sandbox = Sandbox::new();
    let text = "exec 9<>\"$(lockrun path calc)\" || exit
        (lockrun acquire --fd 9; true); lockrun acquire --fd 9 -n && lockrun check --fd 9 && echo mine";
    sandbox.command("bash", &["-c", text]).run().assert_code(0).assert_silent().assert_stdout("mine\n");
    // And what flock(1) took is anybody's who has it.
    let text = "exec 9<>\"$(lockrun path calc)\" || exit; flock 9; lockrun acquire --fd 9 -n && echo mine";
    sandbox.sh(text).run().assert_code(0).assert_silent().assert_stdout("mine\n");
}

#[test]
fn check_tells_a_sibling_who_holds_the_lock() {
    let sandbox = Sandbox::new();
    let text = "exec 9<>\"$(lockrun path calc)\" || exit
        (lockrun acquire --fd 9; >locked; until [ -e done ]; do sleep 0.01; done) &
        until [ -e locked ]; do sleep 0.01; done; lockrun check --fd 9; echo $?; >done; wait";
    let outcome = sandbox.command("bash", &["-c", text]).run();
    outcome.assert_stdout("123\n").assert_one_line(&["calc", "locked by pid", "shares it"]);
}

/// As flock(1) does; nobody gets it between the two at the head of a queue.
#[test]
fn a_shared_lock_is_given_up_before_an_exclusive_one_is_waited_for() {
    let sandbox = Sandbox::new();
    let text = "exec 9<>\"$(lockrun path calc)\" || exit
        lockrun acquire --fd 9 -s && lockrun acquire --fd 9 -n && flock -n -s \"$LOCKRUN_DIR/calc.lock\" true; echo $?
        lockrun acquire --fd 9 -s -n || exit; flock -n -s \"$LOCKRUN_DIR/calc.lock\" true; echo $?";
    sandbox.sh(text).run().assert_code(0).assert_silent().assert_stdout("1\n1\n");
    let reader = sandbox.hold(&["-s", "-l", "calc"]);
    let text = "exec 9<>\"$(lockrun path calc)\" || exit
        lockrun acquire --fd 9 -s || exit; lockrun acquire -q --fd 9 -n; echo $?; lockrun check --fd 9 2>&-; echo $?";
    sandbox.sh(text).run().assert_stdout("75\n123\n");
    reader.release();
}

#[test]
fn the_record_names_script_time_and_fencing_token() {
    for shell in SHELLS {
        let sandbox = Sandbox::new();
        let text = shell.with_descriptor("lockrun acquire --fd 9 || exit; echo holding; cat");
        let script = sandbox.shell(shell, &text).input("").start().until_says("holding");
        let seen = holder(&sandbox);
        let pid = seen["pid"].as_i64().unwrap() as i32;
        // Where there is a subshell, it is that.
        assert!(pid == script.pid() || children(script.pid()).contains(&pid), "{shell:?} {seen}");
        assert!(seen["command"].as_str().unwrap().contains("lockrun acquire --fd 9"), "{seen}");
        assert!(seen["fence"].as_u64().unwrap() > 0 && seen["since"].is_string(), "{seen}");
        let pid = pid.to_string();
        sandbox.lockrun(&["status", "calc"]).run().assert_code(1);
        let waiter = sandbox.lockrun(&["wait", "calc", "-t", "0.01"]).run();
        waiter.assert_code(124).assert_one_line(&["calc", &format!("held by pid {pid} (")]);
        let waiter = sandbox.lockrun(&["wait", "calc"]).start();
        script.wait().assert_code(0);
        waiter.wait().assert_code(0);
        sandbox.lockrun(&["status", "calc"]).run().assert_code(0);
    }
}

#[test]
fn a_script_killed_with_sigkill_leaves_the_lock_to_its_child() {
    let sandbox = Sandbox::new();
    let script = start(&sandbox, "sh -c 'echo $$ >pids; echo holding; exec sleep 1000'; true");
    script.signal(libc::SIGKILL);
    script.wait().assert_signal(libc::SIGKILL);
    assert_held(&sandbox);
    let child = pids(&sandbox)[0];
    let seen = holder(&sandbox);
    assert_eq!((seen["pid"].as_i64(), seen["command"].as_str()), (Some(child.into()), Some("sleep 1000")));
    let attempt = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    attempt.assert_code(75).assert_one_line(&[&format!("held by pid {child} (sleep 1000)")]);
    end_daemon(&sandbox);
}

#[test]
fn release_takes_the_lock_from_a_daemon_that_inherited_it() {
    let sandbox = Sandbox::new();
    let script = start(&sandbox, &format!("{DAEMON} lockrun release --fd 9 || exit; echo holding; cat"));
    assert!(!is_held(&sandbox.lock_file("calc")));
    script.wait().assert_code(0).assert_silent();
    assert!(is_alive(pids(&sandbox)[0]));
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
    end_daemon(&sandbox);
}

#[test]
fn a_daemon_that_keeps_the_descriptor_keeps_the_lock_and_is_named() {
    let sandbox = Sandbox::new();
    let script = start(&sandbox, &format!("{DAEMON} echo holding; cat"));
    assert_eq!(holder(&sandbox)["pid"].as_i64(), Some(script.pid().into()));
    script.wait().assert_code(0);
    assert_held(&sandbox);
    assert_eq!(holder(&sandbox)["pid"].as_i64(), Some(pids(&sandbox)[0].into()));
    end_daemon(&sandbox);
}

/// flock(1) on the same descriptor makes the record one of the past.
#[test]
fn a_record_is_believed_only_about_its_own_lock() {
    let sandbox = Sandbox::new();
    let script = start(&sandbox, "flock -u 9; flock 9; echo holding; cat");
    let seen = holder(&sandbox);
    assert_eq!((seen["pid"].as_i64(), seen["since"].as_str()), (Some(script.pid().into()), None));
    script.wait().assert_code(0);
}

#[test]
fn break_ends_the_script_and_what_it_started() {
    let sandbox = Sandbox::new();
    let body = "sleep 1000 & echo $! >>pids; sh -c 'sleep 1000 9<&- & echo $! >>pids; wait' &
        until [ $(wc -l <pids) = 2 ]; do sleep 0.01; done; echo holding; cat; echo went on";
    let script = start(&sandbox, body);
    sandbox.lockrun(&["break", "calc"]).run().assert_code(0).assert_silent();
    assert!(!is_held(&sandbox.lock_file("calc")));
    script.wait().assert_signal(libc::SIGTERM).assert_stdout("holding\n");
    eventually("all have ended", || !pids(&sandbox).iter().any(|pid| is_alive(*pid)));
}

#[test]
fn break_kills_a_script_that_does_not_end() {
    let sandbox = Sandbox::new();
    let script = start(&sandbox, "trap '' TERM; echo holding; while :; do sleep 0.01; done");
    sandbox.lockrun(&["break", "calc", "--kill-after", "0.1"]).run().assert_code(0).assert_silent();
    assert!(!is_held(&sandbox.lock_file("calc")));
    script.wait().assert_signal(libc::SIGKILL);
}

/// A tmux server with all its sessions, for example.
#[test]
fn break_never_ends_a_process_that_only_inherited_the_lock() {
    let sandbox = Sandbox::new();
    let script = start(&sandbox, &format!("{DAEMON} echo holding; cat"));
    let daemon = pids(&sandbox)[0];
    let words = ["calc", &format!("pid {daemon} (sleep 1000) has inherited it"), "not signalled"];
    // The script ends, its heir does not.
    let broken = sandbox.lockrun(&["break", "calc"]).run();
    broken.assert_code(125).assert_one_line(&[&words[..], &["the script that locked it was ended"]].concat());
    script.wait().assert_signal(libc::SIGTERM);
    for _ in 0..2 {
        let again = sandbox.lockrun(&["break", "calc"]).run();
        again.assert_code(125).assert_one_line(&[&words[..], &["the script that locked it has ended"]].concat());
        let replacer = sandbox.lockrun(&["--replace", "-l", "calc", "--", "echo", "in"]).run();
        replacer.assert_code(125).assert_stdout("").assert_one_line(&words[1..]);
        assert!(is_alive(daemon));
    }
    assert_held(&sandbox);
    end_daemon(&sandbox);
}

/// flock(1) in a script: who did it has ended, and there is no record.
#[test]
fn break_never_ends_a_script_whose_descriptor_flock_locked() {
    let sandbox = Sandbox::new();
    let text = "exec 9<>\"$(lockrun path calc)\" || exit; flock 9; echo holding; cat";
    let script = sandbox.sh(text).input("").start().until_says("holding");
    let words = ["calc", &format!("pid {} (", script.pid()), "has inherited it", "not signalled"];
    sandbox.lockrun(&["break", "calc"]).run().assert_code(125).assert_one_line(&words);
    sandbox.lockrun(&["--replace", "-l", "calc", "--", "true"]).run().assert_code(125).assert_one_line(&words);
    script.wait().assert_code(0).assert_silent();
}

#[test]
fn replace_ends_the_script_and_takes_its_place() {
    let sandbox = Sandbox::new();
    let script = start(&sandbox, "echo holding; cat");
    sandbox.lockrun(&["--replace", "-l", "calc", "--", "echo", "in"]).run().assert_code(0).assert_stdout("in\n");
    script.wait().assert_signal(libc::SIGTERM);
    // And a script does so with a command.
    let holder = sandbox.hold(&["-l", "calc"]);
    let text = "exec 9<>\"$(lockrun path calc)\" || exit; lockrun acquire --fd 9 --replace && lockrun check --fd 9";
    sandbox.sh(text).run().assert_code(0).assert_silent();
    holder.release().assert_code(123).assert_stderr_has(&["replaced by pid"]);
}

#[test]
fn a_script_that_waits_with_replace_is_replaced_by_a_newer_one() {
    let sandbox = Sandbox::new();
    let holder = sandbox.lockrun(&["-l", "calc", "--kill-after", "1000", "-c", "trap '' TERM; echo holding; cat"]);
    let holder = holder.input("").start().until_says("holding");
    let text = "exec 9<>\"$(lockrun path calc)\" || exit; lockrun acquire --fd 9 --replace; echo $?; lockrun check --fd 9; echo $?";
    let older = sandbox.sh(text).start().until_waiting();
    let newer = sandbox.lockrun(&["--replace", "-l", "calc", "--", "echo", "in"]).start();
    older.wait().assert_stdout("123\n123\n").assert_stderr_has(&["replaced while waiting, by pid"]);
    holder.wait();
    newer.wait().assert_code(0).assert_stdout("in\n");
}

#[test]
fn reentrant_runs_at_once_below_a_lockrun_that_holds_it() {
    let sandbox = Sandbox::new();
    let text = "exec 9<>\"$(lockrun path calc)\" || exit; lockrun acquire --fd 9 OPTION; echo $?";
    let below = |option: &str| sandbox.lockrun(&["-l", "calc", "-c", &text.replace("OPTION", option)]).run();
    below("").assert_stdout("122\n").assert_one_line(&["calc", "would deadlock"]);
    below("--reentrant").assert_stdout("0\n").assert_silent();
}

/// Below a script that holds it by a descriptor.
#[test]
fn a_call_below_the_script_fails_instead_of_waiting_for_itself() {
    let sandbox = Sandbox::new();
    let run = |call: &str| sandbox.sh(&script(&format!("{call}; echo $?"))).run();
    run("lockrun -l calc -- true").assert_stdout("122\n").assert_one_line(&["calc", "would deadlock"]);
    run("env -i \"PATH=$PATH\" \"LOCKRUN_DIR=$LOCKRUN_DIR\" lockrun -l calc -- true").assert_stdout("122\n");
    run("lockrun -l calc --reentrant -- echo in").assert_stdout("in\n0\n").assert_silent();
    // It may unlock half way.
    run("lockrun -l calc -t 0.01 -- true").assert_stdout("124\n");
    let own = "exec 8<>\"$LOCKRUN_DIR/calc.lock\"; lockrun acquire --fd 8";
    run(own).assert_stdout("122\n").assert_one_line(&["calc", "would deadlock"]);
}
