//! A lock under an ancestor that holds it by no lockrun of the environment: the
//! environment was cleared, or it is flock(1) or a script with a descriptor. A
//! call that would wait without limit fails with 122.

use crate::support::{Form, Outcome, Running, Sandbox, eventually, may_act_as_root};

/// What holds the lock on `file` around the script that it runs: as it stands
/// in the message, too.
const HOLDERS: [(&str, &str); 4] = [
    ("flock file sh ./script", "flock file sh ./script"),
    ("exec 9>file; flock 9; . ./script", "by-descriptor"),
    ("exec 9>file; flock 9; sh ./script 9>&-", "by-descriptor"),
    ("lockrun --file file -- env -i PATH=$PATH LOCKRUN_DIR=$LOCKRUN_DIR sh ./script", "env -i"),
];

/// A program that closes inherited descriptors before it runs another.
const CLOSE: &str = "python3 -c 'import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))'";

/// Runs `script` under the holder.
fn under(sandbox: &Sandbox, holder: &str, script: &str) -> Running {
    sandbox.write("work/file", "");
    sandbox.write("work/script", script);
    sandbox.write("work/by-descriptor", holder);
    sandbox.command("sh", &["by-descriptor"]).input("").start()
}

fn run_under(sandbox: &Sandbox, holder: &str, script: &str) -> Outcome {
    under(sandbox, holder, script).wait()
}

#[test]
fn a_call_without_limit_is_refused_and_the_line_names_the_ancestor_and_what_helps() {
    for (holder, shown) in HOLDERS {
        for close in ["", CLOSE] {
            let sandbox = Sandbox::new();
            let outcome = run_under(&sandbox, holder, &format!("{close} lockrun --file file -- true"));
            outcome.assert_code(122).assert_one_line(&[
                "would deadlock",
                "held by pid",
                shown,
                "an ancestor of this command",
                "; --reentrant",
            ]);
        }
    }
}

#[test]
fn every_form_and_mode_is_refused() {
    let sandbox = Sandbox::new();
    for options in ["--file file", "-s --file file", "--file file -l other", "--max-waiters 5 --file file"] {
        run_under(&sandbox, HOLDERS[0].0, &format!("lockrun {options} -- true")).assert_code(122);
        let acquire = format!("lockrun acquire --expires 50 {options}");
        run_under(&sandbox, HOLDERS[0].0, &acquire).assert_code(122).assert_stdout("");
    }
    run_under(&sandbox, HOLDERS[0].0, "lockrun wait --file file").assert_code(122);
    for options in ["-l calc", "-s -l calc", "--slots 3 -l calc", "--slots 3 --slot 1 -l calc"] {
        let holder = "lockrun -l calc -- true; flock $LOCKRUN_DIR/calc.lock sh ./script";
        run_under(&sandbox, holder, &format!("lockrun {options} -- true")).assert_code(122);
    }
}

#[test]
fn slots_are_refused_with_a_cleared_environment() {
    let pool = |slot: &str| format!("lockrun {slot} -l gpu -- env -i PATH=$PATH LOCKRUN_DIR=$LOCKRUN_DIR sh ./script");
    let outcomes = [
        ("--slots 2", "-l gpu", 122),
        ("--slots 2 --slot 1", "--slots 2 --slot 1 -l gpu", 122),
        ("--slots 1", "--slots 1 -l gpu", 122),
        ("--slots 2", "--slots 2 -l gpu", 0),
    ];
    for (outer, inner, code) in outcomes {
        let sandbox = Sandbox::new();
        run_under(&sandbox, &pool(outer), &format!("lockrun {inner} -- true")).assert_code(code);
    }
}

#[test]
fn a_call_with_a_limit_waits_and_the_line_names_the_ancestor() {
    for (holder, shown) in HOLDERS {
        let sandbox = Sandbox::new();
        let words = [shown, "an ancestor of this command"];
        for (timeout, code) in [("-t 0.1", 124), ("-n", 75)] {
            let outcome = run_under(&sandbox, holder, &format!("lockrun {timeout} --file file -- true"));
            outcome.assert_code(code).assert_one_line(&words);
        }
        let outcome = run_under(&sandbox, holder, "lockrun wait --timeout 0.1 --file file");
        outcome.assert_code(124).assert_one_line(&words);
    }
}

