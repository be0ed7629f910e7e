//! Fencing tokens: every grant of a name has a larger one than the last.

use crate::support::Sandbox;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// In microseconds.
const YEAR: u64 = 365 * 24 * 60 * 60 * 1_000_000;

/// The number of one grant, as COMMAND sees it.
#[track_caller]
fn grant(sandbox: &Sandbox, options: &[&str]) -> u64 {
    let args = [options, &["-c", "echo $LOCKRUN_FENCE"]].concat();
    let outcome = sandbox.lockrun(&args).run();
    outcome.assert_code(0).assert_silent();
    let fence = outcome.stdout.trim().parse();
    fence.unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

fn microseconds_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_micros().try_into().unwrap()
}

/// The size of a record.
const SIZE: usize = 1024;

/// Puts another number into the lock file: into the first `records` that have it.
fn forge(sandbox: &Sandbox, records: usize, from: u64, to: u64) {
    let file = sandbox.lock_file("calc");
    let mut text = fs::read(&file).unwrap();
    let has_it = |record: &&mut [u8]| String::from_utf8_lossy(record).contains(&from.to_string());
    for record in text.chunks_mut(SIZE).filter(has_it).take(records) {
        let forged = std::str::from_utf8(record).unwrap().replace(&from.to_string(), &to.to_string());
        assert_ne!(forged.as_bytes(), record);
        let line = forged.trim_end();
        record.copy_from_slice(format!("{line:blanks$}\n", blanks = SIZE - 1).as_bytes());
    }
    fs::write(&file, text).unwrap();
}

#[test]
fn it_rises_with_every_grant() {
    let sandbox = Sandbox::new();
    for options in [&["-l", "calc"] as &[&str], &["--file", "."]] {
        let fences: Vec<_> = (0..10).map(|_| grant(&sandbox, options)).collect();
        assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
    }
}

#[test]
fn it_is_the_wall_clock_in_microseconds() {
    let sandbox = Sandbox::new();
    let before = microseconds_now();
    let fence = grant(&sandbox, &["-l", "calc"]);
    assert!((before..=microseconds_now()).contains(&fence), "{fence}");
}

#[test]
fn it_rises_after_the_file_was_removed() {
    let sandbox = Sandbox::new();
    let before = grant(&sandbox, &["-l", "calc"]);
    fs::remove_file(sandbox.lock_file("calc")).unwrap();
    assert!(grant(&sandbox, &["-l", "calc"]) > before);
    fs::remove_dir_all(sandbox.locks()).unwrap();
    sandbox.make_dir("locks", 0o700);
    assert!(grant(&sandbox, &["-l", "calc"]) > before);
}

#[test]
fn it_continues_from_a_number_in_the_future() {
    let sandbox = Sandbox::new();
    let future = microseconds_now() + 90 * YEAR;
    let now = grant(&sandbox, &["-l", "calc"]);
    forge(&sandbox, 1, now, future);
    assert_eq!(grant(&sandbox, &["-l", "calc"]), future + 1);
    assert_eq!(grant(&sandbox, &["-l", "calc", "--shared"]), future + 2);
    assert_eq!(grant(&sandbox, &["-l", "calc", "--exec"]), future + 3);
    assert!(grant(&sandbox, &["-l", "other"]) < future);
}

/// Numbers that no clock can have made.
fn damage() -> [u64; 4] {
    [u64::MAX, u64::MAX - 1, i64::MAX as u64, microseconds_now() + 101 * YEAR]
}

#[test]
fn a_number_that_no_clock_can_have_made_is_damage() {
    for form in [&[] as &[&str], &["--shared"], &["--exec"], &["--slots", "2"]] {
        for wrong in damage() {
            let sandbox = Sandbox::new();
            let options = [form, &["-l", "calc"]].concat();
            let first = grant(&sandbox, &options);
            forge(&sandbox, 2, first, wrong);
            let next = grant(&sandbox, &options);
            assert!((first + 1..=microseconds_now()).contains(&next), "{wrong} made {next}");
        }
        let sandbox = Sandbox::new();
        let options = [form, &["-l", "calc"]].concat();
        let (first, ahead) = (grant(&sandbox, &options), microseconds_now() + 99 * YEAR);
        forge(&sandbox, 2, first, ahead);
        assert_eq!(grant(&sandbox, &options), ahead + 1);
    }
}

/// The waiter has prepared its text by the time of the damage.
#[test]
fn a_number_that_no_clock_can_have_made_is_damage_for_waiters_too() {
    for wrong in damage() {
        let sandbox = Sandbox::new();
        let holder = sandbox.lockrun(&["-l", "calc", "-c", "echo $LOCKRUN_FENCE; exec cat"]).input("");
        let holder = holder.start().until_says("\n");
        let waiter = sandbox.lockrun(&["-l", "calc", "-c", "echo $LOCKRUN_FENCE"]).start().until_waiting();
        let first: u64 = holder.stdout().trim().parse().unwrap();
        forge(&sandbox, 2, first, wrong);
        holder.wait().assert_code(0);
        let next: u64 = waiter.wait().assert_code(0).assert_silent().stdout.trim().parse().unwrap();
        assert!((first + 1..=microseconds_now()).contains(&next), "{wrong} made {next}");
    }
}

/// The slots' records remember what the last grant's record does not any more.
#[test]
fn records_of_slots_count_where_the_first_is_damaged() {
    let sandbox = Sandbox::new();
    let options = ["-l", "calc", "--slots", "2"];
    let (first, ahead) = (grant(&sandbox, &options), microseconds_now() + YEAR);
    forge(&sandbox, 2, first, ahead);
    forge(&sandbox, 1, ahead, u64::MAX);
    assert_eq!(grant(&sandbox, &options), ahead + 1);
}

#[test]
fn it_rises_for_waiters_in_the_order_of_their_turns() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let append = ["-l", "calc", "-c", "echo $LOCKRUN_FENCE >>fences"];
    let waiters = [(); 5].map(|()| sandbox.lockrun(&append).start().until_waiting());
    holder.release();
    for waiter in waiters {
        waiter.wait().assert_code(0);
    }
    let text = fs::read_to_string(sandbox.path("work/fences")).unwrap();
    let fences: Vec<u64> = text.lines().flat_map(str::parse).collect();
    assert_eq!(fences.len(), 5, "{text}");
    assert!(fences.is_sorted_by(|one, next| one < next), "{text}");
}

#[test]
fn readers_who_hold_together_have_different_ones() {
    let sandbox = Sandbox::new();
    let reader = ["-l", "calc", "-s", "-c", "echo $LOCKRUN_FENCE; exec cat"];
    let readers = [(); 3].map(|()| {
        let reader = sandbox.lockrun(&reader).input("");
        reader.start().until_says("\n")
    });
    let fences = readers.map(|reader| reader.stdout());
    let rising = fences[0] < fences[1] && fences[1] < fences[2];
    assert!(rising, "{fences:?}");
}
