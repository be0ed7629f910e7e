//! `--slots N`: up to N at once, each with a slot of its own.

use crate::support::{Asked, Form, Sandbox, children, eventually, may_act_as_root, status_field};

const HOLD: &str = "echo holding; exec cat";
const GPU: [&str; 4] = ["-l", "gpu", "--slots", "3"];

fn places(holders: &[Asked]) -> Vec<u32> {
    let mut places: Vec<_> = holders.iter().map(Asked::place).collect();
    places.sort_unstable();
    places
}

#[test]
fn n_hold_at_once_each_with_a_slot_of_its_own() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holders = [(); 3].map(|()| form.hold(&sandbox, &GPU));
        assert_eq!(places(&holders), [0, 1, 2]);
        form.fail(&sandbox, &[&["-n"], &GPU[..]].concat()).assert_code(75);
    }
}

#[test]
fn the_next_waiter_gets_the_first_free_slot() {
    for form in Form::BOTH {
        for first in 0..3 {
            let sandbox = Sandbox::new();
            let mut holders: Vec<_> = (0..3).map(|_| form.hold(&sandbox, &GPU)).collect();
            let next = form.ask(&sandbox, &GPU).until_waiting();
            let leaving = holders.iter().position(|holder| holder.place() == first).unwrap();
            holders.remove(leaving).release().assert_code(0);
            let next = next.until_held();
            assert_eq!(next.place(), first);
            next.release().assert_code(0);
        }
    }
}

#[test]
fn waiters_are_served_one_by_one_in_the_order_of_their_arrival() {
    let sandbox = Sandbox::new();
    let holders = [(); 3].map(|()| Form::Run.hold(&sandbox, &GPU));
    let ask = |number: usize| Form::BOTH[number % 2].ask(&sandbox, &GPU).until_waiting();
    let mut waiters: Vec<_> = (0..6).map(ask).collect();
    let mut served = Vec::new();
    for holder in holders {
        holder.release();
        served.push(waiters.remove(0).until_held());
        waiters.iter().for_each(Asked::assert_waits);
    }
    for holder in served {
        holder.release().assert_code(0);
        waiters.remove(0).until_held();
    }
}

#[test]
fn the_whole_lock_excludes_every_slot() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let whole = form.hold(&sandbox, &["-l", "gpu"]);
        assert!(!form.gets_now(&sandbox, &GPU));
        assert!(!form.gets_now(&sandbox, &[&GPU[..], &["--slot", "2"]].concat()));
        let waiters = [(); 3].map(|()| form.ask(&sandbox, &GPU).until_waiting());
        whole.release().assert_code(0);
        assert_eq!(places(&waiters.map(Asked::until_held)), [0, 1, 2]);
    }
}

#[test]
fn the_whole_lock_waits_for_all_slots_and_newcomers_queue_behind_it() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let [first, second] = [(); 2].map(|()| form.hold(&sandbox, &GPU));
        let whole = form.ask(&sandbox, &["-l", "gpu"]).until_waiting();
        assert!(!form.gets_now(&sandbox, &GPU), "there is a place, but somebody waits for all of them");
        let late = form.ask(&sandbox, &GPU).until_waiting();
        second.release();
        whole.assert_waits();
        late.assert_waits();
        first.release();
        let whole = whole.until_held();
        late.assert_waits();
        whole.release();
        late.until_held();
    }
}

#[test]
fn overlapping_slots_do_not_starve_the_whole_lock() {
    let sandbox = Sandbox::new();
    let take = "while [ ! -e done ]; do lockrun --slots 2 -l gpu -- sleep 0.02; done";
    let loops = [(); 3].map(|()| sandbox.sh(take).start());
    eventually("somebody has a place", || sandbox.lock_file("gpu").exists());
    sandbox.lockrun(&["-l", "gpu", "--", "touch", "done"]).run().assert_code(0);
    for running in loops {
        running.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn readers_and_slots_exclude_each_other() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let reader = form.hold(&sandbox, &["-s", "-l", "gpu"]);
        assert!(!form.gets_now(&sandbox, &GPU));
        assert!(form.gets_now(&sandbox, &["-s", "-l", "gpu"]));
        let place = form.ask(&sandbox, &GPU).until_waiting();
        reader.release();
        let place = place.until_held();
        assert!(!form.gets_now(&sandbox, &["-s", "-l", "gpu"]));
        let readers = [(); 2].map(|()| form.ask(&sandbox, &["-s", "-l", "gpu"]).until_waiting());
        place.release();
        drop(readers.map(Asked::until_held));
    }
}

