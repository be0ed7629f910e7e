//! Every kind of lock at once, by many processes that are killed at random, under a
//! witness of another kind: record locks, which vanish before flock(2) locks when a
//! process ends. `LOCKRUN_TEST_FULL=1` makes 20,000 grants instead of some hundred.

use crate::support::{LIMIT, Outcome, Random, Running, Sandbox, children};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::env::{current_exe, var, var_os};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{scope, sleep, yield_now};
use std::time::{Duration, Instant};

const PROCESSES: u32 = 8;

/// What is made full size with `LOCKRUN_TEST_FULL=1`.
pub fn size(default: usize, full: usize) -> usize {
    if var_os("LOCKRUN_TEST_FULL").is_some() { full } else { default }
}

#[test]
fn locks_exclude_and_nobody_is_stuck() {
    let sandbox = Sandbox::new();
    let enough = size(900, 20_000);
    let kills = AtomicUsize::new(0);
    scope(|scope| {
        for seed in 0..PROCESSES {
            let (sandbox, kills) = (&sandbox, &kills);
            scope.spawn(move || {
                let mut random = Random(seed);
                while number_of_grants(sandbox) < enough && !sandbox.path("work/overlap").exists() {
                    turn(sandbox, &mut random, kills);
                }
            });
        }
    });
    let overlap = fs::read_to_string(sandbox.path("work/overlap"));
    let grants = grants(&sandbox);
    println!("{grants:#?}");
    let number: u32 = grants.values().sum();
    let (overlaps, kills) = (u32::from(overlap.is_ok()), kills.load(Relaxed));
    println!("summary: every mode on files: {number} grants, {overlaps} overlaps, 0 stuck, {kills} kills");
    assert!(overlap.is_err(), "{overlap:?} in {grants:?}");
    for kind in ["calc x", "calc s", "calc p0", "calc p1", "calc p2", "calc p4", "a x", "a s", "a p1", "b x", "b s"] {
        assert!(grants.contains_key(kind), "never granted: {kind} in {grants:?}");
    }
    for name in ["calc", "a", "b"] {
        sandbox.lockrun(&["-t", "50", "-l", name, "--", "true"]).run().assert_code(0);
    }
}

/// One call with random options and a random end.
fn turn(sandbox: &Sandbox, random: &mut Random, kills: &AtomicUsize) {
    let names: &[&str] = [&["calc"][..], &["a"], &["b"], &["a", "b"], &["b", "a"], &["b", "calc"]][random.below(6)];
    let mode: &[&str] = [
        &["-x"][..],
        &["-x"],
        &["-s"],
        &["--slots", "2"],
        &["--slots", "3"],
        &["--slots", "3", "--slot", "2"],
        &["--slots", "3", "--slot", "-2"],
        // A place that not every pool has.
        &["--slots", "5", "--slot", "4"],
        &["--slots", "5"],
    ][random.below(9)];
    let patience: &[&str] =
        [&["-t", "100"][..], &[], &["-t", "0.01"], &["-n"], &["--max-waiters", "3"], &["--replace"]]
            [[0, 0, 1, 1, 1, 2, 3, 4, 5][random.below(9)]];
    let may_replace = mode == ["-x"] && names == ["calc"];
    let patience = if patience == ["--replace"] && !may_replace { &[] } else { patience };
    let names: Vec<_> = names.iter().flat_map(|name| ["-l", name]).collect();
    let options = [&["-q"], mode, patience, &names].concat();
    let letter = ["x", "s", "p"][usize::from(mode != ["-x"]) + usize::from(mode.len() > 1)];
    // What a token holds can be replaced under those who have the token.
    let has_one_place = letter != "p" || names.len() == 2;
    let is_token = !names.contains(&"calc") && has_one_place && random.below(3) == 0;
    let running =
        if is_token { by_token(sandbox, &options, letter) } else { by_run(sandbox, random, &options, letter) };
    let killed = random.below(5) == 0;
    if killed {
        kills.fetch_add(kill_somebody(&running, is_token, random), Relaxed);
    }
    let outcome = end_of(running);
    let expected = match outcome.code {
        Some(0 | 75 | 121 | 123 | 124) => true,
        Some(_) => killed,
        // Those who replace end an --exec command by TERM.
        None => killed || outcome.signal == Some(libc::SIGTERM),
    };
    assert!(expected, "{outcome:?}");
}

/// How it ended. If it does not, tells first where everybody sleeps.
fn end_of(mut running: Running) -> Outcome {
    let start = Instant::now();
    while !running.has_ended() && start.elapsed() < LIMIT {
        sleep(Duration::from_millis(1));
    }
    if start.elapsed() >= LIMIT {
        let args = ["-e", "-o", "pid,ppid,sid,stat,wchan:24,args", "--cols", "300"];
        let list = std::process::Command::new("ps").args(args).output().unwrap();
        panic!("stuck: {running:?}\n{}", String::from_utf8_lossy(&list.stdout));
    }
    running.wait()
}

