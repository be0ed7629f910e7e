//! `acquire --fd N` while it waits: it shares one queue with all others, and what is
//! locked afterwards agrees with the exit code.

use crate::support::{
    Invocation, Running, Sandbox, Terminal, Timeline, eventually, is_alive, is_held, sleeps_in_a_lock_call,
    status_field,
};
use std::collections::HashMap;
use std::fs;

/// Opens `calc`, locks it and does `body`.
fn script(options: &str, body: &str) -> String {
    format!("exec 9<>\"$(lockrun path calc)\" || exit; lockrun acquire --fd 9 {options} || exit; {body}")
}

/// Opens `calc`, asks for it, and tells how that ended: the exit code, and what
/// `check` says then.
fn asking(sandbox: &Sandbox, options: &str) -> Invocation {
    let text = format!(
        "exec 9<>\"$(lockrun path calc)\" || exit
        lockrun acquire --fd 9 {options}; code=$?; lockrun check --fd 9 2>&-; echo $code, check $?; cat"
    );
    sandbox.sh(&text).input("")
}

/// The lockrun of a script that waits.
fn lockrun_of(script: &Running) -> i32 {
    let children = crate::support::children(script.pid());
    *children.iter().find(|child| sleeps_in_a_lock_call(**child)).expect("a child that waits")
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: kill has no memory effects; the process is the child of a script
    // that has not waited for it.
    unsafe { libc::kill(pid, signal) };
}

#[test]
fn scripts_names_paths_and_tokens_are_served_in_the_order_of_their_arrival() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    let holder = sandbox.hold(&["-l", "calc"]);
    let path = sandbox.lock_file("calc");
    let start = |number: usize| {
        let visit = timeline.visit(&number.to_string(), "true");
        let token = format!("T=$(lockrun acquire -l calc --owner $$) || exit; {visit}; lockrun release $T");
        let running = match number % 4 {
            0 => sandbox.sh(&script("", &visit)),
            1 => sandbox.lockrun(&["-l", "calc", "-c", &visit]),
            2 => sandbox.sh(&script("-t 100", &visit)),
            _ if number == 3 => sandbox.lockrun(&["--file", path.to_str().unwrap(), "-c", &visit]),
            _ => sandbox.sh(&token),
        };
        running.start().until_waiting()
    };
    let waiters: Vec<_> = (0..12).map(start).collect();
    holder.release();
    for waiter in waiters {
        waiter.wait().assert_code(0).assert_silent();
    }
    timeline.assert_entered(
        &(0..12).map(|number| number.to_string()).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>(),
    );
    timeline.assert_one_at_a_time();
}

/// The process that shows the wait is not waited for.
#[test]
fn a_stopped_helper_does_not_hold_up_the_grant() {
    for ask in ["exec 9<>f; lockrun acquire --fd 9", "lockrun flock f -c true"] {
        let sandbox = Sandbox::new();
        let holder = sandbox.sh("lockrun --file f -c 'echo holding; cat'").input("").start().until_says("holding");
        let script = sandbox.sh(&format!("{ask}; exit $?")).start().until_waiting();
        let lockrun = lockrun_of(&script);
        let helper = crate::support::children(lockrun)[0];
        kill(helper, libc::SIGSTOP);
        eventually("it is stopped", || status_field(helper, "State").starts_with('T'));
        holder.wait().assert_code(0);
        script.wait().assert_code(0);
    }
}

#[test]
fn a_later_reader_does_not_pass_a_writer() {
    let sandbox = Sandbox::new();
    let start = |options: &str| sandbox.sh(&script(options, "echo holding; cat")).input("").start();
    let reader = start("-s").until_says("holding");
    let writer = start("").until_waiting();
    let late = start("-s").until_waiting();
    sandbox.sh(&script("-s -n", "true")).run().assert_code(75);
    reader.wait().assert_code(0);
    let writer = writer.until_says("holding");
    eventually("the reader sleeps", || late.is_waiting());
    assert_eq!(late.stdout(), "");
    writer.wait().assert_code(0);
    let late = late.until_says("holding");
    sandbox.sh(&script("-s -n", "true")).run().assert_code(0);
    late.wait().assert_code(0);
}

#[test]
fn a_wait_that_is_over_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let late = asking(&sandbox, "-q -t 0.05").start().until_says("124, check 123");
    let busy = asking(&sandbox, "-q -n").start().until_says("75, check 123");
    let full = asking(&sandbox, "-q --max-waiters 0").start().until_says("121, check 123");
    holder.release();
    // Their descriptors are open still.
    sandbox.assert_free("calc");
    for script in [late, busy, full] {
        script.wait().assert_code(0).assert_silent();
    }
}

