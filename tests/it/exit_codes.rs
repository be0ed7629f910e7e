//! The exit codes that one lock can give.

use crate::support::{Sandbox, am_root};
use std::fs;

#[test]
fn the_commands_code_passes_unchanged() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 2, 75, 121, 122, 123, 124, 125, 126, 127, 128, 143, 255] {
        let outcome = sandbox.lockrun(&["-l", "calc", "-E", "9", "-c", &format!("exit {code}")]).run();
        outcome.assert_code(code).assert_silent();
    }
}

#[test]
fn busy_is_75_and_timed_out_is_124() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let attempt = |t| sandbox.lockrun(&["-t", t, "-l", "calc", "--", "true"]);
    attempt("0").run().assert_code(75);
    attempt("0.01").run().assert_code(124);
}

#[test]
fn a_waiter_makes_a_lock_busy_too() {
    let sandbox = Sandbox::new();
    let reader = sandbox.hold(&["-l", "calc", "--shared"]);
    let writer = sandbox.lockrun(&["-l", "calc", "--", "true"]);
    let writer = writer.start().until_waiting();
    let another = ["-n", "-l", "calc", "--shared", "--", "true"];
    sandbox.lockrun(&another).run().assert_code(75);
    reader.release();
    writer.wait().assert_code(0);
    sandbox.lockrun(&another).run().assert_code(0);
}

#[test]
fn the_conflict_code_is_the_users_choice() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let attempt = |timeout, option, code| {
        let args = ["-t", timeout, option, code, "-l", "calc", "--", "true"];
        sandbox.lockrun(&args).run()
    };
    attempt("0", "-E", "0").assert_code(0);
    attempt("0", "-E", "255").assert_code(255);
    attempt("0.01", "--conflict-exit-code", "7").assert_code(7);
}

#[test]
fn the_conflict_code_is_for_conflicts_only() {
    let sandbox = Sandbox::new();
    let attempt = |args: &[&str]| {
        let args = [&["-E", "0", "-l", "calc"], args].concat();
        sandbox.lockrun(&args).run()
    };
    attempt(&["-t", "abc", "--", "true"]).assert_code(125);
    attempt(&["--dir", "/dev/null", "--", "true"]).assert_code(125);
    attempt(&["--", "/etc/passwd"]).assert_code(126);
    attempt(&["--", "/no/such/command"]).assert_code(127);
    attempt(&["-c", "exit 75"]).assert_code(75);
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    let sandbox = Sandbox::new();
    sandbox.write("work/plain", "echo not executable\n");
    for command in ["./plain", "/etc", "/dev/null"] {
        let outcome = sandbox.lockrun(&["-l", "calc", "--", command]).run();
        outcome.assert_code(126).assert_one_line(&[command]);
    }
}

#[test]
fn a_command_that_is_not_found_is_127() {
    let sandbox = Sandbox::new();
    for command in ["no-such-command", "./no-such-command", "/no/such/command"] {
        let outcome = sandbox.lockrun(&["-l", "calc", "--", command]).run();
        outcome.assert_code(127).assert_one_line(&[command]);
    }
}

#[test]
fn a_script_without_its_interpreter_is_127_and_the_error_says_so() {
    let sandbox = Sandbox::new();
    let script = sandbox.write("work/script", "#!/no/such/interpreter\n");
    std::fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    sandbox.lockrun(&["-l", "calc", "--", "./script"]).run().assert_code(127).assert_one_line(&["interpreter"]);
}

#[test]
fn a_command_killed_by_a_signal_ends_us_by_the_same() {
    let sandbox = Sandbox::new();
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGKILL,
        libc::SIGPIPE,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGVTALRM,
        34,
        64,
    ] {
        let kill = format!("kill -{signal} $$; echo survived");
        let outcome = sandbox.lockrun(&["-l", "calc", "-c", &kill]).run();
        outcome.assert_signal(signal).assert_stdout("").assert_silent();
    }
}

#[test]
fn a_command_that_dumps_core_does_not_make_us_dump_one() {
    let sandbox = Sandbox::new();
    for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGQUIT] {
        let script = format!("ulimit -c unlimited; exec lockrun -l calc -c 'kill -{signal} $$'");
        let outcome = sandbox.sh(&script).run();
        outcome.assert_signal(signal);
        assert!(!outcome.dumped_core, "{outcome:?}");
    }
}

#[test]
fn a_shell_shows_128_and_the_signal() {
    let sandbox = Sandbox::new();
    let script = "lockrun -l calc -c 'kill -TERM $$'; echo $?";
    sandbox.sh(script).run().assert_stdout("143\n");
}

#[test]
fn an_interrupt_stops_the_loop_around_us() {
    let sandbox = Sandbox::new();
    // bash goes on if its child exits, even with 130, and stops if it was killed.
    let script = "for turn in 1 2 3; do lockrun -l calc -c 'echo holding; exec cat'; done";
    let running = sandbox.command("bash", &["-c", script]).input("").start().until_says("holding");
    running.signal_group(libc::SIGINT);
    let outcome = running.wait();
    outcome.assert_signal(libc::SIGINT).assert_stdout("holding\n");
}

#[test]
fn a_signal_while_waiting_ends_us_by_it() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGKILL,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGTERM,
    ] {
        for form in [&[] as &[&str], &["--exec"], &["-t", "50"], &["-E", "0"]] {
            let args = [form, &["-l", "calc", "--", "touch", "ran"]].concat();
            let waiter = sandbox.lockrun(&args).start().until_waiting();
            waiter.signal(signal);
            waiter.wait().assert_signal(signal);
        }
    }
    holder.release().assert_code(0);
    let free = sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]);
    free.run().assert_code(0);
    assert!(fs::metadata(sandbox.path("work/ran")).is_err());
}

#[test]
fn a_path_with_entries_that_cannot_be_searched_does_not_change_what_is_found() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/file", "");
    let closed = sandbox.make_dir("work/closed", 0o000);
    let plain = sandbox.make_dir("work/plain", 0o755);
    sandbox.write("work/plain/not-executable", "");
    let run = |path: &str, command: &str| {
        let invocation = sandbox.lockrun(&["-l", "calc", "--", command]).env("PATH", path);
        if am_root() { invocation.by_user(54321, 54321) } else { invocation }.run()
    };
    sandbox.make_dir("locks", 0o777);
    let [file, closed, plain] = [&file, &closed, &plain].map(|path| path.display().to_string());
    for odd in [&file, &closed, "/no/such/directory", "relative", ""] {
        for path in [format!("{odd}:/bin:/usr/bin"), format!("/bin:/usr/bin:{odd}"), format!("{odd}:{plain}")] {
            run(&path, "no-such-command").assert_code(127).assert_one_line(&["command not found: no-such-command"]);
            if path.contains("/bin") {
                run(&path, "true").assert_code(0);
            }
        }
        run(&format!("{plain}:{odd}"), "not-executable").assert_code(126).assert_one_line(&["Permission denied"]);
        run(odd, "no-such-command").assert_code(127);
    }
}

#[test]
fn a_missing_interpreter_of_a_script_in_path_is_named() {
    let sandbox = Sandbox::new();
    let script = sandbox.write("bin/odd-script", "#!/no/such/interpreter\n");
    std::fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    sandbox.lockrun(&["-l", "calc", "--", "odd-script"]).run().assert_code(127).assert_one_line(&["interpreter"]);
}
