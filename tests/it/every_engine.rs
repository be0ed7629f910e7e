//! What holds for locks on files and on servers alike.

use crate::support::{Place, Sandbox, eventually};

const RUN: [&str; 5] = ["--", "sh", "-c", "echo ran", "ran"];

fn with<'a>(options: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [options, rest].concat()
}

#[test]
fn a_free_lock_is_taken_and_free_again() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        for _ in 0..3 {
            let script = "echo $LOCKRUN_NAME; test $LOCKRUN_FENCE -gt 0; exit 7";
            let outcome = place.lockrun(&sandbox, &["-n", "-l", "calc", "-c", script]).run();
            outcome.assert_code(7).assert_stdout("calc\n").assert_silent();
        }
        place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(0).assert_silent();
    }
}

#[test]
fn a_held_lock_is_waited_for_unless_the_timeout_is_zero() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let busy = place.lockrun(&sandbox, &with(&["-n", "-l", "calc"], &RUN)).run();
        let pid = holder.pid().to_string();
        busy.assert_code(75).assert_stdout("").assert_one_line(&["calc: busy", &pid, "exec cat"]);
        let late = place.lockrun(&sandbox, &with(&["-t", "0.2", "-l", "calc"], &RUN)).run();
        late.assert_code(124).assert_stdout("").assert_one_line(&["timed out after 200ms", &pid]);
        place
            .lockrun(&sandbox, &with(&["-n", "-E", "0", "-q", "-l", "calc"], &RUN))
            .run()
            .assert_code(0)
            .assert_silent();
        place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(1).assert_silent();
        let waiter = place.wait_in_queue(&sandbox, &with(&["-l", "calc"], &RUN), 1);
        holder.release().assert_code(0);
        waiter.wait().assert_code(0).assert_stdout("ran\n").assert_silent();
    }
}

#[test]
fn waiters_are_served_in_their_order() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let waiters: Vec<_> = (1..=4)
            .map(|number| {
                let script = format!("echo {number} >>order");
                place.wait_in_queue(&sandbox, &["-l", "calc", "-c", &script], number)
            })
            .collect();
        holder.release();
        for waiter in waiters {
            waiter.wait().assert_code(0);
        }
        assert_eq!(std::fs::read_to_string(sandbox.path("work/order")).unwrap(), "1\n2\n3\n4\n");
    }
}

#[test]
fn readers_share_and_a_writer_is_not_passed() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let readers = [place.hold(&sandbox, &["-s", "-l", "calc"]), place.hold(&sandbox, &["-s", "-l", "calc"])];
        let writer = place.wait_in_queue(&sandbox, &with(&["-l", "calc"], &RUN), 1);
        place.lockrun(&sandbox, &with(&["-n", "-s", "-l", "calc"], &RUN)).run().assert_code(75);
        for reader in readers {
            reader.release();
        }
        writer.wait().assert_code(0).assert_stdout("ran\n");
    }
}

#[test]
fn a_pool_has_exactly_its_slots() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let options = ["--slots", "2", "-l", "calc"];
        let script = "echo slot $LOCKRUN_SLOT; exec cat";
        let hold =
            |slot: &str| place.lockrun(&sandbox, &with(&options, &["-c", script])).input("").start().until_says(slot);
        let (first, second) = (hold("slot 0"), hold("slot 1"));
        place.lockrun(&sandbox, &with(&["-n"], &with(&options, &RUN))).run().assert_code(75);
        place.lockrun(&sandbox, &with(&["-n", "-l", "calc"], &RUN)).run().assert_code(75);
        first.wait();
        let exact = ["-n", "--slots", "2", "--slot", "1", "-l", "calc"];
        place.lockrun(&sandbox, &with(&exact, &RUN)).run().assert_code(75);
        let again = place.lockrun(&sandbox, &with(&with(&["-n"], &options), &["-c", "echo $LOCKRUN_SLOT"])).run();
        again.assert_code(0).assert_stdout("0\n");
        second.wait();
    }
}

