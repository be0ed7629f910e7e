//! `lockrun flock` does what flock(1) does: the same scripts, run with both.

use crate::support::{Invocation, Outcome, Running, Sandbox, Timeline, eventually, is_alive, is_held, may_act_as_root};
use std::fs;
use std::os::unix::fs::symlink;

/// What a script finds as `flock`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tool {
    /// util-linux's.
    Original,
    /// lockrun, called by that name.
    Ours,
}

const BOTH: [Tool; 2] = [Tool::Original, Tool::Ours];

impl Tool {
    fn sandbox(self) -> Sandbox {
        let sandbox = Sandbox::new();
        let program = match self {
            Tool::Original => "/usr/bin/flock".into(),
            Tool::Ours => sandbox.path("bin/lockrun"),
        };
        symlink(program, sandbox.path("bin/flock")).unwrap();
        sandbox.write("work/file", "precious\n");
        sandbox
    }
}

fn run(sandbox: &Sandbox, script: &str) -> Outcome {
    sandbox.sh(script).run()
}

/// With a holder of `file` by the original tool.
fn with_holder(sandbox: &Sandbox, options: &[&str], script: &str) -> Outcome {
    let args = [options, &["file", "sh", "-c", "echo holding; exec cat"]].concat();
    let holder = sandbox.command("/usr/bin/flock", &args).input("").start().until_says("holding");
    let outcome = run(sandbox, script);
    holder.wait().assert_code(0);
    outcome
}

#[test]
fn each_line_has_the_same_code_and_output() {
    let lines = [
        "flock file true",
        "flock file false",
        "flock file sh -c 'exit 7'",
        "flock file sh -c 'kill -9 $$'",
        "flock file sh -c 'kill -TERM $$'",
        "flock file -c 'exit 3'",
        "flock file --command 'exit 4'",
        "flock file -c",
        "flock file -c a b",
        "flock file /nonexistent",
        "flock file /tmp",
        "flock /nonexistent/file true",
        "flock new true",
        "flock . true",
        "flock /dev/null true",
        "flock -- file true",
        "flock file -- true",
        "flock file -x true",
        "flock -x -s file true",
        "flock -sn file true",
        "flock -w1 file true",
        "flock -w 1e-3 file true",
        "flock -w 0 file true",
        "flock --nb --wa 1 --sh file true",
        "flock --conflict-exit-code=7 --excl file true",
        "flock -w x file true",
        "flock -w 1,5 file true",
        "flock -w '' file true",
        "flock -w 1s file true",
        "flock -w -1 file true",
        "flock -E 256 file true",
        "flock -E -1 file true",
        "flock -E x file true",
        "flock -Fo file true",
        "flock --close --no-fork file true",
        "flock -u file true",
        "flock -F file sh -c 'exit 5'",
        "flock -o file sh -c 'exit 6'",
        "flock file true --verbose",
        "flock file",
        "flock 9",
        "flock 9x",
        "flock -u 9",
        "flock 99999999999",
        "flock -n",
        "flock -n 9 9<file",
        "flock -s 9 9>>file",
        "flock 9 9<.",
        "flock -n 0 </dev/null",
        "echo | flock -n 0",
        "flock -E 300 9 9<file",
        "flock --verbose -s file true 2>&1",
        "flock --verbose 9 9<file",
        "flock --verbose file -c 'exit 3'",
        "SHELL=/bin/false; export SHELL; flock file -c true",
        "SHELL=; export SHELL; flock file -c true",
        "flock",
        "flock --bogus file true",
        "flock --shared=1 file true",
        "flock -z file true",
        "flock -w",
        "flock -c true",
    ];
    let [original, ours] = BOTH.map(Tool::sandbox);
    // Its programs tell how they were called, and how long it took; a hint is a
    // line of its own there.
    let plain = |text: &str| {
        let text = text.replace("/usr/bin/flock:", "flock:").replace("\nTry 'flock --help' for more information.", "");
        let text = text.replace("; try 'flock --help'", "");
        let mut lines: Vec<_> = text.lines().map(|line| line.split("took").next().unwrap().to_owned()).collect();
        lines.sort();
        lines
    };
    for line in lines {
        let (theirs, ours) = (run(&original, line), run(&ours, line));
        assert_eq!(ours.code, theirs.code, "{line}\n{theirs:?}{ours:?}");
        assert_eq!(plain(&ours.stdout), plain(&theirs.stdout), "{line}");
        assert_eq!(plain(&ours.stderr), plain(&theirs.stderr), "{line}");
    }
    for sandbox in [original, ours] {
        assert_eq!(fs::read_to_string(sandbox.path("work/file")).unwrap(), "precious\n");
    }
}

