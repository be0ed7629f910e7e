//! A lock under itself: it fails at once with 122 instead of waiting for ever.

use crate::support::{Form, Outcome, Sandbox, with_mounts};

/// Long enough not to be taken for "at once" when it is waited out.
const PATIENCE: [&str; 2] = ["-t", "5"];

/// Runs a shell script under a lock taken with these options.
fn under(sandbox: &Sandbox, options: &[&str], script: &str) -> Outcome {
    sandbox.lockrun(&[options, &["-c", script]].concat()).run()
}

/// As a command of the script: a call that takes a lock and gives it back.
fn inner(form: Form, options: &str) -> String {
    match form {
        Form::Run => format!("lockrun -t 5 {options} -- true"),
        Form::Acquire => {
            format!("lockrun release -- $(lockrun acquire -t 5 --expires 50 {options} || echo code $? >&2)")
        }
    }
}

/// That the call, as above, fails with 122 and says where the lock was taken.
#[track_caller]
fn assert_deadlock(form: Form, outcome: &Outcome) {
    let lines = ["would deadlock", "held by"];
    match form {
        Form::Run => outcome.assert_code(122).assert_one_line(&lines),
        Form::Acquire => outcome.assert_stderr_has(&["code 122"]).assert_stderr_has(&lines),
    };
}

#[test]
fn the_same_lock_is_refused_and_the_line_says_where_it_was_taken() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let outcome = under(&sandbox, &["-l", "calc"], &inner(form, "-l calc"));
        assert_deadlock(form, &outcome);
        outcome.assert_stderr_has(&["held by pid", "for "]);
    }
}

#[test]
fn every_mode_is_refused_under_every_mode_of_the_whole_lock() {
    for form in Form::BOTH {
        for outer in [&["-l", "calc"] as &[&str], &["-s", "-l", "calc"]] {
            for options in ["-l calc", "-s -l calc", "--slots 3 -l calc", "--slots 3 --slot 1 -l calc"] {
                let sandbox = Sandbox::new();
                assert_deadlock(form, &under(&sandbox, outer, &inner(form, options)));
            }
        }
    }
}

#[test]
fn the_line_names_reentrant_where_that_would_help() {
    let held: [(&[&str], &str, bool); 6] = [
        (&["-l", "calc"], "-l calc", true),
        (&["-l", "calc"], "-l calc -l other", true),
        (&["-s", "-l", "calc"], "-s -l calc", true),
        (&["-s", "-l", "calc"], "-l calc", false),
        (&["--slots", "2", "-l", "calc"], "-l calc", false),
        (&["-l", "calc"], "--reentrant -l calc -l shared", false),
    ];
    for (outer, inner, helps) in held {
        let sandbox = Sandbox::new();
        let script = format!("lockrun {inner} -- true");
        let script = format!("lockrun -s -l shared -c '{script}'");
        let outcome = under(&sandbox, outer, &script);
        outcome.assert_code(122).assert_one_line(&["would deadlock"]);
        assert_eq!(outcome.stderr.contains("; --reentrant"), helps, "{outcome:?}");
    }
}

#[test]
fn the_line_is_printed_with_quiet_and_timeout_0_too() {
    let sandbox = Sandbox::new();
    for options in ["-q", "-n", "-q -n", "-E 9"] {
        let outcome = under(&sandbox, &["-l", "calc"], &format!("lockrun {options} -l calc -- true"));
        outcome.assert_code(122).assert_one_line(&["would deadlock"]);
    }
}

#[test]
fn a_lock_is_refused_under_its_set_and_a_set_under_one_of_its_locks() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        for name in ["a", "b"] {
            let options = format!("-l {name}");
            assert_deadlock(form, &under(&sandbox, &["-l", "a", "-l", "b"], &inner(form, &options)));
            assert_deadlock(form, &under(&sandbox, &["-l", name], &inner(form, "-l b -l a")));
        }
        under(&sandbox, &["-l", "a", "-l", "b"], &inner(form, "-l c")).assert_code(0);
    }
}

#[test]
fn every_lock_of_a_large_set_is_refused_under_it() {
    let sandbox = Sandbox::new();
    let names: Vec<_> = (0..40).map(|number| format!("n{number}")).collect();
    let options: Vec<&str> = names.iter().flat_map(|name| ["-l", name]).collect();
    let script = "i=0; while [ $i -lt 40 ]; do lockrun -t 0.1 -l n$i -- true 2>&-; echo $?; i=$((i + 1)); done";
    under(&sandbox, &options, script).assert_stdout(&"122\n".repeat(40));
}

