//! `--exec` (`-F`, `--no-fork`): become COMMAND.

use crate::support::{Sandbox, eventually, is_held};

#[test]
fn no_process_of_ours_stays() {
    let sandbox = Sandbox::new();
    for option in ["--exec", "-F", "--no-fork"] {
        let running =
            sandbox.lockrun(&["-l", "calc", option, "-c", "echo $$; exec cat"]).input("").start().until_says("\n");
        assert_eq!(running.stdout().trim(), running.pid().to_string());
        assert!(is_held(&sandbox.lock_file("calc")));
        running.wait().assert_code(0).assert_silent();
        assert!(!is_held(&sandbox.lock_file("calc")));
    }
}

#[test]
fn it_waits_its_turn() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-l", "calc", "--exec", "-c", "echo $$"]);
    let waiter = waiter.start().until_waiting();
    let pid = waiter.pid();
    holder.release();
    waiter.wait().assert_code(0).assert_stdout(&format!("{pid}\n"));
}

#[test]
fn it_fails_with_the_same_codes() {
    let sandbox = Sandbox::new();
    let attempt = |args: &[&str]| sandbox.lockrun(&[&["--exec", "-l", "calc"], args].concat());
    attempt(&["--", "/no/such/command"]).run().assert_code(127);
    attempt(&["--", "/etc/passwd"]).run().assert_code(126);
    attempt(&["-c", "exit 9"]).run().assert_code(9);
    let _holder = sandbox.hold(&["-l", "calc"]);
    attempt(&["-n", "--", "true"]).run().assert_code(75);
    let timed_out = attempt(&["-t", "0.02", "--", "true"]).run();
    timed_out.assert_code(124).assert_one_line(&["calc"]);
}

#[test]
fn the_lock_ends_with_the_last_copy_of_the_descriptor() {
    let sandbox = Sandbox::new();
    let fifo = sandbox.path("work/fifo");
    let script = "mkfifo fifo; setsid sh -c 'read line <fifo' >/dev/null 2>&1 & echo left";
    let outcome = sandbox.lockrun(&["-l", "calc", "--exec", "-c", script]).run();
    outcome.assert_code(0).assert_stdout("left\n");
    assert!(is_held(&sandbox.lock_file("calc")));
    eventually("the daemon has its fifo", || fifo.exists());
    sandbox.sh("echo end >fifo").run().assert_code(0);
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
}
