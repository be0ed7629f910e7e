//! Many processes at once, random in what they ask for and when they are
//! killed, watched by a lock of another kind: never two where one may be, and
//! nobody stuck.

use crate::support::{Random, Running, Sandbox};
use rustix::fs::{FlockOperation, fcntl_lock};
use std::env::current_exe;
use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

const PROCESSES: u32 = 8;
const TURNS: u32 = 600;

#[test]
fn never_two_inside_and_nobody_stuck() {
    let sandbox = Sandbox::new();
    let grants = AtomicU32::new(0);
    scope(|scope| {
        for seed in 0..PROCESSES {
            let (sandbox, grants) = (&sandbox, &grants);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..TURNS {
                    grants.fetch_add(turn(sandbox, &mut random), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(!sandbox.path("work/overlap").exists(), "in {grants:?} grants");
    let grants = grants.into_inner();
    assert!(grants > PROCESSES * TURNS / 2, "only {grants} grants");
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn without_a_lock_the_witness_notices() {
    let sandbox = Sandbox::new();
    let notices = || {
        let running = [(); 4].map(|()| sandbox.command(program(), &ENTER).env(MODE, "-x").start());
        for running in running {
            running.wait().assert_code(0);
        }
        sandbox.path("work/overlap").exists()
    };
    assert!((0..100).any(|_| notices()), "100 times nobody met anybody");
}

/// The command under the lock, in a process of its own: locks a file of the
/// witness, as a reader or a writer; if that fails, somebody else is inside who
/// must not be. Record locks, because they vanish before flock(2) locks do when
/// a process ends.
#[test]
#[ignore = "this is what the test above runs"]
fn enter() {
    let Some(mode) = std::env::var_os(MODE) else {
        return;
    };
    let witness = File::options().read(true).append(true).create(true).open("witness").unwrap();
    let shared = mode == "-s";
    let operation =
        if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    if fcntl_lock(&witness, operation).is_err() {
        File::create("overlap").unwrap();
    }
    println!("inside");
    std::mem::forget(witness);
}

const ENTER: [&str; 4] = ["--exact", "witness::enter", "--ignored", "--nocapture"];
const MODE: &str = "LOCKRUN_TEST_WITNESS";

/// This program, which knows how to [`enter`].
fn program() -> String {
    current_exe().unwrap().into_os_string().into_string().unwrap()
}

/// One call with random options and a random end. Returns how many grants
/// there were, 0 or 1.
fn turn(sandbox: &Sandbox, random: &mut Random) -> u32 {
    let mode = ["-x", "-x", "-s"][random.below(3)];
    let patience: &[&str] =
        [&[] as &[&str], &["-t", "100"], &["-t", "0.01"], &["-n"]][[0, 0, 0, 0, 1, 1, 2, 3][random.below(8)]];
    let way: &[&str] = [&[] as &[&str], &["--exec"], &["--expires", "100"], &["--hold", "tree"]][random.below(4)];
    let program = program();
    let args = [&["-q", mode, "-l", "calc"], patience, way, &["--", &program], &ENTER].concat();
    let running = sandbox.lockrun(&args).env(MODE, mode).start();
    let end = [libc::SIGKILL, libc::SIGKILL, libc::SIGTERM][random.below(3)];
    if random.below(5) == 0 {
        kill_some_time(&running, end, random);
    }
    let outcome = running.wait();
    let expected = match outcome.code {
        Some(code) => [0, 75, 124].contains(&code),
        None => outcome.signal == Some(end),
    };
    assert!(expected, "{outcome:?}");
    u32::from(outcome.stdout.contains("inside"))
}

/// Kills lockrun at a moment that does not matter: anything may happen then.
fn kill_some_time(running: &Running, signal: i32, random: &mut Random) {
    sleep(Duration::from_micros(random.below(20_000) as u64));
    running.signal(signal);
}
