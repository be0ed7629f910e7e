//! `--max-waiters N`: exactly N wait, and the next one fails at once.

use crate::support::{Asked, Form, Sandbox, end_of_stubborn, eventually, is_alive, stubborn_holder as stubborn};

fn at_most(number: &str) -> [&str; 4] {
    ["-l", "calc", "--max-waiters", number]
}

#[test]
fn n_wait_and_the_next_fails_at_once() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &["-l", "calc"]);
        let waiters = [(); 2].map(|()| form.ask(&sandbox, &at_most("2")).until_waiting());
        form.fail(&sandbox, &at_most("2")).assert_code(121).assert_one_line(&["calc", "queue is full", "held by"]);
        form.fail(&sandbox, &[&["-E", "9", "-q"], &at_most("2")[..]].concat()).assert_code(9).assert_silent();
        // Somebody more patient with a longer queue joins it.
        let third = form.ask(&sandbox, &at_most("3")).until_waiting();
        holder.release();
        for waiter in waiters {
            waiter.until_held().release().assert_code(0);
        }
        third.until_held().release().assert_code(0);
    }
}

#[test]
fn of_fifty_at_the_same_time_exactly_five_wait() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &["-l", "calc"]);
        let mut crowd: Vec<_> = (0..50).map(|_| form.ask(&sandbox, &at_most("5"))).collect();
        let mut refused = 0;
        while let Some(refusal) = (crowd.len() > 5).then(|| crowd.remove(first_to_end(&crowd))) {
            refusal.end().assert_code(121);
            refused += 1;
        }
        assert_eq!(refused, 45);
        crowd = crowd.into_iter().map(Asked::until_waiting).collect();
        holder.release();
        // In any order among themselves: they came at once.
        while !crowd.is_empty() {
            let mut next = None;
            eventually("the next one has the lock", || {
                next = crowd.iter().position(Asked::holds);
                next.is_some()
            });
            crowd.remove(next.unwrap()).release().assert_code(0);
        }
    }
}

/// Which of these has ended, once one has.
fn first_to_end(crowd: &[Asked]) -> usize {
    let mut first = None;
    eventually("one more of them is refused", || {
        first = crowd.iter().position(|asked| !is_alive(asked.running().pid()));
        first.is_some()
    });
    first.unwrap()
}

#[test]
fn a_waiter_that_leaves_makes_room() {
    let ends: [(&[&str], Option<i32>); 3] =
        [(&[], Some(libc::SIGKILL)), (&[], Some(libc::SIGTERM)), (&["-t", "0.2"], None)];
    for form in Form::BOTH {
        for (options, signal) in &ends {
            let sandbox = Sandbox::new();
            let holder = form.hold(&sandbox, &["-l", "calc"]);
            let leaving = form.ask(&sandbox, &[options, &at_most("1")[..]].concat()).until_waiting();
            if let Some(signal) = signal {
                form.fail(&sandbox, &at_most("1")).assert_code(121);
                leaving.running().signal(*signal);
            }
            leaving.end();
            eventually("the helper of one that was killed is gone", || {
                form.fail(&sandbox, &[&["-t", "0.01"], &at_most("1")[..]].concat()).code == Some(124)
            });
            holder.release();
        }
    }
}

#[test]
fn with_0_nobody_waits_but_a_free_lock_is_taken() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &at_most("0"));
        form.fail(&sandbox, &at_most("0")).assert_code(121);
        let shared = ["-s", "-l", "calc", "--max-waiters", "0"];
        form.fail(&sandbox, &shared).assert_code(121);
        holder.release();
        let readers = [(); 2].map(|()| form.hold(&sandbox, &shared));
        form.fail(&sandbox, &["--slots", "2", "-l", "calc", "--max-waiters", "0"]).assert_code(121);
        drop(readers);
    }
}

#[test]
fn waiters_of_every_kind_count() {
    let kinds: [&[&str]; 4] = [&[], &["-s"], &["--slots", "2"], &["--slots", "2", "--slot", "1"]];
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &["-l", "calc"]);
        let mut waiters = Vec::new();
        for (number, options) in kinds.iter().chain(&kinds).enumerate() {
            waiters.push(form.ask(&sandbox, &[options, &["-l", "calc"][..]].concat()).until_waiting());
            let full = (number + 1).to_string();
            form.fail(&sandbox, &at_most(&full)).assert_code(121);
            let room = (number + 2).to_string();
            form.fail(&sandbox, &[&["-t", "0.02"], &at_most(&room)[..]].concat()).assert_code(124);
        }
        drop(waiters);
        drop(holder);
    }
}

#[test]
fn a_set_fails_if_any_lock_that_it_would_wait_for_has_so_many_waiters() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holders = ["a", "b", "c"].map(|name| form.hold(&sandbox, &["-l", name]));
        let set = |most| ["-l", "a", "-l", "b", "-l", "c", "--max-waiters", most];
        for name in ["a", "b", "c"] {
            let waiter = form.ask(&sandbox, &["-l", name]).until_waiting();
            form.fail(&sandbox, &set("1")).assert_code(121);
            form.fail(&sandbox, &[&["-t", "0.02"], &set("2")[..]].concat()).assert_code(124);
            waiter.running().signal(libc::SIGTERM);
            waiter.end();
        }
        form.fail(&sandbox, &[&["-t", "0.02"], &set("1")[..]].concat()).assert_code(124);
        drop(holders);
    }
}

/// Others wait for it, but not for what the set wants of it.
#[test]
fn a_free_lock_of_a_set_does_not_count() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = form.hold(&sandbox, &["-l", "a", "-l", "b", "--slots", "2", "--slot", "0"]);
        let waiters = ["a", "b"].map(|name| {
            let certain = ["-l", name, "--slots", "2", "--slot", "0"];
            form.ask(&sandbox, &certain).until_waiting()
        });
        let other = form.hold(&sandbox, &["-l", "a", "-l", "b", "--slots", "2", "--slot", "1", "--max-waiters", "0"]);
        other.release();
        drop((waiters, holder));
    }
}

#[test]
fn a_waiter_that_got_the_lock_does_not_count() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let mut holder = form.hold(&sandbox, &["-l", "calc"]);
        for _ in 0..20 {
            let next = form.ask(&sandbox, &at_most("1")).until_waiting();
            holder.release();
            holder = next.until_held();
        }
        holder.release();
    }
}

#[test]
fn a_replacer_is_not_limited() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = stubborn(&sandbox, &["-l", "calc"]);
        let waiter = form.ask(&sandbox, &["-l", "calc"]).until_waiting();
        let replacer = form.ask(&sandbox, &[&["--replace"], &at_most("1")[..]].concat()).until_waiting();
        end_of_stubborn(holder).assert_code(123);
        waiter.until_held().release();
        replacer.until_held();
    }
}

#[test]
fn a_replacer_is_not_counted() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        let holder = stubborn(&sandbox, &["-l", "calc"]);
        let replacer = form.ask(&sandbox, &["--replace", "-l", "calc"]).until_waiting();
        let waiter = form.ask(&sandbox, &[&["-t", "0.1"], &at_most("1")[..]].concat());
        waiter.end().assert_code(124);
        end_of_stubborn(holder).assert_code(123);
        replacer.until_held();
    }
}
