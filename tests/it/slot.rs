//! `--slot K`: one given slot of a pool.

use crate::support::{Asked, Form, Sandbox};

fn certain(place: &str) -> [&str; 6] {
    ["-l", "gpu", "--slots", "5", "--slot", place]
}

const ANY: [&str; 4] = ["-l", "gpu", "--slots", "5"];

#[test]
fn any_integer_counts_modulo_the_number_of_slots() {
    let numbers = [
        ("0", 0),
        ("4", 4),
        ("5", 0),
        ("7", 2),
        ("-1", 4),
        ("-5", 0),
        ("-6", 4),
        ("9223372036854775807", 2),
        ("-9223372036854775808", 2),
        ("9223372036854775808", 3),
        ("+100000000000000000000000000000000000000000000000000000000007", 2),
        ("-100000000000000000000000000000000000000000000000000000000007", 3),
    ];
    for (number, place) in numbers {
        let sandbox = Sandbox::new();
        let holder = Form::Run.hold(&sandbox, &certain(number));
        assert_eq!(holder.place(), place, "{number}");
        holder.release().assert_code(0);
    }
    let sandbox = Sandbox::new();
    assert_eq!(Form::Acquire.hold(&sandbox, &certain("-1")).place(), 4);
}

#[test]
fn two_numbers_for_one_slot_exclude_each_other() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &certain("7"));
        form.fail(&sandbox, &[&["-n"], &certain("-3")[..]].concat()).assert_code(75);
        let other = form.hold(&sandbox, &certain("3"));
        let next = form.ask(&sandbox, &certain("2")).until_waiting();
        holder.release();
        assert_eq!(next.until_held().place(), 2);
        drop(other);
    }
}

#[test]
fn a_given_slot_and_any_slot_respect_each_other() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let first = form.hold(&sandbox, &certain("0"));
        let any = form.hold(&sandbox, &ANY);
        assert_eq!(any.place(), 1);
        assert!(!form.gets_now(&sandbox, &certain("1")));
        let rest = ["2", "3", "4"].map(|place| form.hold(&sandbox, &certain(place)));
        assert!(!form.gets_now(&sandbox, &ANY));
        let next = form.ask(&sandbox, &ANY).until_waiting();
        first.release();
        assert_eq!(next.until_held().place(), 0);
        drop(rest);
    }
}

#[test]
fn waiters_for_different_slots_do_not_hold_each_other_up() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let [one, two] = ["1", "2"].map(|place| form.hold(&sandbox, &certain(place)));
        let for_one = form.ask(&sandbox, &certain("1")).until_waiting();
        let for_two = form.ask(&sandbox, &certain("2")).until_waiting();
        assert!(form.gets_now(&sandbox, &certain("3")));
        assert!(form.gets_now(&sandbox, &ANY));
        two.release();
        let for_two = for_two.until_held();
        for_one.assert_waits();
        one.release();
        drop((for_one.until_held(), for_two));
    }
}

/// Any slot of two, and slot 4 of five.
#[test]
fn waiters_whose_slots_cannot_coincide_do_not_hold_each_other_up() {
    let any_of_two = ["-l", "gpu", "--slots", "2"];
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let [zero, one, four] = ["0", "1", "4"].map(|place| form.hold(&sandbox, &certain(place)));
        let any = form.ask(&sandbox, &any_of_two).until_waiting();
        assert!(form.gets_now(&sandbox, &certain("2")));
        let for_four = form.ask(&sandbox, &certain("4")).until_waiting();
        let for_one = form.ask(&sandbox, &certain("1")).until_waiting();
        four.release();
        let for_four = for_four.until_held();
        // But these two may want the same one, in the order of their arrival.
        one.release();
        let any = any.until_held();
        assert_eq!(any.place(), 1);
        for_one.assert_waits();
        any.release();
        drop((for_one.until_held(), for_four, zero));
    }
}

