//! First in, first out, even when waiters give up or are killed.

use crate::support::{Holder, Running, Sandbox, Timeline, eventually};

/// A lockrun that waits for `calc`, then says so and holds until its input ends.
#[track_caller]
fn waiter(sandbox: &Sandbox, options: &[&str]) -> Running {
    let args = [options, &["-l", "calc", "-c", "echo holding; exec cat"]].concat();
    sandbox.lockrun(&args).input("").start().until_waiting()
}

/// A lockrun that waits for `calc` and then visits.
#[track_caller]
fn visitor(sandbox: &Sandbox, timeline: &Timeline, options: &[&str], id: &str) -> Running {
    let visit = timeline.visit(id, "true");
    sandbox.lockrun(&[options, &["-l", "calc", "-c", &visit]].concat()).start().until_waiting()
}

/// All of these wait still, after what has just happened.
#[track_caller]
fn assert_wait(waiters: &[&Running]) {
    for waiter in waiters {
        eventually("it sleeps again, if it was woken", || waiter.is_waiting());
        assert_eq!(waiter.stdout(), "");
    }
}

#[track_caller]
fn try_now(sandbox: &Sandbox, options: &[&str]) -> i32 {
    let outcome = sandbox.lockrun(&[options, &["-n", "-l", "calc", "--", "true"]].concat()).run();
    outcome.code.unwrap()
}

#[test]
fn thirty_waiters_are_served_in_the_order_of_their_arrival() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    let holder = sandbox.hold(&["-l", "calc"]);
    let ids: Vec<_> = (0..30).map(|number| number.to_string()).collect();
    let options = [&[] as &[&str], &["--exec"], &["-t", "100"], &["--expires", "100"], &["--exec", "-t", "100"]];
    let waiters: Vec<_> =
        ids.iter().zip(options.iter().cycle()).map(|(id, options)| visitor(&sandbox, &timeline, options, id)).collect();
    holder.release();
    for waiter in waiters {
        waiter.wait().assert_code(0).assert_silent();
    }
    timeline.assert_entered(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    timeline.assert_one_at_a_time();
}

#[test]
fn a_holder_that_asks_again_goes_to_the_end() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&["-l", "calc"]);
    let mut next = waiter(&sandbox, &[]);
    for _ in 0..30 {
        let again = sandbox.lockrun(&["-l", "calc", "-c", "echo holding; exec cat"]).input("");
        holder.release();
        let again = again.start();
        holder = Holder::from(next.until_says("holding"));
        next = again.until_waiting();
    }
}

#[test]
fn two_greedy_loops_take_turns() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    let greedy = |id: &str| {
        let visit = timeline.visit(id, "true");
        sandbox.write(&format!("work/visit-{id}"), &visit);
        sandbox.sh(&format!("for i in $(seq 200); do lockrun -l calc -- sh ./visit-{id}; done")).start()
    };
    for running in [greedy("a"), greedy("b")] {
        running.wait().assert_code(0).assert_silent();
    }
    timeline.assert_one_at_a_time();
    let entered = timeline.entered();
    let turns = |id: &str, entered: &[String]| entered.iter().filter(|entered| *entered == id).count();
    let first_done = (0..entered.len()).find(|&at| ["a", "b"].iter().any(|id| turns(id, &entered[..at]) == 200));
    let meanwhile = &entered[..first_done.unwrap()];
    let fewest = turns("a", meanwhile).min(turns("b", meanwhile));
    assert!(fewest > 100, "200 turns to {fewest}: {meanwhile:?}");
}

#[test]
fn later_readers_do_not_pass_a_writer() {
    let sandbox = Sandbox::new();
    let mut reader = sandbox.hold(&["-l", "calc", "-s"]);
    let writer = waiter(&sandbox, &[]);
    let mut late = Vec::new();
    for _ in 0..5 {
        late.push(waiter(&sandbox, &["-s"]));
        assert_eq!(try_now(&sandbox, &["-s"]), 75);
    }
    reader.release();
    let writer = writer.until_says("holding");
    assert_wait(&late.iter().collect::<Vec<_>>());
    writer.wait().assert_code(0);
    // Now all of them together.
    late = late.into_iter().map(|reader| reader.until_says("holding")).collect();
    reader = sandbox.hold(&["-l", "calc", "-s"]);
    drop((late, reader));
}