#[test]
fn it_gets_the_lock_if_the_script_gives_it_back_half_way() {
    let sandbox = Sandbox::new();
    let script = "lockrun -t 80 --file file -- echo ran & echo in; read line; flock -u 9; wait $!";
    let mut running = under(&sandbox, "exec 9>file; flock 9; . ./script", script).until_says("in").until_waiting();
    running.close_stdin();
    running.wait().assert_code(0).assert_stdout("in\nran\n");
}

/// Somebody else has the lock; that the file is open means nothing.
#[test]
fn an_ancestor_that_has_the_file_open_without_the_lock_does_not_count() {
    for holder in ["exec 9>file; . ./script", "exec 9>file; flock 9; flock -u 9; . ./script"] {
        let sandbox = Sandbox::new();
        let file = sandbox.write("work/file", "");
        sandbox.write("work/script", "echo in; read line; lockrun --file file -- echo ran");
        let mut running = sandbox.sh(holder).input("").start().until_says("in");
        let other = sandbox.hold_by_flock(&[], &file);
        running.close_stdin();
        let running = running.until_waiting();
        other.release();
        running.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn reentrant_runs_at_once() {
    for (holder, _) in HOLDERS {
        for options in ["", "-t 80", "-n", "-s", "-s -n"] {
            let sandbox = Sandbox::new();
            let again = format!("lockrun --reentrant {options} --file file -- echo ran");
            run_under(&sandbox, holder, &again).assert_code(0).assert_silent().assert_stdout("ran\n");
        }
    }
}

#[test]
fn reentrant_does_not_help_where_more_is_asked_for_than_is_held() {
    let sandbox = Sandbox::new();
    let nested = |options: &str| run_under(&sandbox, "flock -s file sh ./script", options);
    for options in ["", "--reentrant"] {
        let outcome = nested(&format!("lockrun {options} --file file -- true"));
        outcome.assert_code(122).assert_one_line(&["would deadlock"]);
        assert!(!outcome.stderr.contains("; --reentrant"), "{outcome:?}");
    }
    nested("lockrun -s --file file -- true").assert_code(0).assert_silent();
}

/// The number is the outer grant's, or 0 where no lockrun gave one.
#[test]
fn reentrant_has_the_fence_of_the_outer_grant_if_there_is_one() {
    let sandbox = Sandbox::new();
    let clear = "env -i PATH=$PATH LOCKRUN_DIR=$LOCKRUN_DIR";
    let show = "echo $LOCKRUN_FENCE";
    let nested = format!("lockrun --file file -c '{show}; {clear} sh ./script'");
    let outcome = run_under(&sandbox, &nested, &format!("lockrun --reentrant --file file -c '{show}'"));
    let lines: Vec<_> = outcome.assert_code(0).stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1] && lines[0] != "0", "{lines:?}");
    let outcome = run_under(&sandbox, HOLDERS[0].0, &format!("lockrun --reentrant --file file -c '{show}'"));
    outcome.assert_code(0).assert_stdout("0\n");
}

#[test]
fn replace_never_ends_an_ancestor() {
    for (holder, _) in &HOLDERS[..3] {
        let sandbox = Sandbox::new();
        let script = "lockrun --replace -t 80 --file file -- true; echo code $?";
        run_under(&sandbox, holder, script).assert_code(0).assert_stdout("code 122\n");
    }
}

/// The set waits for one lock now, and would wait for the ancestor's later.
#[test]
fn a_lock_of_a_set_is_seen_at_once() {
    for name in ["a", "b"] {
        let sandbox = Sandbox::new();
        sandbox.lockrun(&["-l", "a", "-l", "b", "--", "true"]).run().assert_code(0);
        let other = Form::Run.hold(&sandbox, &["-l", if name == "a" { "b" } else { "a" }]);
        let holder = format!("flock $LOCKRUN_DIR/{name}.lock sh ./script");
        run_under(&sandbox, &holder, "lockrun -l a -l b -- true").assert_code(122);
        drop(other);
    }
}

/// Its descriptors are not ours to see, but that it called flock(2) is.
#[test]
fn an_ancestor_of_another_user_is_seen() {
    if !may_act_as_root("another user") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let holder = "cd /tmp; flock $LOCKRUN_DIR/calc.lock \
        setpriv --reuid 12345 --regid 12345 --clear-groups lockrun -l calc -- true";
    sandbox.sh(holder).run().assert_code(122).assert_stderr_has(&["an ancestor of this command"]);
}

