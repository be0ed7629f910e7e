//! `--replace`: ends the holder, and earlier waiters with `--replace`.

use crate::support::{
    Form, Running, Sandbox, end_of_stubborn, eventually, in_pid_namespace, is_alive, is_held, may_act_as_root,
    status_field, stubborn_holder as stubborn, with_mounts,
};
use std::fs;

const REPLACE: [&str; 3] = ["--replace", "-l", "calc"];

/// The pids that a command wrote into this file, one a line.
fn pids_in(sandbox: &Sandbox, file: &str, number: usize) -> Vec<i32> {
    let mut pids: Vec<i32> = Vec::new();
    eventually(&format!("{number} pids in {file}"), || {
        let text = fs::read_to_string(sandbox.path(&format!("work/{file}"))).unwrap_or_default();
        pids = text.lines().filter_map(|line| line.parse().ok()).collect();
        pids.len() == number
    });
    pids
}

#[test]
fn the_holder_is_ended_with_all_that_it_started() {
    let script = "echo $$ >>pids
        sleep 1000 & echo $! >>pids
        setsid sh -c 'echo $$ >>pids; exec sleep 1000' </dev/null >/dev/null 2>&1 &
        (setsid sh -c 'echo $$ >>pids; exec env - sleep 1000' &)
        wait; exec sleep 1000";
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = sandbox.lockrun(&["-l", "calc", "-c", script]).start();
        let pids = pids_in(&sandbox, "pids", 4);
        let replacer = form.hold(&sandbox, &REPLACE);
        assert!(!pids.iter().any(|pid| is_alive(*pid)), "{pids:?}");
        let by = format!("pid {}", replacer.running().pid());
        let ended = holder.wait();
        ended.assert_code(123).assert_one_line(&["calc", "replaced by pid", "TERM"]);
        if form == Form::Run {
            ended.assert_stderr_has(&[&by]);
        }
        replacer.release().assert_code(0);
    }
}

#[test]
fn a_free_lock_is_simply_taken() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        form.hold(&sandbox, &REPLACE).release().assert_code(0).assert_silent();
    }
}

#[test]
fn a_token_is_ended() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = Form::Acquire.hold(&sandbox, &["-l", "calc"]);
        let replacer = form.hold(&sandbox, &REPLACE);
        sandbox.lockrun(&["check", &holder.token()]).run().assert_code(123);
        holder.release().assert_code(123).assert_stderr_has(&["calc", "lost"]);
        replacer.release().assert_code(0);
    }
}

#[test]
fn a_holder_that_ignores_term_is_killed() {
    let sandbox = Sandbox::new();
    let script = "trap '' TERM; echo holding; while :; do sleep 0.01; done";
    let args = ["-l", "calc", "--kill-after", "0.1", "-c", script];
    let holder = sandbox.lockrun(&args).start().until_says("holding");
    Form::Run.hold(&sandbox, &REPLACE).release().assert_code(0);
    holder.wait().assert_code(123).assert_stderr_has(&["KILL"]);
}

#[test]
fn a_stopped_holder_is_ended() {
    let sandbox = Sandbox::new();
    let holder = Form::Run.hold(&sandbox, &["-l", "calc"]);
    for child in crate::support::children(holder.running().pid()) {
        // SAFETY: kill has no memory effects; it is a child of our own child.
        unsafe { libc::kill(child, libc::SIGSTOP) };
    }
    Form::Run.hold(&sandbox, &REPLACE).release().assert_code(0);
    holder.end().assert_code(123);
}

#[test]
fn an_exec_holder_is_ended() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let script = "sleep 1000 & echo $! >>pids; echo holding; wait";
        let holder = sandbox.lockrun(&["--exec", "-l", "calc", "-c", script]).start().until_says("holding");
        let replacer = form.hold(&sandbox, &REPLACE);
        holder.wait().assert_signal(libc::SIGTERM);
        // It has let go of the lock, and is on its way out.
        eventually("its child has ended", || !is_alive(pids_in(&sandbox, "pids", 1)[0]));
        replacer.release().assert_code(0);
    }
}

#[test]
fn a_flock_holder_is_ended() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
        let holder = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
        let replacer = form.hold(&sandbox, &REPLACE);
        holder.release().assert_signal(libc::SIGTERM);
        replacer.release().assert_code(0);
    }
}

#[test]
fn an_exec_holder_that_runs_another_lockrun_is_ended() {
    let sandbox = Sandbox::new();
    let script = "lockrun -l other -- sleep 1000 & echo holding; sleep 1000; sleep 1000";
    let holder = sandbox.lockrun(&["--exec", "-l", "calc", "-c", script]).start().until_says("holding");
    eventually("the inner one runs", || sandbox.lock_file("other").exists() && is_held(&sandbox.lock_file("other")));
    Form::Run.hold(&sandbox, &["-t", "20", "--replace", "-l", "calc"]).release().assert_code(0);
    holder.wait().assert_signal(libc::SIGTERM);
    assert!(!is_held(&sandbox.lock_file("other")));
}