#[test]
fn flock_and_slots_exclude_each_other() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let place = form.hold(&sandbox, &GPU);
        let file = sandbox.lock_file("gpu").display().to_string();
        let flock = |options: &[&str]| sandbox.command("flock", &[options, &["-x", &file, "true"]].concat());
        flock(&["-n", "-E", "9"]).run().assert_code(9);
        let waiting = flock(&[]).start().until_waiting();
        place.release();
        waiting.wait().assert_code(0);
        let holder = sandbox.hold_by_flock(&["-x"], &sandbox.lock_file("gpu"));
        assert!(!form.gets_now(&sandbox, &GPU));
        let place = form.ask(&sandbox, &GPU).until_waiting();
        holder.release();
        place.until_held();
    }
}

#[test]
fn a_larger_pool_adds_slots_and_a_smaller_one_uses_the_first() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let slots = |number| ["-l", "gpu", "--slots", number];
        let two = [(); 2].map(|()| form.hold(&sandbox, &slots("2")));
        assert_eq!(places(&two), [0, 1]);
        let third = form.hold(&sandbox, &slots("3"));
        assert_eq!(third.place(), 2);
        let one_of_two = form.ask(&sandbox, &slots("2")).until_waiting();
        third.release();
        // Slot 2 is free, but a pool of two has no slot 2.
        one_of_two.assert_waits();
        let [first, second] = two;
        let one = form.ask(&sandbox, &slots("1")).until_waiting();
        second.release();
        assert_eq!(one_of_two.until_held().place(), 1);
        one.assert_waits();
        first.release();
        assert_eq!(one.until_held().place(), 0);
    }
}

#[test]
fn a_killed_holder_frees_its_slot() {
    let sandbox = Sandbox::new();
    let holders = [(); 3].map(|()| Form::Run.hold(&sandbox, &GPU));
    let next = Form::Run.ask(&sandbox, &GPU).until_waiting();
    holders[1].running().signal_group(libc::SIGKILL);
    assert_eq!(next.until_held().place(), holders[1].place());
}

#[test]
fn a_daemon_left_behind_does_not_keep_a_slot() {
    let sandbox = Sandbox::new();
    let left = "setsid sleep 1000 & exec sleep 0";
    sandbox.lockrun(&["--slots", "1", "-l", "gpu", "-c", left]).run().assert_code(0);
    assert!(Form::Run.gets_now(&sandbox, &["--slots", "1", "-l", "gpu"]));
    assert!(Form::Run.gets_now(&sandbox, &["-l", "gpu"]));
}

#[test]
fn n_runs_in_n_slots_never_fail_with_timeout_0() {
    let sandbox = Sandbox::new();
    let attempt = "for i in $(seq 500); do lockrun -n --slots 4 -l gpu -- true || echo $?; done";
    let loops = [(); 4].map(|()| sandbox.sh(attempt).start());
    for running in loops {
        running.wait().assert_code(0).assert_stdout("").assert_silent();
    }
}

#[test]
fn a_waiter_for_a_slot_that_left_a_moment_ago_does_not_count() {
    let sandbox = Sandbox::new();
    let reader = Form::Run.hold(&sandbox, &["-s", "-l", "gpu"]);
    let round = "lockrun -q -t 0.01 --slots 40 -l gpu -- true; lockrun -n -s -l gpu -- true || echo $?";
    let outcome = sandbox.sh(&format!("for i in $(seq 50); do {round}; done")).run();
    outcome.assert_code(0).assert_stdout("").assert_silent();
    reader.release();
}

#[test]
fn a_waiter_that_left_keeps_no_slot() {
    let sandbox = Sandbox::new();
    // Without the marker, the inner one does not notice the outer one.
    let inner = "env -u LOCKRUN_HELD lockrun -q -t 0.01 --slots 40 -l gpu -- true; true";
    sandbox.write("work/inner", inner);
    let round = "lockrun -s -l gpu -- sh ./inner; lockrun -n -l gpu -- true || echo $?";
    let outcome = sandbox.sh(&format!("for i in $(seq 50); do {round}; done")).run();
    outcome.assert_code(0).assert_stdout("").assert_silent();
}

/// A waiter for any slot has a helper for each.
#[test]
fn a_waiter_whose_helper_was_killed_is_not_stuck() {
    for place in 0..2 {
        let sandbox = Sandbox::new();
        let holders = ["0", "1"].map(|place| sandbox.hold(&["-l", "gpu", "--slots", "2", "--slot", place]));
        let next = Form::Run.ask(&sandbox, &["-l", "gpu", "--slots", "2"]).until_waiting();
        let mut helpers = Vec::new();
        eventually("its helpers sleep", || {
            helpers = children(next.running().pid()).into_iter().flat_map(children).collect();
            helpers.len() == 2 && next.running().is_waiting()
        });
        // SAFETY: kill has no memory effects; it is below our own child.
        unsafe { libc::kill(helpers[place], libc::SIGKILL) };
        let [first, second] = holders;
        let (released, kept) = if place == 0 { (first, second) } else { (second, first) };
        released.release();
        next.until_held();
        kept.release();
    }
}

