//! `lockrun break`: the holder lets go.

use crate::support::{
    Form, Running, Sandbox, children, eventually, in_pid_namespace, is_alive, is_held, may_act_as_root, status_field,
};
use std::fs;

/// Breaks `calc`, with these words; it is free afterwards.
#[track_caller]
fn break_it(sandbox: &Sandbox, words: &[&str]) -> i32 {
    let breaker = sandbox.lockrun(&[&["break"], words].concat()).start();
    let pid = breaker.pid();
    breaker.wait().assert_code(0).assert_silent().assert_stdout("");
    assert!(!is_held(&sandbox.lock_file("calc")));
    pid
}

/// A lockrun that holds `calc` and runs this script, which says `holding`.
#[track_caller]
fn holder(sandbox: &Sandbox, options: &[&str], script: &str) -> Running {
    sandbox.lockrun(&[options, &["-l", "calc", "-c", script]].concat()).input("").start().until_says("holding")
}

/// The pids that a command wrote before it said `holding`.
fn pids(sandbox: &Sandbox) -> Vec<i32> {
    let text = fs::read_to_string(sandbox.path("work/pids")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Stops a process that a test started, or one of its children.
#[track_caller]
fn stop(pid: i32) {
    // SAFETY: kill has no memory effects; who is ours has not been waited for.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    eventually("it is stopped", || status_field(pid, "State").starts_with('T'));
}

#[test]
fn a_command_ends_with_all_that_it_started() {
    let sandbox = Sandbox::new();
    let script = "echo $$ >>pids
        sleep 1000 & echo $! >>pids
        setsid sh -c 'echo $$ >>pids; exec sleep 1000' </dev/null >/dev/null 2>&1 &
        (setsid sh -c 'echo $$ >>pids; exec env - sleep 1000' &)
        until [ $(wc -l <pids) = 4 ]; do :; done
        echo holding; wait; exec sleep 1000";
    let holder = holder(&sandbox, &[], script);
    let by = break_it(&sandbox, &["calc"]);
    assert!(!pids(&sandbox).iter().any(|pid| is_alive(*pid)));
    let by = format!("broken by pid {by}");
    holder.wait().assert_code(123).assert_one_line(&["calc", &by, "all it started", "TERM"]);
}

#[test]
fn a_command_that_ignores_term_is_killed_after_kill_after() {
    let script = "trap '' TERM; echo holding; while :; do sleep 0.01; done";
    let sandbox = Sandbox::new();
    // The holder's own patience does not count.
    let holder = holder(&sandbox, &["--kill-after", "1000"], script);
    break_it(&sandbox, &["calc", "--kill-after", "0.1"]);
    holder.wait().assert_code(123).assert_one_line(&["broken by pid", "KILL"]);
}

#[test]
fn a_command_run_with_exec_that_ignores_term_is_killed() {
    let sandbox = Sandbox::new();
    // Nobody else has the lock's descriptor for a moment longer.
    let holder = holder(&sandbox, &["--exec"], "trap '' TERM; echo holding; exec cat");
    break_it(&sandbox, &["--kill-after", "0.1", "calc"]);
    holder.wait().assert_signal(libc::SIGKILL);
}

#[test]
fn a_stopped_command_ends() {
    let sandbox = Sandbox::new();
    let holder = holder(&sandbox, &[], "echo holding; exec sleep 1000");
    children(holder.pid()).into_iter().for_each(stop);
    break_it(&sandbox, &["calc"]);
    holder.wait().assert_code(123).assert_one_line(&["broken by pid", "TERM"]);
}

#[test]
fn a_command_whose_lockrun_is_stopped_ends() {
    let sandbox = Sandbox::new();
    let holder = holder(&sandbox, &[], "echo holding; exec sleep 1000");
    stop(holder.pid());
    break_it(&sandbox, &["calc"]);
    holder.wait().assert_code(123).assert_one_line(&["broken by pid", "TERM"]);
}

#[test]
fn a_command_run_with_exec_ends_with_all_that_it_started() {
    let sandbox = Sandbox::new();
    let holder = holder(&sandbox, &["--exec"], "sleep 1000 & echo $! >>pids; echo holding; wait");
    break_it(&sandbox, &["calc"]);
    holder.wait().assert_signal(libc::SIGTERM);
    assert!(!is_alive(pids(&sandbox)[0]));
}

/// Its command has inherited the lock.
#[test]
fn a_command_whose_lockrun_was_killed_ends() {
    let sandbox = Sandbox::new();
    let holder = holder(&sandbox, &[], "echo $$ >>pids; echo holding; exec sleep 1000");
    holder.signal(libc::SIGKILL);
    holder.wait().assert_signal(libc::SIGKILL);
    assert!(is_held(&sandbox.lock_file("calc")));
    break_it(&sandbox, &["calc"]);
    assert!(!is_alive(pids(&sandbox)[0]));
}

#[test]
fn flock_and_python_get_term() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let file = sandbox.lock_file("calc");
    let flock = sandbox.hold_by_flock(&[], &file);
    break_it(&sandbox, &["calc"]);
    flock.release().assert_signal(libc::SIGTERM);
    let python = sandbox.hold_by_python(&file);
    break_it(&sandbox, &["calc"]);
    python.release().assert_signal(libc::SIGTERM);
}

#[test]
fn commands_of_a_broken_token_say_who_broke_it() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let by = break_it(&sandbox, &["calc"]);
    let words = ["calc", "lost", &format!("broken by pid {by}"), "not protected to the end"];
    for command in ["check", "renew", "release"] {
        sandbox.lockrun(&[command, &token]).run().assert_code(123).assert_one_line(&words);
    }
}