/// In a mix of sizes, each holder that may have the slot is found.
#[test]
fn a_given_slot_waits_for_all_pools_that_have_it() {
    let any = |places| ["-l", "gpu", "--slots", places];
    let sandbox = Sandbox::new();
    let whole = Form::Run.hold(&sandbox, &["-l", "gpu"]);
    let waiters = ["2", "3", "2", "4", "1"].map(|places| Form::Run.ask(&sandbox, &any(places)).until_waiting());
    let for_one = Form::Run.ask(&sandbox, &certain("1")).until_waiting();
    let late = Form::Run.ask(&sandbox, &any("2")).until_waiting();
    whole.release();
    // They fill slots 0 to 3 and queue for slot 0.
    let [first, second, third, fourth, last] = waiters;
    let [first, second] = [first, second].map(Asked::until_held);
    assert_eq!([first.place(), second.place()], [0, 1]);
    [&third, &fourth, &last, &for_one, &late].into_iter().for_each(Asked::assert_waits);
    second.release();
    let third = third.until_held();
    assert_eq!(third.place(), 1);
    let fourth = fourth.until_held();
    assert_eq!(fourth.place(), 2);
    for_one.assert_waits();
    third.release();
    let for_one = for_one.until_held();
    [&last, &late].into_iter().for_each(Asked::assert_waits);
    first.release();
    let last = last.until_held();
    late.assert_waits();
    for_one.release();
    assert_eq!(late.until_held().place(), 1);
    drop((last, fourth));
}

#[test]
fn waiters_for_one_slot_are_served_in_order() {
    let sandbox = Sandbox::new();
    let mut holder = Form::Run.hold(&sandbox, &certain("2"));
    let mut waiters: Vec<_> = Form::BOTH.map(|form| form.ask(&sandbox, &certain("2")).until_waiting()).into();
    waiters.push(Form::Run.ask(&sandbox, &certain("7")).until_waiting());
    while !waiters.is_empty() {
        holder.release().assert_code(0);
        holder = waiters.remove(0).until_held();
        waiters.iter().for_each(Asked::assert_waits);
    }
}

#[test]
fn the_first_waiter_gets_the_slot_given_or_any() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let all = || ["0", "1", "2", "3", "4"].map(|place| form.hold(&sandbox, &certain(place)));
        let [p0, p1, p2, ..] = &mut all().map(Some);
        let certain_one = form.ask(&sandbox, &certain("1")).until_waiting();
        let any = form.ask(&sandbox, &ANY).until_waiting();
        let certain_two = form.ask(&sandbox, &certain("2")).until_waiting();
        // Any place came later than the one who waits for this one.
        p1.take().unwrap().release();
        let certain_one = certain_one.until_held();
        any.assert_waits();
        certain_two.assert_waits();
        // And earlier than the one who waits for that one.
        p2.take().unwrap().release();
        let any = any.until_held();
        assert_eq!(any.place(), 2);
        certain_two.assert_waits();
        any.release();
        let certain_two = certain_two.until_held();
        drop((certain_one, certain_two, p0.take()));
    }
}

#[test]
fn a_loop_for_any_slot_does_not_starve_a_given_one() {
    let sandbox = Sandbox::new();
    let take = "while [ ! -e done ]; do lockrun --slots 2 -l gpu -- sleep 0.02; done";
    let loops = [(); 4].map(|()| sandbox.sh(take).start());
    for place in ["0", "1", "0", "1"] {
        sandbox.lockrun(&["--slots", "2", "--slot", place, "-l", "gpu", "--", "true"]).run().assert_code(0);
    }
    sandbox.write("work/done", "");
    for running in loops {
        running.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn loops_for_given_slots_do_not_starve_any_slot() {
    let sandbox = Sandbox::new();
    let take = |place| format!("while [ ! -e done ]; do lockrun --slots 2 --slot {place} -l gpu -- sleep 0.02; done");
    let loops = [0, 0, 1, 1].map(|place| sandbox.sh(&take(place)).start());
    for _ in 0..4 {
        sandbox.lockrun(&["--slots", "2", "-l", "gpu", "--", "true"]).run().assert_code(0);
    }
    sandbox.write("work/done", "");
    for running in loops {
        running.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn the_whole_lock_queues_behind_waiters_for_a_slot() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &certain("2"));
        let next = form.ask(&sandbox, &certain("2")).until_waiting();
        let whole = form.ask(&sandbox, &["-l", "gpu"]).until_waiting();
        let late = form.ask(&sandbox, &certain("3")).until_waiting();
        holder.release();
        let next = next.until_held();
        whole.assert_waits();
        next.release();
        let whole = whole.until_held();
        late.assert_waits();
        whole.release();
        late.until_held();
    }
}