#[test]
fn as_a_subcommand_it_is_the_same() {
    let sandbox = Sandbox::new();
    let flock = |words: &[&str]| sandbox.lockrun(&[&["flock"], words].concat()).run();
    flock(&["file", "sh", "-c", "exit 7"]).assert_code(7).assert_silent();
    flock(&["-n", "--", "file", "-c", "exit 3"]).assert_code(3).assert_silent();
    flock(&["-E"]).assert_code(64).assert_stderr_has(&["flock: option requires an argument -- 'E'"]);
    flock(&["--version"]).assert_code(0).assert_stdout(concat!("flock from lockrun ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = flock(&["-h"]);
    assert!(help.assert_code(0).assert_silent().stdout.contains("--conflict-exit-code"), "{help:?}");
    // Only from 2.41 on in the original.
    sandbox.sh("lockrun flock --fd 9 sh -c 'exit 7' 9<>file").run().assert_code(7).assert_silent();
    sandbox.sh("lockrun flock --fd=9 -n -c 'exit 8' 9<>file").run().assert_code(8).assert_silent();
    sandbox.sh("lockrun flock --fd 9 -n 9<>file").run().assert_code(0).assert_silent();
}

#[test]
fn locks_of_fcntl_are_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    for option in ["--fcntl", "--start=1", "--length=2", "--fc"] {
        let outcome = sandbox.lockrun(&["flock", option, "file", "true"]).run();
        outcome.assert_code(64).assert_stderr_has(&["flock: --fcntl", "excludes no lockrun", "util-linux"]);
    }
}

#[test]
fn a_conflict_has_the_code_of_the_option() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        for (script, code) in [
            ("flock -n file true", 1),
            ("flock -w 0 file true", 1),
            ("flock -w 0.01 file true", 1),
            ("flock -E 7 -n file true", 7),
            ("flock -E 0 -w .01 file true", 0),
            ("flock -n 9 9<file", 1),
            ("flock -w 0.01 -E 9 9 9<file", 9),
            ("flock -ns file true", 1),
        ] {
            with_holder(&sandbox, &[], script).assert_code(code).assert_stdout("").assert_silent();
        }
        with_holder(&sandbox, &["-s"], "flock -sn file echo in").assert_code(0).assert_stdout("in\n");
        with_holder(&sandbox, &["-s"], "flock -n file echo in").assert_code(1).assert_stdout("");
    }
}

#[test]
fn verbose_names_the_reason_and_in_lockrun_the_holder() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        let lines = if tool == Tool::Ours { 2 } else { 1 };
        let busy = with_holder(&sandbox, &[], "flock -n --verbose file true");
        busy.assert_code(1).assert_stdout("").assert_stderr_has(&["flock: failed to get lock\n"]);
        let late = with_holder(&sandbox, &[], "flock -w 0.01 --verbose file true");
        late.assert_code(1).assert_stderr_has(&["flock: timeout while waiting to get lock\n"]);
        assert_eq!(busy.stderr.lines().count(), lines, "{busy:?}");
        if tool == Tool::Ours {
            busy.assert_stderr_has(&["flock: held by pid ", "flock file sh -c"]);
        }
    }
}

