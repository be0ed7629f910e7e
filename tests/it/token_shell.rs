//! Ways in which shells start acquire, with `--owner $$`: the owner is the
//! script, whatever stands between it and acquire.

use crate::support::{Sandbox, children, eventually, is_held};

const SHELLS: [&str; 2] = ["dash", "bash"];

/// Runs `script` in each shell; `ACQUIRE` stands for `lockrun acquire ...`.
fn in_each_shell(script: &str) {
    for shell in SHELLS {
        let sandbox = Sandbox::new();
        let script = script.replace("ACQUIRE", "lockrun acquire -l calc --owner $$");
        let outcome = sandbox.command(shell, &["-c", &script]).run();
        outcome.assert_code(0).assert_stdout("held\nfree\n").assert_silent();
    }
}

/// What follows the token in [`in_each_shell`].
const REST: &str = r#"
    flock -n ../locks/calc.lock true || echo held
    lockrun check "$token" && lockrun release "$token"
    lockrun -n -l calc -- echo free"#;

#[test]
fn substitutions_and_pipes_keep_the_lock() {
    for substitution in [
        "$(ACQUIRE)",
        "`ACQUIRE`",
        "$(ACQUIRE; true)",
        "$(ACQUIRE | cat)",
        "$(timeout 5 ACQUIRE)",
        "$( (ACQUIRE) )",
        "$(nohup ACQUIRE 2>/dev/null)",
        "$(setsid -w ACQUIRE)",
        "$(ACQUIRE & wait $!)",
    ] {
        in_each_shell(&format!("token={substitution} || exit; {REST}"));
    }
}

#[test]
fn a_file_between_steps_keeps_the_lock() {
    in_each_shell(&format!("ACQUIRE >token || exit; read -r token <token; {REST}"));
    in_each_shell(&format!("LOCKRUN_TOKEN=$(ACQUIRE) || exit; export LOCKRUN_TOKEN; token=$LOCKRUN_TOKEN; {REST}"));
}

#[test]
fn the_end_of_the_script_is_the_end_of_the_lock() {
    for shell in SHELLS {
        for substitution in ["$(ACQUIRE)", "$(ACQUIRE; true)", "$(ACQUIRE | cat)", "$(timeout 5 ACQUIRE)"] {
            let sandbox = Sandbox::new();
            let script = format!("token={substitution} || exit; echo taken; cat; exit 0");
            let script = script.replace("ACQUIRE", "lockrun acquire -l calc --owner $$");
            let running = sandbox.command(shell, &["-c", &script]).input("").start().until_says("taken");
            assert!(is_held(&sandbox.lock_file("calc")));
            running.wait().assert_code(0);
            eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
        }
    }
}

#[test]
fn or_exit_passes_on_the_code() {
    for shell in SHELLS {
        let sandbox = Sandbox::new();
        let _holder = sandbox.hold(&["-l", "calc"]);
        let script = "token=$(lockrun acquire -n -l calc --owner $$) || exit $?; echo not here";
        let outcome = sandbox.command(shell, &["-c", script]).run();
        outcome.assert_code(75).assert_stdout("");
    }
}

#[test]
fn ctrl_c_between_acquire_and_release_is_the_end_of_the_lock() {
    let sandbox = Sandbox::new();
    let script = "token=$(lockrun acquire -l calc --owner $$) || exit; echo taken; sleep 1000; echo not here";
    let running = sandbox.sh(script).start().until_says("taken");
    let is_sleep = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    eventually("it sleeps", || children(running.pid()).iter().any(is_sleep));
    running.signal_group(libc::SIGINT);
    let outcome = running.wait();
    assert_eq!(outcome.stdout, "taken\n");
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
}
