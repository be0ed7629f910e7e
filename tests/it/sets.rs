//! Several locks in one call: all or none.

use crate::campaign::size;
use crate::support::{Asked, Form, Sandbox, eventually, is_held};
use std::fs;
use std::os::unix::fs::symlink;

const BOTH: [&str; 4] = ["-l", "a", "-l", "b"];

#[test]
fn all_are_held_and_all_are_released() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &BOTH);
        for name in ["a", "b"] {
            form.fail(&sandbox, &["-n", "-l", name]).assert_code(75);
        }
        holder.release().assert_code(0);
        for name in ["a", "b"] {
            assert!(form.gets_now(&sandbox, &["-l", name]));
        }
    }
}

#[test]
fn the_order_typed_makes_no_difference() {
    let sandbox = Sandbox::new();
    let names = |args: &[&str]| {
        sandbox.lockrun(&[args, &["-c", "echo \"$LOCKRUN_NAME\"; echo \"$LOCKRUN_FENCE\" | wc -l"]].concat()).run()
    };
    let order = names(&["-l", "a", "-l", "b", "-l", "c"]).assert_code(0).stdout.clone();
    assert!(order.ends_with("\n3\n"), "{order}");
    for args in [["-l", "c", "-l", "b", "-l", "a"], ["-l", "b", "-l", "c", "-l", "a"]] {
        names(&args).assert_code(0).assert_stdout(&order);
    }
}

#[test]
fn a_part_that_is_taken_refuses_the_whole_and_takes_nothing() {
    for form in Form::BOTH {
        for taken in ["a", "b"] {
            let sandbox = Sandbox::new();
            let holder = form.hold(&sandbox, &["-l", taken]);
            form.fail(&sandbox, &[&["-n"], &BOTH[..]].concat()).assert_code(75);
            let other = if taken == "a" { "b" } else { "a" };
            assert!(form.gets_now(&sandbox, &["-l", other]));
            holder.release();
        }
    }
}

#[test]
fn the_same_lock_twice_is_one() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        form.hold(&sandbox, &["-l", "a", "-l", "a", "-t", "9"]).release().assert_code(0);
        sandbox.write("work/file", "");
        symlink("file", sandbox.path("work/link")).unwrap();
        form.hold(&sandbox, &["--file", "file", "--file", "./link", "-t", "9"]).release().assert_code(0);
        let own_file = sandbox.lock_file("a").display().to_string();
        form.hold(&sandbox, &["-l", "a", "--file", &own_file, "-t", "9"]).release().assert_code(0);
        form.hold(&sandbox, &["--file", &own_file, "-l", "a", "-s", "-t", "9"]).release().assert_code(0);
        assert!(!is_held(&sandbox.lock_file("a")) && !is_held(&sandbox.path("work/file")));
    }
}

#[test]
fn a_name_and_a_file_make_a_set() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &["-l", "a", "--file", "file"]);
        assert!(is_held(&sandbox.lock_file("a")) && is_held(&sandbox.path("work/file")));
        holder.release().assert_code(0);
        assert!(!is_held(&sandbox.lock_file("a")) && !is_held(&sandbox.path("work/file")));
    }
}

#[test]
fn with_shared_all_are_shared() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &[&["-s"], &BOTH[..]].concat());
        for name in ["a", "b"] {
            assert!(form.gets_now(&sandbox, &["-s", "-l", name]));
            assert!(!form.gets_now(&sandbox, &["-l", name]));
        }
        assert!(form.gets_now(&sandbox, &[&["-s"], &BOTH[..]].concat()));
        holder.release();
    }
}

#[test]
fn a_waiter_for_a_part_that_gives_up_releases_the_rest() {
    let sandbox = Sandbox::new();
    let [first, second] = sandbox.in_order(["a", "b"]);
    let holder = Form::Run.hold(&sandbox, &["-l", second]);
    for form in Form::BOTH {
        form.fail(&sandbox, &[&["-t", "0.05"], &BOTH[..]].concat()).assert_code(124);
        assert!(form.gets_now(&sandbox, &["-l", first]));
        for signal in [libc::SIGKILL, libc::SIGTERM] {
            let waiting = form.ask(&sandbox, &BOTH).until_waiting();
            assert!(is_held(&sandbox.lock_file(first)));
            waiting.running().signal(signal);
            waiting.end().assert_signal(signal);
            // Also when the process that was killed left another one behind.
            Form::Run.hold(&sandbox, &["-l", first]).release().assert_code(0);
        }
    }
    holder.release();
}