#[test]
fn both_tools_exclude_each_other() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        let script = sandbox.sh("flock file -c 'echo holding; cat'").input("").start().until_says("holding");
        run(&sandbox, "/usr/bin/flock -n file true").assert_code(1);
        run(&sandbox, "lockrun flock -n file true").assert_code(1);
        run(&sandbox, "lockrun -n -q --file file -- true").assert_code(75);
        script.wait().assert_code(0).assert_silent();
        run(&sandbox, "/usr/bin/flock -n file true").assert_code(0);
    }
}

#[test]
fn the_lock_follows_the_descriptor_into_daemons_and_with_o_it_does_not() {
    for tool in BOTH {
        for (option, kept) in [("", true), ("-o", false), ("-F", true)] {
            let sandbox = tool.sandbox();
            let text = format!(
                "flock {option} file sh -c '(setsid sh -c \"echo \\$\\$ >pid; exec sleep 1000\" >&- 2>&- &)
                    until [ -s pid ]; do sleep 0.01; done'"
            );
            run(&sandbox, &text).assert_code(0);
            let pid: i32 = fs::read_to_string(sandbox.path("work/pid")).unwrap().trim().parse().unwrap();
            assert!(is_alive(pid));
            assert_eq!(is_held(&sandbox.path("work/file")), kept, "{tool:?} {option}");
            // SAFETY: kill has no memory effects; the daemon is the test's own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            eventually("it is free", || !is_held(&sandbox.path("work/file")));
        }
    }
}

/// A script that holds `file` by a descriptor.
fn by_descriptor(sandbox: &Sandbox, body: &str) -> Invocation {
    sandbox.sh(&format!("exec 9<>file; flock -n 9 || exit; {body}"))
}

#[test]
fn a_script_holds_by_its_descriptor_until_it_ends_or_unlocks() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        let script = by_descriptor(&sandbox, "echo holding; cat").input("").start().until_says("holding");
        run(&sandbox, "flock -n file true").assert_code(1);
        script.wait().assert_code(0);
        let other = "/usr/bin/flock -n file true; echo $?";
        for unlock in ["flock -u 9", "(flock -u 9)", "sh -c 'flock -u 9'", "exec 9>&-"] {
            let text = format!("{other}; {unlock}; {other}; exec 9<>file; flock -n 9 || exit; {other}");
            by_descriptor(&sandbox, &text).run().assert_code(0).assert_silent().assert_stdout("1\n0\n1\n");
        }
        // And the form of the manual page.
        let text = format!("( flock -n 9 || exit 1; {other} ) 9>lock; flock -n lock true && echo free");
        run(&sandbox, &text).assert_code(0).assert_stdout("0\nfree\n");
    }
}

#[test]
fn a_lock_gets_weaker_at_once_and_stronger_when_others_leave() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        let share = "/usr/bin/flock -s -n file true; echo $?";
        let text =
            format!("{share}; flock -s -n 9 || exit; {share}; flock -n -x 9 || exit; {share}; flock -n 9 || exit");
        by_descriptor(&sandbox, &text).run().assert_code(0).assert_silent().assert_stdout("1\n0\n1\n");
        let upgrade = "exec 9<>file; flock -s 9; flock -n -x 9; echo $?";
        with_holder(&sandbox, &["-s"], upgrade).assert_stdout("1\n");
    }
}

/// Nobody finds out: it is the caller's.
#[test]
fn a_removed_file_changes_no_code() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        run(&sandbox, "exec 9<>gone; rm gone; flock -n 9 && flock -u 9 && flock -s 9").assert_code(0).assert_silent();
        run(&sandbox, "flock new sh -c 'rm new; exit 3'").assert_code(3).assert_silent();
        run(&sandbox, "flock new sh -c 'mv new old'; flock -n new true").assert_code(0).assert_silent();
    }
}

