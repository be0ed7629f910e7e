//! What people read without a terminal: one line or none, never on stdout.

use crate::support::{Outcome, Sandbox, eventually};

/// An attempt at `calc`, which somebody else holds, by pid.
fn attempt_while_held(options: &[&str]) -> (Outcome, String) {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let args = [options, &["-l", "calc", "--", "true"]].concat();
    let outcome = sandbox.lockrun(&args).run();
    outcome.assert_stdout("");
    (outcome, holder.pid().to_string())
}

#[test]
fn busy_says_who_holds_the_lock() {
    let (outcome, pid) = attempt_while_held(&["-n"]);
    outcome.assert_code(75);
    outcome.assert_one_line(&["lockrun: calc: ", "held by pid ", &pid, "exec cat", "user ", " for "]);
}

#[test]
fn timed_out_says_how_long_it_tried() {
    let (outcome, pid) = attempt_while_held(&["-t", "50ms"]);
    outcome.assert_code(124);
    outcome.assert_one_line(&["lockrun: calc: ", "timed out", "50ms", "held by pid", &pid]);
}

#[test]
fn a_holder_by_flock_is_described_as_far_as_it_is_known() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    let holder = sandbox.hold_by_flock(&[], &file);
    let attempt = sandbox.lockrun(&["-n", "--file", "file", "--", "true"]);
    let outcome = attempt.run();
    let pid = holder.pid().to_string();
    outcome.assert_code(75).assert_one_line(&["file", &pid]);
}

#[test]
fn the_last_holder_is_not_named_as_the_present_one() {
    let sandbox = Sandbox::new();
    let before = sandbox.hold(&["-l", "calc"]);
    let pid = before.pid();
    before.release();
    let _holder = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
    let outcome = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
    outcome.assert_code(75).assert_one_line(&["calc"]);
    let wrong = outcome.stderr.contains(&format!("pid {pid} "));
    assert!(!wrong, "names pid {pid}, which has let go: {outcome:?}");
}

#[test]
fn quiet_says_nothing_about_the_lock() {
    for options in [&["-q", "-n"] as &[&str], &["--quiet", "-t", "0.01"]] {
        attempt_while_held(options).0.assert_silent();
    }
}

#[test]
fn n_with_e_0_and_quiet_skips_a_cron_job_silently() {
    let (outcome, _) = attempt_while_held(&["-n", "-E", "0", "-q"]);
    outcome.assert_code(0).assert_silent();
}

#[test]
fn quiet_hides_no_error() {
    let sandbox = Sandbox::new();
    sandbox.write("work/plain", "");
    let cron = |dir: &str, command: &str| {
        let args = ["-n", "-E", "0", "-q", "--dir", dir, "-l", "calc", "--", command];
        sandbox.lockrun(&args).run()
    };
    cron("plain", "true").assert_code(125).assert_one_line(&["plain"]);
    cron("dir", "./plain").assert_code(126).assert_one_line(&["plain"]);
    cron("dir", "./no").assert_code(127).assert_one_line(&["./no"]);
}

#[test]
fn a_short_wait_prints_nothing() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-l", "calc", "--", "true"]);
    let waiter = waiter.start().until_waiting();
    holder.release().assert_silent();
    waiter.wait().assert_code(0).assert_silent();
}

#[test]
fn a_wait_of_a_minute_prints_one_line_and_in_ci_two() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let attempt = |options: &[&str]| sandbox.lockrun(&[options, &["-l", "calc", "--", "true"]].concat()).start();
    let (told, quiet) = (attempt(&[]), attempt(&["-q"]));
    let ci = sandbox.lockrun(&["-t", "1h", "-l", "calc", "--", "true"]).env("CI", "true").start();
    eventually("CI's second line", || ci.stderr().lines().count() == 2);
    let held = format!("held by pid {} ", holder.pid());
    holder.release();
    told.wait().assert_code(0).assert_one_line(&["lockrun: waiting for 1m: calc; ", &held]);
    quiet.wait().assert_code(0).assert_silent();
    let ci = ci.wait();
    let lines: Vec<_> = ci.assert_code(0).stderr.lines().collect();
    assert!(lines[0].starts_with("lockrun: waiting for 5s, 59m55s left: calc; held by pid "), "{ci:?}");
    assert!(lines[1].starts_with("lockrun: waiting for 1m5s, 58m55s left: calc; held by pid "), "{ci:?}");
}