#[test]
fn a_queue_may_be_full() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let never = ["--max-waiters", "0", "-l", "calc"];
        place.lockrun(&sandbox, &with(&never, &RUN)).run().assert_code(121).assert_one_line(&["queue is full"]);
        let waiter = place.wait_in_queue(&sandbox, &with(&["--max-waiters", "1", "-l", "calc"], &RUN), 1);
        place.lockrun(&sandbox, &with(&["--max-waiters", "1", "-l", "calc"], &RUN)).run().assert_code(121);
        holder.release();
        waiter.wait().assert_code(0).assert_stdout("ran\n");
    }
}

#[test]
fn a_set_that_has_waited_waits_for_its_later_locks_whatever_their_queue() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let [first, last] = match place {
            Place::Files => sandbox.in_order(["a", "b"]),
            Place::Etcd(_) | Place::Postgres(_) | Place::Redis(_) => ["a", "b"],
        };
        let holders = [place.hold(&sandbox, &["-l", first]), place.hold(&sandbox, &["-l", last])];
        let options = ["--max-waiters", "1", "-l", first, "-l", last];
        let both = place.wait_in_queue(&sandbox, &with(&options, &RUN), 1);
        let other = place.lockrun(&sandbox, &with(&["-l", last], &RUN)).start();
        place.until_all_wait(&sandbox, 2);
        let [of_first, of_last] = holders;
        of_first.release();
        place.until_waiting(&sandbox, 2);
        of_last.release();
        other.wait().assert_code(0).assert_stdout("ran\n");
        both.wait().assert_code(0).assert_stdout("ran\n");
    }
}

#[test]
fn a_full_queue_does_not_keep_a_replacer_out() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let newest = ["--max-waiters", "0", "--replace", "-l", "calc"];
        place.lockrun(&sandbox, &with(&newest, &RUN)).run().assert_code(0).assert_stdout("ran\n");
        holder.release().assert_code(123);
    }
}

#[test]
fn several_locks_are_taken_all_or_none() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "b"]);
        place.lockrun(&sandbox, &with(&["-n", "-l", "a", "-l", "b"], &RUN)).run().assert_code(75);
        place.lockrun(&sandbox, &["status", "a"]).run().assert_code(0);
        let both = place.wait_in_queue(&sandbox, &["-l", "b", "-l", "a", "-c", "echo $LOCKRUN_NAME"], 1);
        holder.release();
        let both = both.wait();
        let mut names: Vec<_> = both.assert_code(0).stdout.split_whitespace().collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b"]);
        // In the other order at the same time.
        let script = ["-c", "sleep 0.01"];
        let loops: Vec<_> = [["-l", "a", "-l", "b"], ["-l", "b", "-l", "a"]].repeat(4);
        let running: Vec<_> =
            loops.iter().map(|names| place.lockrun(&sandbox, &with(names, &script)).start()).collect();
        for one in running {
            one.wait().assert_code(0);
        }
    }
}

#[test]
fn the_same_lock_under_itself_fails_at_once() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let store = place.url().map_or_else(String::new, |url| format!("--store '{url}'"));
        let nested = |options: &str| {
            let script = format!("lockrun {store} {options} -l calc -- echo inside");
            place.lockrun(&sandbox, &["-l", "calc", "-c", &script]).run()
        };
        nested("").assert_code(122).assert_stdout("").assert_one_line(&["calc", "--reentrant"]);
        nested("-s").assert_code(122);
        nested("--reentrant").assert_code(0).assert_stdout("inside\n").assert_silent();
        let readers = format!("lockrun {store} --reentrant -l calc -- echo inside");
        place.lockrun(&sandbox, &["-s", "-l", "calc", "-c", &readers]).run().assert_code(122);
    }
}

#[test]
fn the_newest_replaces_the_holder() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let newest = place.lockrun(&sandbox, &with(&["--replace", "-l", "calc"], &RUN)).run();
        newest.assert_code(0).assert_stdout("ran\n");
        holder.release().assert_code(123).assert_one_line(&["calc: replaced by pid", "TERM"]);
    }
}

#[test]
fn break_ends_the_holder() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        place.lockrun(&sandbox, &["break", "calc"]).run().assert_code(0).assert_silent();
        holder.release().assert_code(123).assert_one_line(&["calc: broken by pid", "TERM"]);
        place.lockrun(&sandbox, &["break", "calc"]).run().assert_code(0).assert_one_line(&["not held"]);
    }
}

