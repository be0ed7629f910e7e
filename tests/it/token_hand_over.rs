//! A token that was not printed holds nothing; a printed one is valid, even if a
//! process was slow or killed on the way.

use crate::support::{
    Interruption, Outcome, Running, Sandbox, children, eventually, holder_of, interrupt, is_alive, is_held,
    status_field,
};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

/// Processes in the order in which [`CYCLE`] starts them.
const ACQUIRE: usize = 1;
const HOLDER: usize = 2;
const RELEASE: usize = 3;

const CYCLE: &str = r#"
    token=$(lockrun acquire -l calc --expires 60); echo acquire $? $token
    [ "$token" ] || exit 0
    lockrun release "$token"; echo release $?
    lockrun -n -l calc -- true; echo then $?"#;

/// What a line of [`CYCLE`]'s says.
fn said<'a>(outcome: &'a Outcome, step: &str) -> Vec<&'a str> {
    let line = outcome.stdout.lines().find_map(|line| line.strip_prefix(step));
    line.unwrap_or_default().split_whitespace().collect()
}

/// Interrupts a process of [`CYCLE`] at each of its system calls, and then checks the
/// lock. `contended`: another process holds it first, and releases it when all sleep.
fn interrupt_everywhere(victim: usize, how: Interruption, contended: bool) {
    let sandbox = Sandbox::new();
    let file = sandbox.lock_file("calc");
    for nth in 1.. {
        let mut holder = contended.then(|| sandbox.hold(&["-l", "calc"]));
        let all_sleep = || {
            if let Some(holder) = &mut holder {
                assert!(is_held(&file), "the other's lock was lost at {nth}");
                holder.close_stdin();
            }
        };
        let (running, interrupted) = interrupt(sandbox.sh(CYCLE), victim, nth, how, all_sleep);
        if let Some(holder) = holder {
            holder.release().assert_code(0);
        }
        let outcome = running.wait();
        let context = format!("{how:?} process {victim} before its call {nth}: {outcome:?}");
        assert_consistent(&sandbox, &outcome, victim, how, &context);
        eventually(&format!("the lock is free after {context}"), || !file.exists() || !is_held(&file));
        sandbox.assert_free("calc");
        if !interrupted {
            assert!(nth > 5, "it made only {nth} calls");
            return;
        }
    }
}

fn assert_consistent(sandbox: &Sandbox, outcome: &Outcome, victim: usize, how: Interruption, context: &str) {
    let acquired = said(outcome, "acquire ");
    let Some(token) = acquired.get(1) else {
        assert_ne!(acquired, ["0"], "no token, yet success: {context}");
        return;
    };
    let released = said(outcome, "release ");
    let allowed: &[&str] = match (victim, how) {
        (RELEASE, Interruption::Kill) => &["0", "137"],
        (_, Interruption::Kill) => &["0", "123"],
        _ => &["0"],
    };
    assert!(allowed.contains(&released[0]), "released with {released:?}: {context}");
    match released[0] {
        "137" => assert!([Some(0), Some(123)].contains(&sandbox.release(token).code), "{context}"),
        _ => assert_eq!(said(outcome, "then "), ["0"], "released, but not free: {context}"),
    }
}

#[test]
fn acquire_killed_at_any_system_call_leaves_no_lock_without_a_token() {
    interrupt_everywhere(ACQUIRE, Interruption::Kill, false);
}

#[test]
fn acquire_killed_at_any_system_call_of_a_wait_leaves_no_lock_without_a_token() {
    interrupt_everywhere(ACQUIRE, Interruption::Kill, true);
}

#[test]
fn the_holder_killed_at_any_system_call_holds_nothing() {
    interrupt_everywhere(HOLDER, Interruption::Kill, false);
}

#[test]
fn the_holder_killed_at_any_system_call_of_a_wait_holds_nothing() {
    interrupt_everywhere(HOLDER, Interruption::Kill, true);
}

#[test]
fn release_killed_at_any_system_call_can_be_repeated() {
    interrupt_everywhere(RELEASE, Interruption::Kill, false);
}