/// The grant and the end of the time at the same moment: the code says which.
#[test]
fn code_and_lock_agree_when_it_times_out_at_the_grant() {
    let sandbox = Sandbox::new();
    let mut seen = HashMap::new();
    for round in 0..120 {
        let hold = 20 + round % 30;
        let holder = sandbox.lockrun(&["-l", "calc", "-c", &format!("echo holding; sleep 0.0{hold}")]).start();
        let holder = holder.until_says("holding");
        let text = "exec 9<>\"$(lockrun path calc)\"; lockrun acquire -q --fd 9 -t 0.03; code=$?
            if flock -n \"$(lockrun path calc)\" true; then echo $code free; else echo $code held; fi
            sleep 0.01; if flock -n \"$(lockrun path calc)\" true; then echo free; else echo held; fi";
        let outcome = sandbox.sh(text).run();
        holder.wait();
        match outcome.stdout.as_str() {
            "0 held\nheld\n" => *seen.entry("granted").or_insert(0) += 1,
            // The other one may hold it still.
            "124 held\nfree\n" | "124 free\nfree\n" | "124 held\nheld\n" => *seen.entry("timed out").or_insert(0) += 1,
            _ => panic!("{outcome:?}"),
        }
        sandbox.assert_free("calc");
    }
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 10), "{seen:?}");
}

#[test]
fn a_killed_waiter_never_gets_the_lock() {
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGQUIT] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let waiter = asking(&sandbox, "").start().until_waiting();
        kill(lockrun_of(&waiter), signal);
        let waiter = waiter.until_says(&format!("{}, check 123", 128 + signal));
        holder.release();
        sandbox.assert_free("calc");
        waiter.wait();
    }
}

/// A moment that a signal has to hit: the lock is given back, or the code says 0.
#[test]
fn code_and_lock_agree_when_a_signal_comes_around_the_grant() {
    let sandbox = Sandbox::new();
    for round in 0..60 {
        let holder = sandbox.hold(&["-l", "calc"]);
        let waiter = asking(&sandbox, "").start().until_waiting();
        let lockrun = lockrun_of(&waiter);
        if round % 2 == 0 {
            kill(lockrun, libc::SIGTERM);
            holder.release();
        } else {
            holder.release();
            kill(lockrun, libc::SIGTERM);
        }
        eventually("it tells", || waiter.stdout().contains("check"));
        let told = waiter.stdout();
        let is_held = is_held(&sandbox.lock_file("calc"));
        // Killed before it could give it back, the lock is the script's.
        let agree = match told.as_str() {
            "0, check 0\n" => is_held,
            "143, check 123\n" => !is_held,
            _ => false,
        };
        assert!(agree, "{told} held: {is_held}");
        waiter.wait();
    }
}

/// strace(1) kills lockrun before each of its system calls in turn: afterwards
/// exit code, `check` and the kernel agree, and stay so.
fn kill_at_each_call(holds: bool, options: &str) {
    let round = |inject: &str| {
        let sandbox = Sandbox::new();
        let holder = holds.then(|| sandbox.hold(&["-l", "calc"]));
        let text = format!(
            "exec 9<>\"$(lockrun path calc)\" || exit
            strace -qq -o trace {inject} lockrun acquire --fd 9 {options}; code=$?
            lockrun check --fd 9 2>&-; echo $code, check $?; cat"
        );
        let mut script = sandbox.sh(&text).input("").start();
        if let Some(holder) = holder {
            eventually("it waits or has told", || script.is_waiting() || script.stdout().contains("check"));
            holder.release();
        }
        eventually("it has told", || script.stdout().contains("check") || script.has_ended());
        let told = script.stdout();
        let path = sandbox.lock_file("calc");
        let is_held = is_held(&path);
        let agree = match told.as_str() {
            "0, check 0\n" | "137, check 0\n" => is_held,
            "137, check 123\n" => !is_held,
            _ => false,
        };
        assert!(agree, "{inject}: {told} held: {is_held}");
        let trace = fs::read_to_string(sandbox.path("work/trace")).unwrap();
        script.wait();
        // Nobody else has inherited it.
        eventually("it is free when the script has ended", || !crate::support::is_held(&path));
        (told, trace)
    };
    let (told, trace) = round("");
    assert_eq!(told, "0, check 0\n");
    let mut counts = HashMap::new();
    let calls = trace.lines().filter_map(|line| line.split_once('(').map(|(name, _)| name.to_owned()));
    let points: Vec<_> = calls
        .filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .map(|name| {
            let count = counts.entry(name.clone()).or_insert(0);
            *count += 1;
            (name, *count)
        })
        .skip(1)
        .collect();
    let (mut with, mut without, mut missed) = (0, 0, 0);
    for (name, count) in &points {
        match round(&format!("-e inject={name}:signal=KILL:when={count}")).0.as_str() {
            "137, check 0\n" => with += 1,
            "137, check 123\n" => without += 1,
            _ => missed += 1,
        }
    }
    // Both sides of the grant were hit.
    assert!(with > 2 && without > 10 && missed <= points.len() / 5, "{with} {without} {missed} of {points:?}");
}