#[test]
fn wait_returns_when_the_lock_is_free() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        place.lockrun(&sandbox, &["wait", "calc"]).run().assert_code(0).assert_silent();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        place.lockrun(&sandbox, &["wait", "-t", "0.1", "calc"]).run().assert_code(124);
        let mut waiting = place.lockrun(&sandbox, &["wait", "calc"]).start();
        assert!(!waiting.has_ended());
        holder.release();
        waiting.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn a_command_that_expires_is_ended() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let outcome = place.lockrun(&sandbox, &["--expires", "0.2", "-l", "calc", "--", "sleep", "600"]).run();
        outcome.assert_code(123).assert_one_line(&["expired after 200ms", "TERM"]);
        let stubborn = "trap '' TERM; while :; do sleep 600; done";
        let options = ["--expires", "0.1", "--kill-after", "0.1", "-l", "calc", "-c", stubborn];
        place.lockrun(&sandbox, &options).run().assert_code(123).assert_one_line(&["KILL"]);
        place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(0);
    }
}

#[test]
fn hold_tree_keeps_the_lock_for_what_the_command_started() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let script = "(trap 'echo got TERM; exit' TERM; echo ready; while :; do sleep 0.01; done) & exit 4";
        let holder = place.lockrun(&sandbox, &["-l", "calc", "--hold", "tree", "-c", script]).start();
        let holder = holder.until_says("ready");
        place.lockrun(&sandbox, &with(&["-n", "-l", "calc"], &RUN)).run().assert_code(75);
        holder.signal(libc::SIGTERM);
        holder.wait().assert_code(4).assert_stdout("ready\ngot TERM\n");
        place.lockrun(&sandbox, &with(&["-n", "-l", "calc"], &RUN)).run().assert_code(0);
    }
}

#[test]
fn a_report_describes_each_run() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let run = |options: &[&str], code| {
            let words = with(&["-l", "calc", "--report", "report"], options);
            place.lockrun(&sandbox, &words).run().assert_code(code).stdout.clone()
        };
        let fence = run(&["-c", "echo $LOCKRUN_FENCE; exit 3"], 3);
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        run(&["-n", "--", "true"], 75);
        run(&["-t", "0.1", "--", "true"], 124);
        holder.release();
        run(&["--expires", "0.1", "--", "sleep", "600"], 123);
        let text = std::fs::read_to_string(sandbox.path("work/report")).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let codes: Vec<_> = lines.iter().map(|line| line["code"].as_u64().unwrap()).collect();
        assert_eq!(codes, [3, 75, 124, 123]);
        assert_eq!(lines[0]["fence"].to_string(), fence.trim());
        let has_held: Vec<_> =
            lines.iter().map(|line| line["held"].is_number() && line["granted"].is_string()).collect();
        assert_eq!(has_held, [true, false, false, true]);
        assert!(lines.iter().all(|line| line["waited"].is_number()), "{text}");
    }
}

#[test]
fn the_lock_stays_while_the_command_lives_though_lockrun_was_killed() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let script = "echo $$ >pid; echo holding; exec sleep 600";
        let holder = place.lockrun(&sandbox, &["-l", "calc", "-c", script]).start().until_says("holding");
        holder.signal(libc::SIGKILL);
        holder.wait().assert_signal(libc::SIGKILL);
        place.lockrun(&sandbox, &with(&["-n", "-l", "calc"], &RUN)).run().assert_code(75);
        let pid: i32 = std::fs::read_to_string(sandbox.path("work/pid")).unwrap().trim().parse().unwrap();
        // SAFETY: kill has no memory effects.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        eventually("the lock is free", || place.lockrun(&sandbox, &["status", "calc"]).run().code == Some(0));
    }
}

#[test]
fn a_signal_ends_a_wait_and_leaves_nothing() {
    for place in Place::all() {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
            let sandbox = Sandbox::new();
            let holder = place.hold(&sandbox, &["-l", "calc"]);
            let waiter = place.wait_in_queue(&sandbox, &with(&["-l", "calc"], &RUN), 1);
            waiter.signal(signal);
            waiter.wait().assert_signal(signal).assert_stdout("");
            place.until_waiting(&sandbox, 0);
            holder.release();
        }
    }
}