#[test]
fn an_orphaned_command_that_runs_another_lockrun_is_ended() {
    let sandbox = Sandbox::new();
    let script = "lockrun -l other -- sleep 1000 & echo holding; sleep 1000; sleep 1000";
    let holder = sandbox.lockrun(&["-l", "calc", "-c", script]).start().until_says("holding");
    eventually("the inner one runs", || sandbox.lock_file("other").exists() && is_held(&sandbox.lock_file("other")));
    holder.signal(libc::SIGKILL);
    holder.wait().assert_signal(libc::SIGKILL);
    Form::Run.hold(&sandbox, &["-t", "20", "--replace", "-l", "calc"]).release().assert_code(0);
    assert!(!is_held(&sandbox.lock_file("other")));
}

#[test]
fn a_lockrun_under_the_ended_one_ends_with_it() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder =
            sandbox.lockrun(&["-l", "calc", "--", "lockrun", "-l", "inner", "-c", "echo in; exec sleep 1000"]).start();
        let holder = holder.until_says("in");
        let replacer = form.hold(&sandbox, &REPLACE);
        holder.wait().assert_code(123);
        assert!(!is_held(&sandbox.lock_file("inner")));
        replacer.release().assert_code(0);
    }
}

#[test]
fn a_waiter_with_replace_is_replaced_and_names_the_newer_one() {
    for (older, newer) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (Form::BOTH[a], Form::BOTH[b])) {
        let sandbox = Sandbox::new();
        let holder = stubborn(&sandbox, &["-l", "calc"]);
        let older = older.ask(&sandbox, &REPLACE).until_waiting();
        let newer = newer.ask(&sandbox, &REPLACE);
        eventually("the older one ends", || !is_alive(older.running().pid()) || newer.holds());
        end_of_stubborn(holder).assert_code(123);
        older.end().assert_code(123).assert_stdout("").assert_one_line(&["calc", "replaced", "by pid"]);
        newer.until_held().release().assert_code(0);
    }
}

/// As long as it waits, it is still a lockrun.
#[test]
fn a_waiter_with_replace_and_exec_is_replaced() {
    let sandbox = Sandbox::new();
    let holder = stubborn(&sandbox, &["-l", "calc"]);
    let older = sandbox.lockrun(&["--exec", "--replace", "-l", "calc", "--", "true"]).start().until_waiting();
    let newer = Form::Run.ask(&sandbox, &REPLACE);
    older.wait().assert_code(123).assert_one_line(&["calc", "replaced"]);
    end_of_stubborn(holder).assert_code(123);
    newer.until_held();
}

/// A stopped waiter has left the queue, and its helper must not keep its place.
#[test]
fn a_stopped_waiter_holds_nobody_up() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let script = "import fcntl, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print('holding', flush=True)
sys.stdin.readline(); fcntl.flock(file, fcntl.LOCK_UN); print('free', flush=True)
signal.pause()";
    let file = sandbox.lock_file("calc").display().to_string();
    let holder = sandbox.command("python3", &["-c", script, &file]).input("").start();
    let mut holder = holder.until_says("holding");
    let replacer = Form::Run.ask(&sandbox, &REPLACE).until_waiting();
    replacer.running().signal(libc::SIGTSTP);
    eventually("it is stopped", || status_field(replacer.running().pid(), "State").starts_with('T'));
    holder.close_stdin();
    let holder = holder.until_says("free");
    assert!(Form::Run.gets_now(&sandbox, &["-l", "calc"]));
    drop(holder);
}

/// A waiter for `holder` with the options `patient` is not taken for a holder, and goes
/// before a later `--replace`.
fn keeps_its_turn(holder: &[&str], patient: &[&str]) {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = Form::Run.hold(&sandbox, holder);
        let patient = form.ask(&sandbox, patient).until_waiting();
        let lock = &sandbox.list(&["calc"])[0];
        assert_eq!((lock["holders"].as_array().unwrap().len(), &lock["waiting"]), (1, &1.into()), "{lock}");
        let replacer = form.ask(&sandbox, &REPLACE);
        let patient = patient.until_held();
        holder.end().assert_code(123);
        assert!(!replacer.holds());
        patient.release().assert_code(0);
        replacer.until_held().release().assert_code(0);
    }
}

#[test]
fn a_waiter_without_replace_keeps_its_turn() {
    keeps_its_turn(&["-l", "calc"], &["-l", "calc"]);
}

/// While it waits, it shares the lock with the holders of slots.
#[test]
fn a_waiter_for_slots_without_replace_keeps_its_turn() {
    for patient in [&["--slots", "1", "-l", "calc"] as &[&str], &["--shared", "-l", "calc"]] {
        keeps_its_turn(&["--slots", "1", "-l", "calc"], patient);
    }
}

/// A set that waits for one of its locks holds the other one.
#[test]
fn a_set_that_holds_the_lock_and_waits_for_another_is_ended() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let [first, second] = sandbox.in_order(["a", "b"]);
        let holder = Form::Run.hold(&sandbox, &["-l", second]);
        let set = form.ask(&sandbox, &["-l", "a", "-l", "b"]).until_waiting();
        Form::Run.hold(&sandbox, &["-t", "10", "--replace", "-l", first]).release().assert_code(0);
        set.end().assert_code(123).assert_one_line(&["replaced"]);
        holder.release().assert_code(0);
    }
}