#[test]
fn every_holder_of_a_pool_lets_go() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holders = [(); 3].map(|()| form.hold(&sandbox, &["-l", "calc", "--slots", "4"]));
        break_it(&sandbox, &["calc"]);
        for holder in holders {
            match form {
                Form::Run => holder.end(),
                Form::Acquire => holder.release(),
            }
            .assert_code(123)
            .assert_stderr_has(&["broken by pid"]);
        }
    }
}

/// Each kind of holder in its own way, not one way for all.
#[test]
fn every_shared_holder_lets_go() {
    let sandbox = Sandbox::new();
    let run = Form::Run.hold(&sandbox, &["-l", "calc", "-s"]);
    let token = Form::Acquire.hold(&sandbox, &["-l", "calc", "-s"]);
    let exec = holder(&sandbox, &["-s", "--exec"], "echo holding; exec sleep 1000");
    let flock = sandbox.hold_by_flock(&["-s"], &sandbox.lock_file("calc"));
    break_it(&sandbox, &["calc", "--kill-after", "1000"]);
    run.end().assert_code(123).assert_one_line(&["broken by pid"]);
    token.release().assert_code(123).assert_one_line(&["lost"]);
    exec.wait().assert_signal(libc::SIGTERM);
    flock.release().assert_signal(libc::SIGTERM);
}

#[test]
fn a_set_that_holds_it_lets_go_of_all_its_locks() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let set = form.hold(&sandbox, &["-l", "calc", "-l", "other"]);
        break_it(&sandbox, &["calc"]);
        assert!(!is_held(&sandbox.lock_file("other")));
        match form {
            Form::Run => set.end(),
            Form::Acquire => set.release(),
        }
        .assert_code(123)
        .assert_one_line(&["calc, other", "broken by pid"]);
    }
}

/// It has one lock and waits for the other one.
#[test]
fn a_set_that_still_waits_lets_go_too() {
    let run: &[&str] = &["--", "echo", "ran"];
    let exec: &[&str] = &["--exec", "--", "echo", "ran"];
    let acquire: &[&str] = &["--expires", "100"];
    for (subcommand, rest) in [(None, run), (None, exec), (Some("acquire"), acquire)] {
        let sandbox = Sandbox::new();
        let [first, last] = sandbox.in_order(["a", "b"]);
        let _holder = sandbox.hold(&["-l", last]);
        let words = [subcommand.as_slice(), &["-l", first, "-l", last], rest].concat();
        let set = sandbox.lockrun(&words).start().until_waiting();
        assert!(is_held(&sandbox.lock_file(first)));
        sandbox.lockrun(&["break", first]).run().assert_code(0).assert_silent();
        assert!(!is_held(&sandbox.lock_file(first)));
        set.wait().assert_code(123).assert_stdout("").assert_one_line(&["broken while waiting", "was not started"]);
    }
}

#[test]
fn the_next_waiter_gets_the_lock_and_keeps_it() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = holder(&sandbox, &[], "echo holding; exec sleep 1000");
        let waiter = form.ask(&sandbox, &["-l", "calc"]).until_waiting();
        sandbox.lockrun(&["break", "calc"]).run().assert_code(0).assert_silent();
        holder.wait().assert_code(123);
        waiter.until_held().release().assert_code(0).assert_silent();
    }
}

#[test]
fn file_and_dir_mean_the_same_as_for_a_run() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/data", "");
    let locked = sandbox.hold(&["--file", "data"]);
    let named = sandbox.hold(&["-l", "data"]);
    sandbox.lockrun(&["break", "--file", "data"]).run().assert_code(0).assert_silent();
    assert!(!is_held(&file) && is_held(&sandbox.lock_file("data")));
    locked.release().assert_code(123);
    named.release().assert_code(0);
    let dir = sandbox.path("other").display().to_string();
    let other = sandbox.hold(&["-d", &dir, "-l", "a b"]);
    sandbox.lockrun(&["break", "-d", &dir, "a b"]).run().assert_code(0).assert_silent();
    other.release().assert_code(123);
}

#[test]
fn a_free_lock_is_left_alone() {
    let sandbox = Sandbox::new();
    let nothing = |words: &[&str]| {
        let outcome = sandbox.lockrun(&[&["break"], words].concat()).run();
        outcome.assert_code(0).assert_stdout("").assert_one_line(&["not held, nothing to break"]);
    };
    nothing(&["calc"]);
    assert!(sandbox.files_in_locks().is_empty());
    nothing(&["--file", "missing"]);
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    nothing(&["calc"]);
    sandbox.write("work/data", "");
    nothing(&["--file", "data"]);
}