/// How often this process and those below it have run, all in all.
fn times_run(pid: i32) -> u64 {
    let own = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"].map(|field| status_field(pid, field));
    let own: u64 = own.iter().map(|number| number.parse::<u64>().unwrap()).sum();
    own + children(pid).into_iter().map(times_run).sum::<u64>()
}

#[test]
fn waiting_for_a_slot_does_not_poll() {
    let sandbox = Sandbox::new();
    let holders = [(); 3].map(|()| Form::Run.hold(&sandbox, &GPU));
    let waiters = Form::BOTH.map(|form| form.ask(&sandbox, &GPU).until_waiting());
    let certain = Form::Run.ask(&sandbox, &[&GPU[..], &["--slot", "1"]].concat()).until_waiting();
    let others = |number| sandbox.sh(&format!("for i in $(seq {number}); do lockrun -l other -- true; done")).run();
    let times = || [&waiters[0], &waiters[1], &certain].map(|waiter: &Asked| times_run(waiter.running().pid()));
    eventually("they sleep", || {
        let before = times();
        others(10);
        times() == before
    });
    let before = times();
    others(50);
    assert_eq!(times(), before);
    drop(holders);
}

/// No machine has a process for each slot.
#[test]
fn one_slot_of_very_many_is_found_without_a_process_for_each() {
    let sandbox = Sandbox::new();
    let whole = Form::Run.hold(&sandbox, &["-l", "gpu"]);
    let trace = ["-f", "-o", "trace", "-e", "trace=clone,clone3,fork,vfork", "lockrun"];
    let args = [&trace, &["-l", "gpu", "--slots", "300", "-c", HOLD][..]].concat();
    let waiting = sandbox.command("strace", &args).input("").start().until_waiting();
    whole.release();
    let holding = waiting.until_says("holding");
    let trace = std::fs::read_to_string(sandbox.path("work/trace")).unwrap_or_default();
    let started = trace.lines().filter(|line| line.contains("clone") && !line.contains("resumed")).count();
    assert!((1..100).contains(&started), "{started} processes to find one free place, {holding:?}");
}

/// A reader has all of them at once.
#[test]
fn waiting_for_a_reader_takes_no_process_for_each_slot() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let readers = [(); 2].map(|()| form.hold(&sandbox, &["-s", "-l", "gpu"]));
        let waiter = form.ask(&sandbox, &["-l", "gpu", "--slots", "300"]);
        eventually("it sleeps, and nobody for it", || {
            let waiting = children(waiter.running().pid());
            waiting.len() == 1 && waiter.running().is_waiting() && children(waiting[0]).is_empty()
        });
        let [first, second] = readers;
        first.release();
        waiter.assert_waits();
        second.release();
        waiter.until_held();
    }
}

#[test]
fn finding_a_slot_does_not_look_at_each() {
    let sandbox = Sandbox::new();
    let reader = Form::Run.hold(&sandbox, &["-s", "-l", "gpu"]);
    let trace = ["-o", "trace", "-e", "trace=fcntl", "lockrun", "-n", "-q", "-l", "gpu", "--slots", "1000000"];
    sandbox.command("strace", &[&trace[..], &["--", "true"]].concat()).run().assert_code(75);
    let calls = std::fs::read_to_string(sandbox.path("work/trace")).unwrap().lines().count();
    assert!(calls < 100, "{calls} calls");
    reader.release();
}

#[test]
fn without_a_process_for_each_held_slot_it_fails_and_says_why() {
    if !may_act_as_root("a user with few processes") {
        return;
    }
    const UID: u32 = 64_321;
    let sandbox = Sandbox::new();
    let dir = sandbox.make_dir("shared", 0o777).display().to_string();
    let pool = ["-d", &dir, "-l", "gpu", "--slots", "12"];
    let holders: Vec<_> = (0..12).map(|_| sandbox.lockrun(&[&pool[..], &["-c", HOLD]].concat()).umask(0)).collect();
    let holders: Vec<_> = holders.into_iter().map(|one| one.input("").start().until_says("holding")).collect();
    let few = || {
        let limit = libc::rlimit { rlim_cur: 8, rlim_max: 8 };
        // SAFETY: setrlimit reads the struct and is async-signal-safe.
        unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) };
    };
    for end in [&["-c", "touch ran"] as &[&str], &["--exec", "-c", "touch ran"]] {
        let asked = sandbox.lockrun(&[&pool[..], end].concat()).by_user(UID, UID).before_exec(few);
        asked.run().assert_code(125).assert_one_line(&["gpu", "any of 12 slots", "process for each"]);
    }
    let others = sandbox.lockrun(&[&pool[..], &["--slot", "3", "-n", "--", "true"]].concat()).umask(0);
    others.run().assert_code(75);
    drop(holders);
}
