//! COMMAND killed by a signal: lockrun ends by the same one.

use crate::support::Sandbox;

#[test]
fn every_signal_that_ends_the_command_ends_lockrun() {
    let sandbox = Sandbox::new();
    for signal in (1..=libc::SIGRTMAX()).filter(ends_a_process) {
        let script = format!("ulimit -c 0; kill -{signal} $$");
        let outcome = sandbox.lockrun(&["-l", "calc", "-c", &script]).run();
        outcome.assert_signal(signal).assert_silent();
    }
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn a_shell_shows_128_and_the_signal() {
    let sandbox = Sandbox::new();
    sandbox.sh("lockrun -l calc -c 'kill -TERM $$'; echo $?").run().assert_stdout("143\n");
}

#[test]
fn only_the_command_leaves_a_core_file() {
    let sandbox = Sandbox::new();
    let script = "ulimit -c unlimited; exec lockrun -l calc -c 'ulimit -c 0; kill -QUIT $$'";
    let outcome = sandbox.sh(script).run();
    outcome.assert_signal(libc::SIGQUIT).assert_silent();
    assert!(!outcome.dumped_core, "{outcome:?}");
}

/// Not: those that are ignored by default, that stop, and the two that the C
/// library keeps for itself.
fn ends_a_process(signal: &i32) -> bool {
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stopping = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let own = 32..libc::SIGRTMIN();
    !harmless.contains(signal) && !stopping.contains(signal) && !own.contains(signal)
}