/// Nobody reads its stderr, and nobody kills it.
#[test]
fn a_line_that_nobody_reads_is_lost_and_changes_no_code() {
    let sandbox = Sandbox::new();
    let _full = sandbox.full_pipe("full");
    let _holder = sandbox.hold(&["-l", "held"]);
    let calls = [
        ("-n -l held -- true", 75),
        ("-t 0.01 -v -l held -- true", 124),
        ("--exec -t 0.01 -l held -- true", 124),
        ("-l calc -- /nonexistent", 127),
        ("--exec -l calc -- /nonexistent", 127),
        ("-v -l calc -- true", 0),
        ("--bogus", 125),
        ("wait -t 0.01 held", 124),
    ];
    for (call, code) in calls {
        sandbox.sh(&format!("exec lockrun {call} 2>full")).run().assert_code(code);
    }
}

/// A closed pipe, and a file that may not grow, send signals to who writes.
#[test]
fn a_line_that_cannot_be_written_ends_no_process() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let closed = "exec 3<&0; (exec lockrun -v -l calc -- sh -c 'exit 3') 2>&1 >/dev/null <&3 | true";
    let waiters = [
        sandbox.sh(&format!("bash -c 'set -o pipefail; {}'", closed.replace('\'', "'\\''"))).start(),
        sandbox.sh("ulimit -f 0; exec lockrun -v -l calc -- sh -c 'exit 3' 2>log").start(),
    ];
    let waiters = waiters.map(crate::support::Running::until_waiting);
    holder.release();
    for waiter in waiters {
        waiter.wait().assert_code(3);
    }
}

/// Neither a lock nor a place in its queue.
#[test]
fn a_timeout_that_cannot_be_printed_leaves_the_queue() {
    for form in ["", "--exec"] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let _full = sandbox.full_pipe("full");
        let late = sandbox.sh(&format!("exec lockrun {form} -t 0.2 -l calc -- true 2>full")).start().until_waiting();
        eventually("it waits no more", || !late.is_waiting());
        holder.release();
        sandbox.lockrun(&["-t", "50", "-l", "calc", "--", "true"]).run().assert_code(0);
    }
}

#[test]
fn verbose_mentions_a_wait_at_once_and_its_times_afterwards() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-v", "-l", "calc", "--", "echo", "ran"]);
    let waiter = waiter.start();
    let pid = holder.pid().to_string();
    eventually("it says that it waits", || {
        let said = waiter.stderr();
        said.ends_with('\n') && said.contains("wait") && said.contains(&pid)
    });
    holder.release();
    let outcome = waiter.wait();
    outcome.assert_code(0).assert_stdout("ran\n");
    let file = sandbox.lock_file("calc");
    outcome.assert_stderr_has(&["lockrun: calc: ", file.to_str().unwrap(), "waited", "held"]);
    let ours = outcome.stderr.lines().all(|line| line.starts_with("lockrun: "));
    assert!(ours, "{outcome:?}");
}

#[test]
fn a_name_that_looks_like_a_path_works_and_a_line_points_to_file() {
    let sandbox = Sandbox::new();
    for name in ["/tmp/calc", "./calc", "../calc"] {
        let outcome = sandbox.lockrun(&["-l", name, "--", "true"]).run();
        outcome.assert_code(0).assert_one_line(&[name, "--file"]);
    }
    assert_eq!(sandbox.files_in_locks().len(), 3);
}

#[test]
fn names_in_messages_are_escaped() {
    let sandbox = Sandbox::new();
    let name = "a\u{1b}[31m\nb";
    let _holder = sandbox.hold(&["-l", name]);
    let outcome = sandbox.lockrun(&["-n", "-l", name, "--", "true"]).run();
    outcome.assert_code(75).assert_one_line(&["[31m"]);
    outcome.assert_printable();
}

#[test]
fn an_error_is_said_once_with_what_to_do() {
    let sandbox = Sandbox::new();
    // Enough to start, too few for the files of 20 locks.
    let script = "names=$(seq -f '-l %g' 20); ulimit -n 20; exec lockrun $names -- touch ran";
    let outcome = sandbox.sh(script).run();
    outcome.assert_code(125).assert_one_line(&["Too many open files; raise the limit (ulimit -n)"]);
    assert_eq!(outcome.stderr.to_lowercase().matches("too many open files").count(), 1, "{outcome:?}");
    assert!(!sandbox.path("work/ran").exists());
}
