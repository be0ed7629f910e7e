//! Many processes at once, random in what they ask for and when they are
//! killed, watched by a lock of another kind: never two where one may be, and
//! nobody stuck.

use crate::support::{Running, Sandbox};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

/// Who is inside locks the witness's file, as a reader or a writer; if that is
/// not free, somebody else is inside who must not be.
const WITNESS: &str = "exec 9>>witness; flock $1 -n 9 || echo overlap >>overlaps; echo in";

const PROCESSES: u32 = 8;
const TURNS: u32 = 600;

#[test]
fn nobody_is_ever_inside_who_must_not_be_and_nobody_is_stuck() {
    let sandbox = Sandbox::new();
    sandbox.write("work/enter", WITNESS);
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
    let overlaps = std::fs::read_to_string(sandbox.path("work/overlaps")).unwrap_or_default();
    assert_eq!(overlaps, "", "{grants:?} grants");
    let grants = grants.into_inner();
    assert!(grants > PROCESSES * TURNS / 2, "only {grants} grants");
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

/// One call with random options and a random end. Returns how many grants
/// there were, 0 or 1.
fn turn(sandbox: &Sandbox, random: &mut Random) -> u32 {
    let mode = ["-x", "-x", "-s"][random.below(3)];
    let patience: &[&str] =
        [&[] as &[&str], &["-t", "100"], &["-t", "0.01"], &["-n"]][[0, 0, 0, 0, 1, 1, 2, 3][random.below(8)]];
    let way: &[&str] = [&[] as &[&str], &["--exec"], &["--expires", "100"], &["--hold", "tree"]][random.below(4)];
    let args = [&["-q", mode, "-l", "calc"], patience, way, &["--", "sh", "./enter", mode]].concat();
    let running = sandbox.lockrun(&args).start();
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
    u32::from(outcome.stdout == "in\n")
}

/// Kills lockrun at a moment that does not matter: anything may happen then.
fn kill_some_time(running: &Running, signal: i32, random: &mut Random) {
    sleep(Duration::from_micros(random.below(20_000) as u64));
    running.signal(signal);
}

/// The same numbers in every run (xorshift).
struct Random(u32);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        let mut next = self.0.wrapping_add(0x9e37_79b9);
        next ^= next << 13;
        next ^= next >> 17;
        next ^= next << 5;
        self.0 = next;
        (next >> 8) as usize % limit
    }
}