#[test]
fn it_is_refused_through_many_levels() {
    let sandbox = Sandbox::new();
    let levels: Vec<_> =
        (0..40).flat_map(|number| ["lockrun".into(), "-l".into(), format!("n{number}"), "--".into()]).collect();
    let mut args: Vec<&str> = levels.iter().map(String::as_str).skip(1).collect();
    args.extend(["lockrun", "-t", "5", "-l", "n0", "--", "true"]);
    sandbox.lockrun(&args).run().assert_code(122);
}

#[test]
fn a_file_is_refused_by_another_spelling_too() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        sandbox.write("work/file", "");
        std::os::unix::fs::symlink("file", sandbox.path("work/link")).unwrap();
        assert_deadlock(form, &under(&sandbox, &["--file", "file"], &inner(form, "--file ./link")));
        let own = format!("--file {}", sandbox.lock_file("calc").display());
        assert_deadlock(form, &under(&sandbox, &["-l", "calc"], &inner(form, &own)));
    }
}

#[test]
fn under_a_slot_the_same_slot_and_the_whole_lock_are_refused() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let pool = ["-l", "gpu", "--slots", "3", "--slot", "1"];
        for options in ["-l gpu", "-s -l gpu", "-l gpu --slots 3 --slot 4"] {
            assert_deadlock(form, &under(&sandbox, &pool, &inner(form, options)));
        }
    }
}

#[test]
fn another_free_slot_may_be_taken() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let pool = ["-l", "gpu", "--slots", "2"];
        under(&sandbox, &pool, &inner(form, "-l gpu --slots 2")).assert_code(0);
        under(&sandbox, &pool, &inner(form, "-l gpu --slots 2 --slot 1")).assert_code(0);
        // All of them are ours.
        let both = format!("lockrun -l gpu --slots 2 -c '{}'", inner(form, "-l gpu --slots 2").replace('\'', "'\\''"));
        assert_deadlock(form, &under(&sandbox, &pool, &both));
        assert_deadlock(form, &under(&sandbox, &["-l", "gpu", "--slots", "1"], &inner(form, "-l gpu --slots 1")));
    }
}

#[test]
fn it_is_refused_under_a_command_whose_lockrun_was_killed() {
    let sandbox = Sandbox::new();
    let script = "kill -9 $PPID; exec 2>>said; lockrun -t 5 -l calc -- true; echo $? >>said";
    under(&sandbox, &["-l", "calc"], script).assert_signal(libc::SIGKILL);
    let mut said = String::new();
    crate::support::eventually("the inner one has ended", || {
        said = std::fs::read_to_string(sandbox.path("work/said")).unwrap_or_default();
        said.ends_with("2\n") || said.ends_with("4\n") || said.ends_with("0\n")
    });
    assert!(said.ends_with("\n122\n"), "{said}");
}

/// A program that closes inherited descriptors before it runs another.
const CLOSE: &str = "python3 -c 'import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))'";

#[test]
fn it_is_refused_with_the_descriptor_closed_on_the_way() {
    let sandbox = Sandbox::new();
    let again = |options: &str| format!("{CLOSE} lockrun -t 5 {options} -- true");
    under(&sandbox, &["-l", "calc"], &again("-l calc")).assert_code(122);
    under(&sandbox, &["-l", "calc"], &again("-s -l calc")).assert_code(122);
    under(&sandbox, &["-s", "-l", "calc"], &again("-l calc")).assert_code(122);
    under(&sandbox, &["-l", "a", "-l", "b"], &again("-l b")).assert_code(122);
    under(&sandbox, &["--file", "file"], &again("--file file")).assert_code(122);
    under(&sandbox, &["-l", "gpu", "--slots", "2"], &again("-l gpu")).assert_code(122);
}