fn by_run(sandbox: &Sandbox, random: &mut Random, options: &[&str], letter: &str) -> Running {
    let way = [&[][..], &[], &["--exec"], &["--expires", "100"], &["--hold", "tree"]][random.below(5)];
    let program = program();
    sandbox.lockrun(&[options, way, &["--", &program], &ENTER].concat()).env(MODE, letter).start()
}

fn by_token(sandbox: &Sandbox, options: &[&str], letter: &str) -> Running {
    let names: Vec<_> =
        options.iter().skip_while(|word| **word != "-l").filter(|word| **word != "-l").copied().collect();
    let script = format!(
        "T=$(lockrun acquire {} --owner $$) || exit
        LOCKRUN_SLOT=$(lockrun check --json $T | sed -n 's/.*\"slot\": *\\([0-9]*\\).*/\\1/p')
        export LOCKRUN_SLOT; {} {}; lockrun release $T",
        options.join(" "),
        program(),
        ENTER.join(" ")
    );
    sandbox.sh(&script).env(MODE, letter).env("LOCKRUN_NAME", names.join("\n")).start()
}

/// Kills somebody at a moment that does not matter: anything may happen then.
/// Not the owner of a token, whose lock ends with it and not with what it
/// started. Returns how many it killed.
fn kill_somebody(running: &Running, is_token: bool, random: &mut Random) -> usize {
    sleep(Duration::from_micros(random.below(20_000) as u64));
    let mut victims = children(running.pid());
    if !is_token {
        victims.extend(victims.clone().into_iter().flat_map(children));
        victims.push(running.pid());
    }
    let Some(victim) = victims.get(random.below(victims.len().max(1))) else { return 0 };
    let signal = [libc::SIGKILL, libc::SIGKILL, libc::SIGTERM][random.below(3)];
    // SAFETY: kill has no memory effects. At worst the number is that of
    // another process of this campaign.
    usize::from(unsafe { libc::kill(*victim, signal) } == 0)
}

fn grants(sandbox: &Sandbox) -> BTreeMap<String, u32> {
    let mut grants = BTreeMap::new();
    for line in fs::read_to_string(sandbox.path("work/grants")).unwrap_or_default().lines() {
        let (kind, _owner) = line.rsplit_once(' ').unwrap();
        *grants.entry(kind.to_owned()).or_default() += 1;
    }
    grants
}