#[test]
fn overlapping_readers_do_not_starve_a_writer() {
    let sandbox = Sandbox::new();
    let read = "while [ ! -e written ]; do lockrun -s -l calc -- sleep 0.02; done";
    let readers = [(); 3].map(|()| sandbox.sh(read).start());
    eventually("somebody reads", || sandbox.lock_file("calc").exists());
    sandbox.lockrun(&["-l", "calc", "--", "touch", "written"]).run().assert_code(0);
    for reader in readers {
        reader.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn readers_between_writers_run_together_and_in_their_turn() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let [w1, r1, r2, w2, r3] =
        [&[] as &[&str], &["-s"], &["-s"], &[], &["-s"]].map(|options| waiter(&sandbox, options));
    holder.release();
    let w1 = w1.until_says("holding");
    assert_wait(&[&r1, &r2, &w2, &r3]);
    w1.wait().assert_code(0);
    let (r1, r2) = (r1.until_says("holding"), r2.until_says("holding"));
    assert_wait(&[&w2, &r3]);
    r2.wait().assert_code(0);
    assert_wait(&[&w2, &r3]);
    r1.wait().assert_code(0);
    let w2 = w2.until_says("holding");
    assert_wait(&[&r3]);
    w2.wait().assert_code(0);
    r3.until_says("holding").wait().assert_code(0);
}

#[test]
fn waiters_that_leave_do_not_disturb_the_order() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    let holder = sandbox.hold(&["-l", "calc"]);
    let mut stay = Vec::new();
    let mut leave = Vec::new();
    for number in 0..12 {
        let options: &[&str] = match number {
            1 | 7 => &["-t", "1"],
            3 | 9 => &["--exec"],
            _ => &[],
        };
        let visitor = visitor(&sandbox, &timeline, options, &number.to_string());
        if number % 2 == 0 {
            stay.push(visitor)
        } else {
            leave.push(visitor)
        };
    }
    for (position, leaving) in leave.into_iter().enumerate() {
        let signal = [None, Some(libc::SIGKILL), Some(libc::SIGTERM)][position % 3];
        if let Some(signal) = signal {
            leaving.signal(signal);
        }
        let outcome = leaving.wait();
        let timed_out = outcome.code == Some(124);
        assert!(timed_out || outcome.signal == signal, "{signal:?} {outcome:?}");
    }
    holder.release();
    for visitor in stay {
        visitor.wait().assert_code(0).assert_silent();
    }
    timeline.assert_entered(&["0", "2", "4", "6", "8", "10"]);
    timeline.assert_one_at_a_time();
}

#[test]
fn a_waiter_that_leaves_the_head_lets_the_next_one_in() {
    let sandbox = Sandbox::new();
    let reader = sandbox.hold(&["-l", "calc", "-s"]);
    let writer = waiter(&sandbox, &[]);
    let second_reader = waiter(&sandbox, &["-s"]);
    writer.signal(libc::SIGKILL);
    second_reader.until_says("holding").wait().assert_code(0);
    reader.release();
}

#[test]
fn waiters_behind_flock_are_served_in_order() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let holder = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
    assert_eq!(try_now(&sandbox, &[]), 75);
    let visitors = ["one", "two", "three"].map(|id| visitor(&sandbox, &timeline, &[], id));
    holder.release();
    for visitor in visitors {
        visitor.wait().assert_code(0).assert_silent();
    }
    timeline.assert_entered(&["one", "two", "three"]);
}

#[test]
fn flock_is_shut_out_while_we_hold_and_while_others_queue() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let next = waiter(&sandbox, &[]);
    let flock = sandbox.lock_file("calc").display().to_string();
    let try_flock = || sandbox.command("flock", &["-n", "-E", "9", &flock, "true"]).run();
    try_flock().assert_code(9);
    holder.release();
    let next = next.until_says("holding");
    try_flock().assert_code(9);
    next.wait().assert_code(0);
    try_flock().assert_code(0);
}