/// The lock file's record is only about the last grant.
#[test]
fn it_is_refused_with_the_descriptor_closed_and_another_holders_record() {
    let ask = format!("echo in; read line; {CLOSE} lockrun -t 5");
    let nested: [(&[&str], &str); 4] = [
        (&["-s", "-l", "calc"], "-l calc"),
        (&["-s", "-l", "calc"], "-s -l calc"),
        (&["-s", "--file", "file"], "--file file"),
        (&["--slots", "9", "-l", "calc"], "-l calc"),
    ];
    for (outer, inner) in nested {
        let sandbox = Sandbox::new();
        sandbox.write("work/file", "");
        let script = format!("{ask} {inner} -- true");
        let outer_one = sandbox.lockrun(&[outer, &["-c", &script]].concat()).input("").start().until_says("in");
        let others = [(); 2].map(|()| Form::Run.hold(&sandbox, outer));
        outer_one.wait().assert_code(122).assert_stderr_has(&["would deadlock"]);
        drop(others);
    }
}

/// The number is that of the outer grant, and not of the last one.
#[test]
fn reentrant_under_a_reader_has_the_fence_of_its_own_grant() {
    let sandbox = Sandbox::new();
    let show = "echo fence $LOCKRUN_FENCE";
    let script = format!("{show}; read line; {CLOSE} lockrun -t 5 --reentrant -s -l calc -c \"{show}\"");
    let outer = sandbox.lockrun(&["-s", "-l", "calc", "-c", &script]).input("").start().until_says("fence");
    let other = Form::Run.hold(&sandbox, &["-s", "-l", "calc"]);
    let outcome = outer.wait();
    let lines: Vec<_> = outcome.assert_code(0).stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{lines:?}");
    drop(other);
}

/// A process that outlived a released slot may take it, though it still has the marker
/// of another.
#[test]
fn a_slot_that_was_released_is_free_for_what_outlives_it() {
    let sandbox = Sandbox::new();
    sandbox.write("work/inner", &survivor("lockrun -t 5 -l gpu --slots 2 -- sh -c \"echo \\$LOCKRUN_SLOT >place\""));
    sandbox.write(
        "work/outer",
        "lockrun -l gpu --slots 2 -- sh ./inner; touch go; while [ ! -e code ]; do sleep 0.01; done",
    );
    under(&sandbox, &["-l", "gpu", "--slots", "2"], ". ./outer").assert_code(0);
    assert_eq!(code_of_survivor(&sandbox), "0\n");
    assert_eq!(std::fs::read_to_string(sandbox.path("work/place")).unwrap(), "1\n");
}

/// What outlives its lock, with the lock's marker in its environment.
fn survivor(script: &str) -> String {
    format!("setsid sh -c 'while [ ! -e go ]; do sleep 0.01; done; {script}; echo $? >code' >said 2>&1 & exit 0")
}

#[track_caller]
fn code_of_survivor(sandbox: &Sandbox) -> String {
    sandbox.write("work/go", "");
    let mut code = String::new();
    crate::support::eventually("the survivor has asked", || {
        code = std::fs::read_to_string(sandbox.path("work/code")).unwrap_or_default();
        code.ends_with('\n')
    });
    code
}

#[test]
fn the_marker_of_a_released_lock_is_ignored() {
    let sandbox = Sandbox::new();
    let script = survivor("lockrun -n -l calc -- true");
    under(&sandbox, &["-l", "calc"], &script).assert_code(0);
    assert_eq!(code_of_survivor(&sandbox), "0\n");
}

#[test]
fn the_marker_is_ignored_when_another_lockrun_has_the_lock_now() {
    for reentrant in ["", "--reentrant"] {
        let sandbox = Sandbox::new();
        under(&sandbox, &["-l", "calc"], &survivor(&format!("lockrun -t 0.1 {reentrant} -l calc -- true")))
            .assert_code(0);
        let holder = Form::Run.hold(&sandbox, &["-l", "calc"]);
        assert_eq!(code_of_survivor(&sandbox), "124\n");
        drop(holder);
    }
}

/// flock(1) writes no text, so that the lock's text is still about us.
#[test]
fn the_marker_is_ignored_when_flock_has_the_lock_now() {
    for reentrant in ["", "--reentrant"] {
        let sandbox = Sandbox::new();
        under(&sandbox, &["-l", "calc"], &survivor(&format!("lockrun -t 0.1 {reentrant} -l calc -- true")))
            .assert_code(0);
        let holder = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
        assert_eq!(code_of_survivor(&sandbox), "124\n");
        holder.release();
    }
}

#[test]
fn the_marker_is_ignored_with_the_descriptor_closed() {
    let sandbox = Sandbox::new();
    let ask = "exec 0<&- 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-; lockrun -t 0.1 -l calc -- true";
    under(&sandbox, &["-l", "calc"], &survivor(ask)).assert_code(0);
    let holder = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
    assert_eq!(code_of_survivor(&sandbox), "124\n");
    holder.release();
}