fn number_of_grants(sandbox: &Sandbox) -> usize {
    fs::read(sandbox.path("work/grants")).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

const ENTER: [&str; 4] = ["--exact", "campaign::enter", "--ignored", "--nocapture"];
const MODE: &str = "LOCKRUN_TEST_CAMPAIGN";

/// This program, which knows how to [`enter`].
fn program() -> String {
    current_exe().unwrap().into_os_string().into_string().unwrap()
}

/// The command under the locks.
#[test]
#[ignore = "this is what the tests here run"]
fn enter() {
    let Ok(mode) = var(MODE) else {
        return;
    };
    let names = var("LOCKRUN_NAME").unwrap();
    let places = var("LOCKRUN_SLOT").unwrap_or_default();
    let mut places = places.lines();
    let inside: Vec<_> =
        names.lines().map(|name| witness(name, &mode, places.next().and_then(|place| place.parse().ok()))).collect();
    (0..100).for_each(|_| yield_now());
    // Until the process has ended.
    std::mem::forget(inside);
}

/// Says who is inside, and whether somebody else is who must not be. That ends
/// when the file is closed, or this process has ended.
fn witness(name: &str, mode: &str, place: Option<i64>) -> File {
    let file = File::options().read(true).append(true).create(true).open(format!("witness-{name}")).unwrap();
    let kind = if mode == "s" { libc::F_RDLCK } else { libc::F_WRLCK };
    let (start, length) = if mode == "p" { (place.expect("a place"), 1) } else { (0, 64) };
    let mut range =
        libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: start, l_len: length, l_pid: 0 };
    let place = place.map(|place| place.to_string()).unwrap_or_default();
    let append = |file: &str, text: String| {
        let mut file = File::options().append(true).create(true).open(file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let me = std::process::id();
    // SAFETY: the descriptor is open and `range` is what the calls expect.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw mut range) } != 0 {
        // SAFETY: as above.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut range) };
        append("overlap", format!("{name} {mode}{place}: pid {me} while pid {} is inside\n", range.l_pid));
    }
    append("grants", format!("{name} {mode}{place} {me}\n"));
    file
}

// Locks that are broken on purpose.

const VARIANT: &str = "LOCKRUN_TEST_VARIANT";

/// Loops of a locker that is not lockrun, in a process of its own.
#[test]
#[ignore = "this is what the tests below run"]
fn locker() {
    let Ok(variant) = var(VARIANT) else {
        return;
    };
    let start = Instant::now();
    let mut turns = 0;
    while turns < 2000 && File::open("overlap").is_err() && start.elapsed() < LIMIT / 4 {
        turns += 1;
        lock_once(&variant);
    }
}

fn open_lock() -> File {
    File::options().read(true).append(true).create(true).open("lock").unwrap()
}

fn lock_once(variant: &str) {
    let is_current = |file: &File| {
        let of = |file: fs::Metadata| (file.dev(), file.ino());
        fs::metadata("lock").is_ok_and(|now| of(now) == of(file.metadata().unwrap()))
    };
    let visit = || {
        let inside = witness("calc", "x", None);
        (0..3).for_each(|_| yield_now());
        drop(inside);
    };
    match variant {
        "compares" | "does not compare" => {
            let file = open_lock();
            flock(&file, FlockOperation::LockExclusive).unwrap();
            if variant == "does not compare" || is_current(&file) {
                visit();
                let _ = fs::remove_file("lock");
            }
        }
        "looks first" => {
            let is_free = flock(open_lock(), FlockOperation::NonBlockingLockExclusive).is_ok();
            if is_free {
                visit();
            }
        }
        "ignores readers" => {
            let file = open_lock();
            let mode = if std::process::id().is_multiple_of(2) { "s" } else { "x" };
            flock(&file, FlockOperation::LockShared).unwrap();
            drop(witness("calc", mode, None));
        }
        "one place for two" => {
            let place = (0..3).find(|place| {
                let file = File::create(format!("place-{place}")).unwrap();
                flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            });
            if let Some(place) = place {
                drop(witness("calc", "p", Some(place)));
            }
        }
        "gate" | "no gate" => {
            let gate = (variant == "gate").then(|| File::create("gate").unwrap());
            if let Some(gate) = &gate {
                flock(gate, FlockOperation::LockExclusive).unwrap();
            }
            let file = open_lock();
            flock(&file, FlockOperation::LockExclusive).unwrap();
            drop(gate);
            drop(witness("calc", "x", None));
        }
        other => panic!("no variant {other}"),
    }
}

/// Four processes in this loop, and what the witness saw.
fn loops(variant: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let locker = ["--exact", "campaign::locker", "--ignored", "--nocapture"];
    let running = [(); 4].map(|()| sandbox.command(program(), &locker).env(VARIANT, variant).start());
    for running in running {
        running.wait().assert_code(0);
    }
    sandbox
}

#[test]
fn the_witness_sees_a_broken_lock() {
    for variant in ["does not compare", "looks first", "ignores readers", "one place for two"] {
        let seen = (0..10).any(|_| loops(variant).path("work/overlap").exists());
        assert!(seen, "a lock that {variant} went unnoticed");
    }
}

#[test]
fn the_witness_accepts_a_lock_that_is_not_broken() {
    for variant in ["compares", "gate"] {
        let overlap = fs::read_to_string(loops(variant).path("work/overlap"));
        assert!(overlap.is_err(), "{variant}: {overlap:?}");
    }
}

/// The largest number of turns that one process had in a row while all others
/// had turns to come.
fn longest_run(sandbox: &Sandbox) -> usize {
    let text = fs::read_to_string(sandbox.path("work/grants")).unwrap();
    let owners: Vec<_> = text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    let last = |owner: &str| owners.iter().rposition(|other| *other == owner).unwrap();
    let first = |owner: &str| owners.iter().position(|other| *other == owner).unwrap();
    let from = owners.iter().map(|owner| first(owner)).max().unwrap();
    let to = owners.iter().map(|owner| last(owner)).min().unwrap();
    let (mut longest, mut run) = (0, 0);
    for pair in owners.windows(2).skip(from).take(to.saturating_sub(from)) {
        run = if pair[0] == pair[1] { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    // Others never had a turn while this one had all of its own.
    if to <= from { owners.len() } else { longest }
}

#[test]
fn without_a_queue_one_greedy_loop_overtakes_the_others() {
    assert!((0..10).any(|_| longest_run(&loops("no gate")) > 30));
}

#[test]
fn with_lockrun_no_loop_overtakes_another() {
    let sandbox = Sandbox::new();
    let greedy = "for i in $(seq 150); do lockrun -q -l calc -c \"echo calc x $$ >>grants\" || exit; done";
    let loops = [(); 4].map(|()| sandbox.sh(greedy).start());
    for running in loops {
        running.wait().assert_code(0).assert_silent();
    }
    assert!(longest_run(&sandbox) < 30, "{}", longest_run(&sandbox));
}