#[test]
fn a_holder_that_is_slow_at_any_system_call_is_not_lost() {
    interrupt_everywhere(HOLDER, Interruption::Delay, false);
}

#[test]
fn acquire_may_be_slow_at_any_system_call() {
    interrupt_everywhere(ACQUIRE, Interruption::Delay, true);
}

/// Runs `script`, which acquires `calc` and loses the token.
fn assert_let_go_after(script: &str) -> Outcome {
    let sandbox = Sandbox::new();
    let outcome = sandbox.sh(script).run();
    let file = sandbox.lock_file("calc");
    if file.exists() {
        let holder = holder_of(&file);
        eventually(&format!("the holder ends after {script}"), || !is_alive(holder));
        sandbox.assert_free("calc");
    }
    outcome
}

#[test]
fn a_closed_stdout_is_a_failure() {
    let outcome = assert_let_go_after("lockrun acquire -l calc >&-");
    outcome.assert_code(125).assert_one_line(&["stdout"]);
}

#[test]
fn a_full_stdout_is_a_failure() {
    let outcome = assert_let_go_after("lockrun acquire -l calc --expires 60 >/dev/full");
    outcome.assert_code(125).assert_one_line(&["stdout", "No space left"]);
}

#[test]
fn a_stdout_that_nobody_reads_is_a_failure() {
    let script = "mkfifo pipe; exec 3<>pipe 4>pipe 3<&-; lockrun acquire -l calc --expires 60 >&4";
    let outcome = assert_let_go_after(script);
    outcome.assert_code(125).assert_one_line(&["stdout", "pipe"]);
}

#[test]
fn a_closed_stdin_or_stderr_is_not_a_failure() {
    for script in ["<&-", "2>&-", "<&- 2>&-"] {
        let sandbox = Sandbox::new();
        let script = format!(r#"T=$(lockrun acquire -l calc --owner $$ {script}) && lockrun release "$T""#);
        sandbox.sh(&script).run().assert_code(0);
    }
}

#[test]
fn acquire_ended_by_a_signal_ends_by_it_and_holds_nothing() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGKILL] {
        let waiter = sandbox.lockrun(&["acquire", "-l", "calc"]).start().until_waiting();
        waiter.signal(signal);
        waiter.wait().assert_signal(signal).assert_stdout("");
    }
    holder.release().assert_code(0);
    // Of the one that was killed, the process that waited may be dying still.
    sandbox.lockrun(&["-t", "60", "-l", "calc", "--", "true"]).run().assert_code(0);
}

/// Runs a script in which every process stops for long before the first such
/// system call; killing what is returned lets them go on.
fn stopped_before(sandbox: &Sandbox, call: &str, script: &str) -> Running {
    let [trace, inject] = [format!("trace={call}"), format!("inject={call}:delay_enter=600000000:when=1")];
    let words = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "sh", "-c", script];
    sandbox.command("strace", &words).start()
}

fn until_expired(sandbox: &Sandbox) {
    let file = sandbox.lock_file("calc");
    let record = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the lock expires", || record().contains("expired at"));
    eventually("the holder ends", || !is_alive(holder_of(&file)));
}

#[test]
fn a_lock_that_expires_before_its_token_is_printed_is_lost() {
    let sandbox = Sandbox::new();
    let script = "lockrun acquire -l calc --expires 20ms; echo code $?";
    // acquire waits for the token; its holder needs no such call.
    let running = stopped_before(&sandbox, "recvfrom", script);
    until_expired(&sandbox);
    running.signal(libc::SIGKILL);
    eventually("acquire ends", || running.stdout().contains("code"));
    assert_eq!(running.stdout(), "code 123\n", "{running:?}");
    assert!(
        running.stderr().starts_with("lockrun: calc: lost before the token was printed: expired at 2"),
        "{running:?}"
    );
    assert_eq!(running.stderr().lines().count(), 1, "{running:?}");
}