#[test]
fn opposite_orders_never_deadlock() {
    let sandbox = Sandbox::new();
    let rounds = size(400, 2500);
    let turns =
        |order: &str| sandbox.sh(&format!("for i in $(seq {rounds}); do lockrun -q {order} -- true || exit; done"));
    let loops = ["-l a -l b", "-l b -l a", "-s -l b -l a", "-l a -l b -l a"].map(|order| turns(order).start());
    for running in loops {
        running.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn a_set_that_is_refused_never_makes_others_fail() {
    let sandbox = Sandbox::new();
    let [first, second] = sandbox.in_order(["a", "b"]);
    let holder = Form::Run.hold(&sandbox, &["-l", second]);
    let sets = "while [ ! -e done ]; do lockrun -q -n -l a -l b -- true; [ $? = 75 ] || echo $?; done";
    let sets = [(); 2].map(|()| sandbox.sh(sets).start());
    let part = format!("for i in $(seq 300); do lockrun -n -l {first} -- true || echo $?; done");
    sandbox.sh(&part).run().assert_code(0).assert_stdout("").assert_silent();
    sandbox.write("work/done", "");
    for running in sets {
        running.wait().assert_code(0).assert_stdout("");
    }
    holder.release();
}

/// A set that got its first lock by waiting for it, and waits for its second.
fn half_way<'sandbox>(
    sandbox: &'sandbox Sandbox,
    form: Form,
    options: &[&str],
    [first, second]: [&str; 2],
) -> (Asked<'sandbox>, Asked<'sandbox>) {
    let first_holder = Form::Run.hold(sandbox, &["-l", first]);
    let second_holder = Form::Run.hold(sandbox, &["-l", second]);
    let set = form.ask(sandbox, &[options, &BOTH].concat()).until_waiting();
    first_holder.release();
    eventually("it has the first lock", || is_held(&sandbox.lock_file(first)));
    // It has left the line of the first one once it sleeps on the second.
    let end = Form::Run.ask(sandbox, &["-l", second]).until_waiting();
    set.assert_waits();
    end.running().signal(libc::SIGKILL);
    end.end();
    (second_holder, set)
}

#[test]
fn a_slot_that_a_waiting_set_leaves_free_is_free() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let order = sandbox.in_order(["a", "b"]);
        let (second, set) = half_way(&sandbox, form, &["--slots", "2"], order);
        assert!(form.gets_now(&sandbox, &["-l", order[0], "--slots", "2"]), "one place of two is taken, nobody waits");
        second.release();
        set.until_held();
    }
}

#[test]
fn a_set_does_not_count_as_a_waiter_for_a_lock_that_it_has() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let order = sandbox.in_order(["a", "b"]);
        let (second, set) = half_way(&sandbox, form, &[], order);
        form.fail(&sandbox, &["-t", "0.1", "--max-waiters", "1", "-l", order[0]]).assert_code(124);
        second.release();
        set.until_held();
    }
}

#[test]
fn a_lock_of_a_set_that_is_replaced_while_the_set_waits_is_taken_anew() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let [first, second] = sandbox.in_order(["a", "b"]);
        let holder = Form::Run.hold(&sandbox, &["-l", second]);
        let set = form.ask(&sandbox, &BOTH).until_waiting();
        fs::remove_file(sandbox.lock_file(first)).unwrap();
        let other = Form::Run.hold(&sandbox, &["-l", first]);
        holder.release();
        eventually("it waits for the lock that is there now", || {
            assert!(!set.holds(), "two hold {first}");
            Form::Run.fail(&sandbox, &["-t", "0.01", "--max-waiters", "1", "-l", first]).code == Some(121)
        });
        other.release();
        set.until_held().release().assert_code(0);
    }
}