/// A shell that acquires a lock of its own and then runs something below it.
fn with_token(sandbox: &Sandbox, options: &str, script: &str) -> Outcome {
    let script = format!(
        "T=$(lockrun acquire -q {options} --owner $$) || exit 1
        sh -c '{script}'; code=$?
        lockrun release $T || exit 2; exit $code"
    );
    sandbox.sh(&script).run()
}

/// The mount that the lock is on is none of those that are listed there.
#[test]
fn it_is_refused_in_a_chroot() {
    let sandbox = Sandbox::new();
    let root =
        "mkdir -p root/proc root/bin root/locks; mount --rbind /proc root/proc; cp $(command -v lockrun) root/bin";
    let inner = "chroot root /bin/lockrun -t 5 -s -d /locks -l calc -- none";
    let by_lockrun = format!("lockrun -d root/locks -s -l calc -- {inner}");
    let by_token = format!("lockrun acquire -d root/locks -s -l calc --owner $$ >/dev/null; {inner}");
    for script in [by_lockrun, by_token] {
        if let Some(asked) = with_mounts(&sandbox, &format!("{root}; {script}")) {
            asked.run().assert_code(122);
        }
    }
}

#[test]
fn a_token_of_an_ancestor_is_seen() {
    let nested = ["-l calc", "-s -l calc", "-l calc -l other", "--slots 2 -l calc"];
    for options in nested {
        for form in Form::BOTH {
            let sandbox = Sandbox::new();
            assert_deadlock(form, &with_token(&sandbox, "-l calc", &inner(form, options)));
        }
    }
    let sandbox = Sandbox::new();
    with_token(&sandbox, "-l calc", &inner(Form::Run, "-l other")).assert_code(0);
    for name in ["a", "b"] {
        with_token(&sandbox, "-l a -l b", &inner(Form::Run, &format!("-l {name}"))).assert_code(122);
    }
}

#[test]
fn a_shared_token_of_an_ancestor_is_seen() {
    let sandbox = Sandbox::new();
    with_token(&sandbox, "-s -l calc", &inner(Form::Run, "-l calc")).assert_code(122);
    with_token(&sandbox, "-s -l calc", &inner(Form::Run, "-s -l calc")).assert_code(122);
}

#[test]
fn a_slot_of_a_token_of_an_ancestor_is_seen() {
    let sandbox = Sandbox::new();
    with_token(&sandbox, "-l gpu --slots 2", &inner(Form::Run, "-l gpu")).assert_code(122);
    with_token(&sandbox, "-l gpu --slots 2", &inner(Form::Run, "-l gpu --slots 2")).assert_code(0);
    with_token(&sandbox, "-l gpu --slots 1", &inner(Form::Run, "-l gpu --slots 1")).assert_code(122);
}

/// The lock's text tells of the last grant only.
#[test]
fn a_shared_token_is_seen_when_others_were_granted_the_lock_later() {
    let nested: [(&[&str], &str); 4] = [
        (&["-s", "-l", "calc"], "-l calc"),
        (&["-s", "-l", "calc"], "-s -l calc"),
        (&["-s", "--file", "file"], "--file file"),
        (&["--slots", "9", "-l", "calc"], "-l calc"),
    ];
    for by_owner in [true, false] {
        for (options, inner) in nested {
            let sandbox = Sandbox::new();
            sandbox.write("work/file", "");
            let options_text = options.join(" ");
            let token = match by_owner {
                true => format!("T=$(lockrun acquire -q {options_text} --owner $$)"),
                false => format!("export LOCKRUN_TOKEN=$(lockrun acquire -q {options_text} --expires 50)"),
            };
            let script = format!("{token} || exit 1; echo in; read line; lockrun -t 5 {inner} -- true");
            let outer = sandbox.sh(&script).input("").start().until_says("in");
            let others = Form::BOTH.map(|form| form.hold(&sandbox, options));
            outer.wait().assert_code(122).assert_stderr_has(&["would deadlock"]);
            drop(others);
        }
    }
}