#[test]
fn exactly_one_lock_is_broken() {
    let sandbox = Sandbox::new();
    let holders = ["a", "b"].map(|name| sandbox.hold(&["-l", name]));
    for words in [&[] as &[&str], &["a", "b"], &["a", "--file", "b"]] {
        sandbox.lockrun(&[&["break"], words].concat()).run().assert_usage_error(&["which lock"]);
    }
    for holder in holders {
        holder.release().assert_code(0);
    }
}

#[test]
fn a_process_named_only_by_the_lock_file_is_not_touched() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let file = sandbox.lock_file("calc");
    let text = fs::read_to_string(&file).unwrap();
    let (before, after) = text.split_once("\"pid\":").unwrap();
    let after = after.trim_start_matches(|character: char| character.is_ascii_digit());
    let innocent = sandbox.command("sleep", &["1000"]).start();
    // It looks like one of ours, and even has the file open.
    let script = format!("exec 9<{}; exec -a lockrun sleep 1000", file.display());
    let opener = sandbox.command("bash", &["-c", &script]).start();
    for mut victim in [innocent, opener] {
        fs::write(&file, format!("{before}\"pid\":{}{after}", victim.pid())).unwrap();
        sandbox.lockrun(&["break", "calc"]).run().assert_code(0).assert_one_line(&["not held"]);
        let holder = sandbox.hold_by_flock(&[], &file);
        break_it(&sandbox, &["calc"]);
        holder.release().assert_signal(libc::SIGTERM);
        assert!(!victim.has_ended());
    }
}

#[test]
fn nobody_is_signalled_from_an_inner_pid_namespace() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let lockrun = sandbox.path("bin/lockrun");
    let Some(inside) = in_pid_namespace(&sandbox, &[lockrun.to_str().unwrap(), "break", "calc"]) else { return };
    let words = ["calc: held, but its holder is not visible", "no process was signalled", "root", "containers"];
    inside.run().assert_code(125).assert_one_line(&words);
    assert!(is_held(&sandbox.lock_file("calc")));
    holder.release().assert_code(0).assert_silent();
}

#[test]
fn a_holder_in_an_inner_pid_namespace_ends() {
    let sandbox = Sandbox::new();
    let lockrun = sandbox.path("bin/lockrun");
    let command = [lockrun.to_str().unwrap(), "-l", "calc", "-c", "echo holding; exec sleep 1000"];
    let Some(inside) = in_pid_namespace(&sandbox, &command) else { return };
    let holder = inside.start().until_says("holding");
    break_it(&sandbox, &["calc"]);
    // Inside, nobody knows who it was.
    holder.wait().assert_code(123).assert_one_line(&["broken by", "is not visible from here"]);
}

#[test]
fn another_users_holder_stays_and_its_pid_is_named() {
    if !may_act_as_root("another user's holder") {
        return;
    }
    let sandbox = Sandbox::new();
    let dir = sandbox.make_dir("shared", 0o777).display().to_string();
    let by_root = |options: &[&str]| {
        let words = [&["-d", &dir, "-l", "calc"], options, &["-c", "echo holding; exec cat"]].concat();
        sandbox.lockrun(&words).umask(0).input("").start().until_says("holding")
    };
    let by_other = |words: &[&str]| sandbox.lockrun(words).by_user(65534, 65534);
    let refused = || {
        let outcome = by_other(&["break", "-d", &dir, "calc"]).run();
        outcome.assert_code(125).assert_stdout("").assert_one_line(&["calc", "another user", "root"]).stderr.clone()
    };
    let holder = by_root(&[]);
    assert!(refused().contains(&format!("pid {}", holder.pid())));
    holder.wait().assert_code(0).assert_silent();
    // Shared with one of ours: not even that one is signalled.
    let theirs = by_root(&["-s"]);
    let words = ["-d", &dir, "-s", "-l", "calc", "-c", "echo holding; exec cat"];
    let ours = by_other(&words).input("").start().until_says("holding");
    refused();
    theirs.wait().assert_code(0).assert_silent();
    ours.wait().assert_code(0).assert_silent();
}

#[test]
fn root_breaks_another_users_lock() {
    if !may_act_as_root("another user's holder") {
        return;
    }
    let sandbox = Sandbox::new();
    let dir = sandbox.make_dir("shared", 0o777).display().to_string();
    let words = ["-d", &dir, "-l", "calc", "-c", "echo holding; exec cat"];
    let holder = sandbox.lockrun(&words).by_user(65534, 65534).input("").start().until_says("holding");
    sandbox.lockrun(&["break", "-d", &dir, "calc"]).run().assert_code(0).assert_silent();
    holder.wait().assert_code(123).assert_one_line(&["broken by pid"]);
}

#[test]
fn the_command_itself_can_break_the_lock_that_it_runs_under() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.lockrun(&["-l", "calc", "--", "lockrun", "break", "calc"]).run();
    outcome.assert_code(123).assert_one_line(&["calc", "broken by pid"]);
    assert!(!is_held(&sandbox.lock_file("calc")));
}