#[test]
fn code_check_and_kernel_agree_after_a_kill_at_any_system_call() {
    kill_at_each_call(false, "-n");
}

#[test]
fn code_check_and_kernel_agree_after_a_kill_at_any_system_call_of_a_wait() {
    kill_at_each_call(true, "-t 100");
}

#[test]
fn a_killed_waiter_leaves_no_process_behind() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let waiter = asking(&sandbox, "-v").start().until_waiting();
    let lockrun = lockrun_of(&waiter);
    let helpers = crate::support::children(lockrun);
    kill(lockrun, libc::SIGKILL);
    eventually("they have ended", || !helpers.iter().any(|pid| is_alive(*pid)));
    waiter.until_says("137").wait();
}

#[test]
fn a_waiter_that_is_stopped_gives_up_its_place_and_queues_anew() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut shell = Terminal::shell(&sandbox);
    shell.enter("exec 9<>\"$(lockrun path calc)\"");
    shell.until_shows("ready> ");
    shell.enter("lockrun acquire --fd 9; echo code $?");
    eventually("it waits", || shell.is_waiting());
    shell.until_shows("lockrun: waiting");
    shell.press("\x1a");
    shell.until_shows("Stopped");
    holder.release();
    sandbox.assert_free("calc");
    let holder = sandbox.hold(&["-l", "calc"]);
    shell.enter("fg");
    eventually("it waits again", || shell.is_waiting());
    holder.release();
    eventually("it is held", || is_held(&sandbox.lock_file("calc")));
    shell.until_shows("ready> ");
    shell.enter("lockrun check --fd 9; echo check $?");
    shell.until_shows("check 0");
}

#[test]
fn on_a_terminal_a_living_line_names_the_holder() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let text = script("-t 1000", "echo in");
    let mut terminal = Terminal::start(sandbox.sh(&text).env("TERM", "xterm"));
    terminal.until_shows("lockrun: waiting");
    terminal.until_shows("left: calc; held by pid");
    holder.release();
    terminal.until_shows("in\r\n");
    terminal.wait().assert_code(0);
}

#[test]
fn ctrl_c_ends_the_script_and_takes_the_line_away() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc"]);
    let mut terminal = Terminal::start(sandbox.sh(&script("", "echo in")).env("TERM", "xterm"));
    terminal.until_shows("lockrun: waiting");
    terminal.press("\x03");
    terminal.until_shows("\r\x1b[K");
    terminal.wait().assert_signal(libc::SIGINT);
}

#[test]
fn scripts_and_flock_exclude_each_other_for_two_hundred_rounds() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    sandbox.lockrun(&["path", "calc"]).run().assert_code(0);
    let rounds = |id: &str, take: &str, give: &str| {
        let visit = timeline.visit(id, "true");
        let text = format!(
            "exec 9<>\"$(lockrun path calc)\" || exit
            for i in $(seq 200); do {take} || exit; {visit}; {give} || exit; done"
        );
        sandbox.sh(&text).start()
    };
    let ours = [1, 2].map(|n| rounds(&format!("d{n}"), "lockrun acquire --fd 9", "lockrun release --fd 9"));
    let flock = rounds("flock", "flock 9", "flock -u 9");
    let mixed = rounds("mixed", "lockrun acquire --fd 9", "flock -u 9");
    let named = timeline.visit("named", "true");
    sandbox.write("work/named", &named);
    let named = sandbox.sh("for i in $(seq 200); do lockrun -l calc -- sh ./named || exit; done").start();
    for running in ours.into_iter().chain([flock, mixed, named]) {
        running.wait().assert_code(0).assert_silent();
    }
    timeline.assert_one_at_a_time();
    assert_eq!(timeline.entered().len(), 1000);
    sandbox.assert_free("calc");
}