#[test]
fn one_whose_keeper_is_killed_as_soon_as_it_was_printed_is_lost() {
    let sandbox = Sandbox::new();
    // After the token was printed, acquire tells its keeper.
    let inject = "inject=sendto:delay_enter=600s:when=1";
    let words =
        ["-D", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", inject, "lockrun", "acquire", "-l", "calc"];
    let acquire = sandbox.command("strace", &words).start().until_says("\n");
    let keeper = holder_of(&sandbox.lock_file("calc"));
    let tracer = status_field(acquire.pid(), "TracerPid").parse().unwrap();
    for pid in [keeper, tracer] {
        // SAFETY: kill has no memory effects; both are processes of this test.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        eventually("it has ended", || !is_alive(pid));
    }
    acquire.wait().assert_code(123).assert_stderr_has(&["calc: lost as soon as the token was printed", "was killed"]);
    sandbox.assert_free("calc");
}

/// `work/pipe`, full: printing there blocks.
fn full_pipe(sandbox: &Sandbox) -> File {
    sandbox.sh("mkfifo pipe").run().assert_code(0);
    let path = sandbox.path("work/pipe");
    let mut pipe = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    pipe
}

#[test]
fn a_lock_that_expires_while_its_token_is_printed_is_lost() {
    let sandbox = Sandbox::new();
    let mut pipe = full_pipe(&sandbox);
    let running = sandbox.sh("exec lockrun acquire -l calc --expires 20ms >pipe").start();
    until_expired(&sandbox);
    assert_ne!(pipe.read(&mut [0; 65536]).unwrap(), 0);
    running.wait().assert_code(123).assert_one_line(&["calc: lost", "expired at"]);
    sandbox.assert_free("calc");
}

#[test]
fn a_short_lease_gives_a_token_or_a_lost_lock() {
    let sandbox = Sandbox::new();
    for _ in 0..30 {
        let outcome = sandbox.lockrun(&["acquire", "-l", "calc", "--expires", "1ms"]).run();
        match outcome.code {
            Some(0) => drop(outcome.assert_silent()),
            _ => drop(outcome.assert_code(123).assert_one_line(&["calc: lost", "expired at"])),
        }
    }
}

#[test]
fn a_signal_ends_acquire_while_it_waits_for_its_token() {
    let sandbox = Sandbox::new();
    let running = stopped_before(&sandbox, "setsid", "lockrun acquire -l calc; echo code $?");
    let file = sandbox.lock_file("calc");
    eventually("the lock is taken", || file.exists() && is_held(&file));
    let [acquire] = children(children(running.pid())[0])[..] else { panic!("{running:?}") };
    // SAFETY: kill has no memory effects; the process lives.
    unsafe { libc::kill(acquire, libc::SIGINT) };
    eventually("acquire ends", || running.stdout().contains("code"));
    assert_eq!(running.stdout(), "code 130\n", "{running:?}");
    running.signal(libc::SIGKILL);
    eventually("the lock is free", || !is_held(&file));
}

#[test]
fn a_signal_ends_acquire_while_nobody_reads_its_token() {
    let sandbox = Sandbox::new();
    let _pipe = full_pipe(&sandbox);
    let running = sandbox.sh("exec lockrun acquire -l calc --expires 1h >pipe").start();
    let file = sandbox.lock_file("calc");
    eventually("the lock is taken", || file.exists() && is_held(&file));
    running.signal(libc::SIGTERM);
    running.wait().assert_signal(libc::SIGTERM);
    eventually("the lock is free", || !is_held(&file));
}

#[test]
fn a_token_released_before_acquire_notices_is_a_success() {
    let sandbox = Sandbox::new();
    let script = r#"lockrun acquire -l calc --expires 60 | { read -r T; lockrun release "$T"; echo release $?; }
        echo acquire ${PIPESTATUS[0]}"#;
    for nth in 1.. {
        let command = sandbox.command("bash", &["-c", script]);
        let (running, delayed) = interrupt(command, ACQUIRE, nth, Interruption::Delay, || {});
        let outcome = running.wait();
        assert_eq!(outcome.stdout, "release 0\nacquire 0\n", "acquire slow before its call {nth}: {outcome:?}");
        outcome.assert_silent();
        if !delayed {
            assert!(nth > 20, "it made only {nth} calls");
            return;
        }
    }
}