#[test]
fn reentrant_under_a_token_has_the_fence_of_the_token() {
    for token in ["--owner $$", "--expires 50"] {
        let sandbox = Sandbox::new();
        let script = format!(
            "export LOCKRUN_TOKEN=$(lockrun acquire -q -s -l calc {token}) || exit 1
            T=$LOCKRUN_TOKEN; [ '{token}' = '--expires 50' ] || unset LOCKRUN_TOKEN
            echo in; read line
            lockrun check --json $T | sed 's/.*\"fence\":\\([0-9]*\\).*/\\1/'
            lockrun -t 5 --reentrant -s -l calc -c 'echo $LOCKRUN_FENCE'; lockrun release $T"
        );
        let outer = sandbox.sh(&script).input("").start().until_says("in");
        let other = Form::Run.hold(&sandbox, &["-s", "-l", "calc"]);
        let outcome = outer.wait();
        let lines: Vec<_> = outcome.assert_code(0).stdout.lines().skip(1).collect();
        assert!(lines.len() == 2 && lines[0] == lines[1], "{lines:?}");
        drop(other);
    }
}

/// The set waits for one lock now, and would wait for the token's later.
#[test]
fn a_lock_of_a_set_that_a_token_of_an_ancestor_holds_is_seen_at_once() {
    for name in ["a", "b"] {
        let sandbox = Sandbox::new();
        let other = Form::Run.hold(&sandbox, &["-l", if name == "a" { "b" } else { "a" }]);
        with_token(&sandbox, &format!("-l {name}"), "lockrun -t 5 -l a -l b -- true").assert_code(122);
        drop(other);
    }
}

/// Two tokens hold two slots, and the pool has no third.
#[test]
fn a_pool_full_of_tokens_of_an_ancestor_is_refused() {
    let sandbox = Sandbox::new();
    let take = "lockrun acquire -q -l gpu --slots 2 --owner $$ || exit 1";
    let script = format!("{take}; {take}; lockrun -t 5 -l gpu --slots 2 -- true");
    sandbox.sh(&script).run().assert_code(122);
}

/// Neither a killed nor a released token leaves a trace that counts.
#[test]
fn a_released_token_does_not_count_even_if_others_hold_the_lock() {
    for end in
        ["lockrun release $T", "kill -9 $HOLDER; while grep -q \"^State:.[^ZX]\" /proc/$HOLDER/status; do :; done"]
    {
        let sandbox = Sandbox::new();
        let script = format!(
            "T=$(lockrun acquire -q -s -l calc --owner $$) || exit 1
            HOLDER=$(sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p' $LOCKRUN_DIR/calc.lock)
            echo in; read line; {end}; LOCKRUN_TOKEN=$T lockrun -t 5 -s -l calc -- true"
        );
        let outer = sandbox.sh(&script).input("").start().until_says("in");
        let other = Form::Run.hold(&sandbox, &["-s", "-l", "calc"]);
        outer.wait().assert_code(0);
        drop(other);
    }
}

#[test]
fn a_token_in_the_environment_is_seen() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        for (options, nested) in [("-l calc", "-l calc"), ("-l a -l b", "-l a"), ("-l a -l b", "-l b")] {
            let script = format!(
                "export LOCKRUN_TOKEN=$(lockrun acquire -q {options} --expires 50) || exit 1
                ({}); code=$?; lockrun release || exit 2; exit $code",
                inner(form, nested).replace("release --", "release")
            );
            assert_deadlock(form, &sandbox.sh(&script).run());
        }
    }
}

#[test]
fn a_token_that_no_longer_holds_the_lock_does_not_count() {
    let sandbox = Sandbox::new();
    let script = "export LOCKRUN_TOKEN=$(lockrun acquire -q -l calc --expires 50) || exit 1
        lockrun release; exec lockrun -t 0.1 -l calc -- true";
    sandbox.sh(script).run().assert_code(0);
    let holder = Form::Run.hold(&sandbox, &["-l", "other"]);
    sandbox.sh(&script.replace("-t 0.1 -l calc", "-t 0.1 -l calc -l other")).run().assert_code(124);
    drop(holder);
}

#[test]
fn a_waiter_is_not_mistaken_for_nested() {
    let sandbox = Sandbox::new();
    let holder = Form::Run.hold(&sandbox, &["-l", "calc"]);
    let args = [&PATIENCE[..], &["-l", "other", "--", "lockrun", "-t", "0.1", "-l", "calc", "--", "true"]].concat();
    sandbox.lockrun(&args).run().assert_code(124);
    drop(holder);
}
