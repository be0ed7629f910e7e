//! `--reentrant`: a lock that an outer lockrun holds is not taken again.

use crate::support::{Outcome, Sandbox};

/// Runs a shell script under a lock taken with these options.
fn under(sandbox: &Sandbox, options: &[&str], script: &str) -> Outcome {
    sandbox.lockrun(&[options, &["-c", script]].concat()).run()
}

fn again(options: &str) -> String {
    format!("lockrun -t 5 --reentrant {options} -- true")
}

#[test]
fn what_is_held_at_least_as_strongly_is_not_taken_again() {
    let sandbox = Sandbox::new();
    let covered: [(&[&str], &str); 9] = [
        (&["-l", "calc"], "-l calc"),
        (&["-l", "calc"], "-s -l calc"),
        (&["-l", "calc"], "--slots 3 -l calc"),
        (&["-l", "calc"], "--slots 3 --slot 2 -l calc"),
        (&["-s", "-l", "calc"], "-s -l calc"),
        (&["--slots", "3", "--slot", "2", "-l", "calc"], "--slots 3 --slot 5 -l calc"),
        (&["-l", "a", "-l", "b"], "-l b"),
        (&["-l", "a"], "-l b -l a"),
        (&["--file", "file"], "--file ./file"),
    ];
    for (outer, inner) in covered {
        under(&sandbox, outer, &again(inner)).assert_code(0).assert_silent();
    }
}

#[test]
fn what_is_held_less_strongly_is_refused() {
    let sandbox = Sandbox::new();
    let not_covered: [(&[&str], &str); 4] = [
        (&["-s", "-l", "calc"], "-l calc"),
        (&["-s", "-l", "calc"], "--slots 3 -l calc"),
        (&["--slots", "3", "-l", "calc"], "-l calc"),
        (&["--slots", "3", "-l", "calc"], "-s -l calc"),
    ];
    for (outer, inner) in not_covered {
        under(&sandbox, outer, &again(inner)).assert_code(122).assert_one_line(&["would deadlock"]);
    }
}

/// Any slot is asked for, and one is held.
#[test]
fn a_held_slot_counts_as_any_slot() {
    let sandbox = Sandbox::new();
    under(&sandbox, &["--slots", "1", "-l", "gpu"], &again("--slots 1 -l gpu")).assert_code(0);
    let other = sandbox.hold(&["--slots", "2", "--slot", "0", "-l", "gpu"]);
    let held = under(
        &sandbox,
        &["--slots", "2", "-l", "gpu"],
        "lockrun -t 5 --reentrant --slots 2 -l gpu -c 'echo $LOCKRUN_SLOT'",
    );
    held.assert_code(0).assert_stdout("1\n");
    other.release();
}

#[test]
fn the_end_of_the_inner_run_does_not_release_the_lock() {
    let sandbox = Sandbox::new();
    let others = "env -u LOCKRUN_HELD lockrun -n -q -l calc -- true";
    under(&sandbox, &["-l", "calc"], &format!("{} && {others}", again("-l calc"))).assert_code(75);
    let daemon = "lockrun --reentrant -l calc -c 'setsid sleep 1000 & exit 0'";
    under(&sandbox, &["-l", "calc"], &format!("{daemon} && {others}")).assert_code(75);
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn a_waiter_in_between_does_not_matter() {
    let sandbox = Sandbox::new();
    let script = format!("echo in; read line; {}", again("-s -l calc"));
    let outer = sandbox.lockrun(&["-s", "-l", "calc", "-c", &script]).input("").start().until_says("in");
    let writer = sandbox.lockrun(&["-l", "calc", "--", "true"]).start().until_waiting();
    outer.wait().assert_code(0).assert_silent();
    writer.wait().assert_code(0);
}

#[test]
fn the_command_finds_the_fence_of_the_outer_grant() {
    let sandbox = Sandbox::new();
    let show = "echo $LOCKRUN_NAME $LOCKRUN_FENCE";
    let outcome = under(&sandbox, &["-l", "calc"], &format!("{show}; lockrun --reentrant -l calc -c '{show}'"));
    let lines: Vec<_> = outcome.assert_code(0).stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{lines:?}");
}

#[test]
fn it_works_many_levels_deep() {
    let sandbox = Sandbox::new();
    let mut args = vec!["-l", "calc", "--"];
    for _ in 0..40 {
        args.extend(["lockrun", "-t", "5", "--reentrant", "-l", "calc", "--"]);
    }
    args.push("true");
    sandbox.lockrun(&args).run().assert_code(0).assert_silent();
}

#[test]
fn it_works_with_the_descriptor_closed_on_the_way() {
    let sandbox = Sandbox::new();
    let close = "python3 -c 'import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))'";
    under(&sandbox, &["-l", "calc"], &format!("{close} {}", again("-l calc"))).assert_code(0);
}

#[test]
fn it_works_under_a_token_of_an_ancestor() {
    let sandbox = Sandbox::new();
    let script = "T=$(lockrun acquire -q -l calc --owner $$) || exit 1
        sh -c 'lockrun -t 5 --reentrant -l calc -- true'; code=$?
        lockrun release $T || exit 2; exit $code";
    sandbox.sh(script).run().assert_code(0);
}

#[test]
fn acquire_takes_no_second_token_of_what_is_held() {
    let sandbox = Sandbox::new();
    let script = "T=$(lockrun acquire -q -t 5 --reentrant -l calc --expires 50) || exit
        lockrun release $T || exit
        env -u LOCKRUN_HELD lockrun -n -q -l calc -- true";
    under(&sandbox, &["-l", "calc"], script).assert_code(75);
}

#[test]
fn with_nothing_held_it_takes_the_lock() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["--reentrant", "-l", "calc"]);
    sandbox.lockrun(&["-n", "--reentrant", "-l", "calc", "--", "true"]).run().assert_code(75);
    holder.release().assert_code(0);
}