/// As sudo runs it.
#[test]
fn a_token_of_an_ancestor_of_another_user_is_seen_but_not_taken_for_ours() {
    if !may_act_as_root("another user") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    let sudo = sandbox.path("bin/sudo").display().to_string();
    sandbox.sh(&format!("cp $(command -v setpriv) {sudo}; chmod 4755 {sudo}")).run().assert_code(0);
    let as_root = format!("{sudo} --reuid 0 --regid 0 --clear-groups");
    let nested = |options: &str| {
        let script = format!(
            "lockrun acquire -q -l calc --owner $$ >/dev/null || exit 1
            sh -c '{as_root} lockrun {options} -l calc -- echo ran'"
        );
        sandbox.sh(&script).current_dir(&std::env::temp_dir()).by_user(12345, 12345).run()
    };
    for options in ["", "--reentrant"] {
        let outcome = nested(options);
        outcome.assert_code(122).assert_stdout("").assert_one_line(&["would deadlock", "until pid"]);
        assert!(!outcome.stderr.contains("; --reentrant"), "{outcome:?}");
    }
    nested("-t 0.1").assert_code(124);
    nested("-t 0.1 --reentrant").assert_code(124);
    eventually("the last token is let go", || {
        sandbox.lockrun(&["-n", "-q", "-l", "calc", "--", "true"]).run().code == Some(0)
    });
}

/// Everybody is a descendant of it.
#[test]
fn a_token_owned_by_pid_1_is_not_ours() {
    for reentrant in [&[] as &[&str], &["--reentrant"]] {
        let sandbox = Sandbox::new();
        let token = sandbox.acquire(&["-l", "calc", "--owner", "1"]);
        let args = [reentrant, &["-t", "0.1", "-l", "calc", "--", "echo", "ran"]].concat();
        sandbox.lockrun(&args).run().assert_code(124).assert_stdout("");
        let args = [reentrant, &["-l", "calc", "--", "echo", "ran"]].concat();
        let waiter = sandbox.lockrun(&args).start().until_waiting();
        sandbox.release(&token).assert_code(0);
        waiter.wait().assert_code(0).assert_stdout("ran\n");
    }
}

/// Anybody may name our ancestors as owners.
#[test]
fn a_token_that_another_user_took_is_not_ours() {
    if !may_act_as_root("another user") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    let owner = std::process::id().to_string();
    let acquire = ["acquire", "-l", "calc", "--owner", &owner];
    let token = sandbox.lockrun(&acquire).current_dir(&std::env::temp_dir()).by_user(12345, 12345).run();
    for reentrant in [&[] as &[&str], &["--reentrant"]] {
        let args = [reentrant, &["-t", "0.1", "-l", "calc", "--", "echo", "ran"]].concat();
        sandbox.lockrun(&args).run().assert_code(124).assert_stdout("");
    }
    let waiter = sandbox.lockrun(&["-l", "calc", "--", "echo", "ran"]).start().until_waiting();
    sandbox.release(token.stdout.trim()).assert_code(0);
    waiter.wait().assert_code(0).assert_stdout("ran\n");
}

/// Anybody who may open the lock's file can lock the byte of a grant.
#[test]
fn the_byte_of_a_token_is_not_believed_without_the_token() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "50"]);
    let state = sandbox.lockrun(&["check", "--json", &token]).run().stdout;
    let fence = serde_json::from_str::<serde_json::Value>(&state).unwrap()["fence"].to_string();
    sandbox.release(&token).assert_code(0);
    let holder = Form::Run.hold(&sandbox, &["-l", "calc"]);
    let script = "import fcntl, struct, sys; file = open(sys.argv[1], 'r+'); F_OFD_SETLK = 37
at = 9 * (1 << 59) + int(sys.argv[2])
fcntl.fcntl(file, F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, at, 1, 0))
print('locked', flush=True); sys.stdin.read()";
    let file = sandbox.lock_file("calc").display().to_string();
    let forger = sandbox.command("python3", &["-c", script, &file, &fence]).input("").start().until_says("locked");
    for reentrant in [&[] as &[&str], &["--reentrant"]] {
        let args = [reentrant, &["-t", "0.1", "-l", "calc", "--", "echo", "ran"]].concat();
        sandbox.lockrun(&args).env("LOCKRUN_TOKEN", &token).run().assert_code(124).assert_stdout("");
    }
    drop(forger);
    drop(holder);
}