#[test]
fn of_ten_at_once_exactly_one_stays() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = Form::Run.hold(&sandbox, &["-l", "calc"]);
        let mut crowd: Vec<_> = (0..10).map(|_| form.ask(&sandbox, &REPLACE)).collect();
        holder.end().assert_code(123);
        let lost = |token: &str| sandbox.lockrun(&["check", token]).run().code == Some(123);
        for _ in 0..9 {
            let mut gone = None;
            eventually("one more of them is replaced", || {
                gone = crowd.iter().position(|asked| match form {
                    Form::Run => !is_alive(asked.running().pid()),
                    Form::Acquire => !is_alive(asked.running().pid()) && (!asked.holds() || lost(&asked.token())),
                });
                gone.is_some()
            });
            // A token that was handed out, and then replaced, says so too.
            let gone = crowd.remove(gone.unwrap());
            let word = if gone.holds() && form == Form::Acquire { "lost" } else { "replaced" };
            let outcome = if word == "lost" { gone.release() } else { gone.end() };
            outcome.assert_code(123).assert_stderr_has(&[word]);
        }
        let last = crowd.pop().unwrap().until_held();
        form.fail(&sandbox, &["-n", "-l", "calc"]).assert_code(75);
        last.release().assert_code(0);
    }
}

#[test]
fn the_newest_always_wins() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let mut holder = form.hold(&sandbox, &REPLACE);
        for _ in 0..20 {
            let newer = form.hold(&sandbox, &REPLACE);
            match form {
                Form::Run => holder.end(),
                Form::Acquire => holder.release(),
            }
            .assert_code(123);
            holder = newer;
        }
        holder.release().assert_code(0);
    }
}

#[test]
fn a_process_that_a_file_names_is_not_touched() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
        let innocent = sandbox.command("sleep", &["1000"]).start();
        // It looks like one of ours, and even has the file open.
        let file = sandbox.lock_file("calc");
        let script = format!("exec 9<{}; exec -a lockrun sleep 1000", file.display());
        let opener = sandbox.command("bash", &["-c", &script]).start();
        let text = fs::read_to_string(&file).unwrap();
        let (before, after) = text.split_once("\"pid\":").unwrap();
        for mut victim in [innocent, opener] {
            let rest = after.trim_start_matches(|character: char| character.is_ascii_digit());
            let forged = format!("{before}\"pid\":{}{rest}", victim.pid());
            fs::write(&file, &forged).unwrap();
            let holder = sandbox.hold_by_flock(&[], &file);
            form.hold(&sandbox, &REPLACE).release().assert_code(0);
            holder.release().assert_signal(libc::SIGTERM);
            assert!(!victim.has_ended());
        }
    }
}

#[test]
fn another_users_holder_cannot_be_replaced() {
    if !may_act_as_root("another user's holder") {
        return;
    }
    let sandbox = Sandbox::new();
    let dir = sandbox.make_dir("shared", 0o777);
    let dir = dir.display().to_string();
    let holders: [Running; 2] = [(); 2].map(|()| {
        let args = ["-d", &dir, "-s", "-l", "calc", "-c", "echo holding; exec cat"];
        sandbox.lockrun(&args).umask(0).input("").start().until_says("holding")
    });
    for options in [&["--", "true"] as &[&str], &["--exec", "--", "true"]] {
        let args = [&["-d", &dir, "-t", "5", "--replace", "-l", "calc"], options].concat();
        let outcome = sandbox.lockrun(&args).by_user(65534, 65534).run();
        outcome.assert_code(125).assert_one_line(&["calc", "another user"]);
    }
    let args = ["acquire", "-d", &dir, "-t", "5", "--replace", "-l", "calc", "--expires", "9"];
    sandbox.lockrun(&args).by_user(65534, 65534).run().assert_code(125).assert_one_line(&["another user"]);
    for holder in holders {
        holder.wait().assert_code(0);
    }
}

/// What is not seen cannot be ended, and its natural end may be far.
#[test]
fn a_holder_that_cannot_be_seen_is_not_waited_for() {
    let words = ["its holder is not visible", "no process was signalled", "root", "containers"];
    for subcommand in [&["--replace", "-l", "calc", "--", "true"] as &[&str], &["acquire", "--replace", "-l", "calc"]] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let lockrun = sandbox.path("bin/lockrun").display().to_string();
        let command = [&[lockrun.as_str()], subcommand].concat();
        let Some(inside) = in_pid_namespace(&sandbox, &command) else { return };
        inside.run().assert_code(125).assert_stdout("").assert_one_line(&words);
        let script = format!("mount -t tmpfs none /proc; exec {}", command.join(" "));
        let Some(inside) = with_mounts(&sandbox, &script) else { return };
        inside.run().assert_code(125).assert_stdout("").assert_one_line(&words);
        holder.release().assert_code(0).assert_silent();
    }
}