/// Ours alone: the other one would lock a file that nobody else finds.
#[test]
fn a_file_that_was_removed_while_it_is_waited_for_is_opened_again() {
    let sandbox = Tool::Ours.sandbox();
    let holder = sandbox.hold_by_flock(&[], &sandbox.path("work/file"));
    let waiter = sandbox.sh("flock file -c 'echo in; cat'").input("").start().until_waiting();
    fs::remove_file(sandbox.path("work/file")).unwrap();
    holder.release();
    let waiter = waiter.until_says("in");
    assert!(is_held(&sandbox.path("work/file")));
    waiter.wait().assert_code(0);
}

#[test]
fn when_it_is_killed_its_command_keeps_the_lock() {
    for tool in BOTH {
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let sandbox = tool.sandbox();
            let words = ["file", "sh", "-c", "echo $$ >pid; echo holding; exec sleep 1000"];
            let flock = sandbox.command("flock", &words).start().until_says("holding");
            flock.signal(signal);
            flock.wait().assert_signal(signal);
            assert!(is_held(&sandbox.path("work/file")), "{tool:?}");
            let pid: i32 = fs::read_to_string(sandbox.path("work/pid")).unwrap().trim().parse().unwrap();
            // SAFETY: kill has no memory effects; the command is the test's own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            eventually("it is free", || !is_held(&sandbox.path("work/file")));
        }
    }
}

#[test]
fn when_it_is_killed_while_waiting_it_runs_nothing() {
    for tool in BOTH {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
            let sandbox = tool.sandbox();
            let holder = sandbox.hold_by_flock(&[], &sandbox.path("work/file"));
            let waiter = sandbox.command("flock", &["file", "echo", "in"]).start().until_waiting();
            waiter.signal(signal);
            waiter.wait().assert_signal(signal).assert_stdout("");
            holder.release();
            assert!(!is_held(&sandbox.path("work/file")));
        }
    }
}

/// Not 122: a script that is written for flock(1) may know what it does.
#[test]
fn it_waits_for_itself_as_flock_does() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        run(&sandbox, "flock file flock -w 0.05 file true").assert_code(1).assert_silent();
        run(&sandbox, "flock file flock -n file true").assert_code(1).assert_silent();
        run(&sandbox, "flock -s file flock -s -n file echo in").assert_code(0).assert_stdout("in\n");
        by_descriptor(&sandbox, "flock -w 0.05 file true; echo $?").run().assert_stdout("1\n");
    }
    let sandbox = Tool::Ours.sandbox();
    run(&sandbox, "lockrun --file file -- flock -w 0.05 file true").assert_code(1).assert_silent();
    // Below it, lockrun's own line does not wait.
    run(&sandbox, "flock file lockrun --file file -- true").assert_code(122).assert_stderr_has(&["would deadlock"]);
}

#[test]
fn the_command_gets_input_and_signals_unchanged() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        let outcome = sandbox.sh("flock file cat").input("hello\n").run();
        outcome.assert_code(0).assert_stdout("hello\n").assert_silent();
        let text = "trap '' TERM; flock file sh -c 'kill -TERM $$; echo $?; grep ^SigBlk /proc/self/status'";
        run(&sandbox, text).assert_code(0).assert_stdout("0\nSigBlk:\t0000000000000000\n");
    }
}

/// The boilerplate of its manual page.
#[test]
fn a_script_that_locks_itself_runs_once() {
    for tool in BOTH {
        let sandbox = tool.sandbox();
        let text = "#!/bin/bash
            [ \"${FLOCKER}\" != \"$0\" ] && exec env FLOCKER=\"$0\" flock -en \"$0\" \"$0\" \"$@\" || :
            echo holding \"$@\"; cat\n";
        sandbox.write("work/self", text);
        run(&sandbox, "chmod +x self").assert_code(0);
        let first = sandbox.sh("./self a 'b c'").input("").start().until_says("holding a b c");
        run(&sandbox, "./self").assert_code(1).assert_stdout("");
        first.wait().assert_code(0);
    }
}

#[test]
fn many_scripts_and_both_tools_are_inside_one_at_a_time() {
    let sandbox = Tool::Ours.sandbox();
    let timeline = Timeline::new(&sandbox);
    let rounds = |id: &str, line: &str| {
        let visit = timeline.visit(id, "true");
        sandbox.write(&format!("work/{id}"), &visit);
        let line = line.replace("VISIT", &format!("sh ./{id}"));
        sandbox.sh(&format!("exec 9<>file; for i in $(seq 60); do {line} || exit; done")).start()
    };
    let all: Vec<Running> = vec![
        rounds("ours", "flock file VISIT"),
        rounds("theirs", "/usr/bin/flock file VISIT"),
        rounds("exec", "flock -F file VISIT"),
        rounds("closed", "flock -o file VISIT"),
        rounds("fd", "flock 9 && VISIT && flock -u 9"),
        rounds("fdcmd", "flock --fd 9 VISIT && flock -u 9"),
        rounds("lockrun", "lockrun --file file -- VISIT"),
    ];
    for running in all {
        running.wait().assert_code(0).assert_silent();
    }
    timeline.assert_one_at_a_time();
    assert_eq!(timeline.entered().len(), 420);
}

#[test]
fn it_waits_in_lockruns_queue() {
    let sandbox = Tool::Ours.sandbox();
    let timeline = Timeline::new(&sandbox);
    let holder = sandbox.hold(&["--file", "file"]);
    let start = |number: usize| {
        let visit = timeline.visit(&number.to_string(), "true");
        let running = match number % 3 {
            0 => sandbox.command("flock", &["file", "-c", &visit]),
            1 => sandbox.lockrun(&["--file", "file", "-c", &visit]),
            _ => sandbox.sh(&format!("exec 9<>file; flock 9 || exit; {visit}")),
        };
        running.start().until_waiting()
    };
    let waiters: Vec<_> = (0..12).map(start).collect();
    let listed = &sandbox.list(&["--file", "file"])[0];
    assert_eq!(listed["waiting"], 12, "{listed}");
    holder.release();
    for waiter in waiters {
        waiter.wait().assert_code(0).assert_silent();
    }
    let expected: Vec<_> = (0..12).map(|number| number.to_string()).collect();
    timeline.assert_entered(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    // And list knows who has it.
    let holder = sandbox.sh("flock file -c 'echo holding; cat'").input("").start().until_says("holding");
    let seen = &sandbox.list(&["--file", "file"])[0]["holders"][0];
    assert!(seen["command"].as_str().unwrap().contains("echo holding"), "{seen}");
    holder.wait().assert_code(0);
}

#[test]
fn of_lockruns_variables_it_reads_only_the_directory() {
    let sandbox = Tool::Ours.sandbox();
    let holder = sandbox.hold_by_flock(&[], &sandbox.path("work/file"));
    let waiter = sandbox.command("flock", &["file", "true"]).env("LOCKRUN_TIMEOUT", "0").start().until_waiting();
    holder.release();
    waiter.wait().assert_code(0).assert_silent();
    let outcome = sandbox.command("flock", &["file", "true"]).env("LOCKRUN_DIR", "").run();
    outcome.assert_code(125).assert_one_line(&["LOCKRUN_DIR"]);
}

#[test]
fn without_a_directory_the_kernel_queues() {
    if !may_act_as_root("acting as a user without a home") {
        return;
    }
    let sandbox = Tool::Ours.sandbox();
    sandbox.make_dir("work", 0o777);
    let by_nobody = |text: &str| sandbox.sh(&format!("unset LOCKRUN_DIR; HOME=/proc; {text}")).by_user(65534, 65534);
    let holder = by_nobody("flock file -c 'echo holding; cat'").input("").start().until_says("holding");
    by_nobody("flock -n file true").run().assert_code(1).assert_silent();
    let waiter = by_nobody("flock -w 100 file echo in").start().until_waiting();
    holder.wait().assert_code(0).assert_silent();
    waiter.wait().assert_code(0).assert_stdout("in\n").assert_silent();
}
