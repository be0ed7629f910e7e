//! What only locks on a server have: a lease, a keeper, and ways to lose both.

use crate::support::{Etcd, Place, Proxy, Running, Sandbox, eventually, is_alive, keeper_of, signal, status_field};
use std::time::{Duration, Instant};

const SHORT: &str = "?ttl=3";

fn server() -> Place {
    Place::Etcd(Etcd::start())
}

/// A command that only KILL can end and that records how long it lived.
const STUBBORN: &str = "trap '' TERM; echo $$; while :; do date +%s.%N >alive; sleep 0.01; done";

fn stubborn(place: &Place, sandbox: &Sandbox) -> Running {
    place.lockrun_with(sandbox, SHORT, &["-l", "calc", "-c", STUBBORN]).start().until_says("\n")
}

#[test]
fn a_row_that_was_removed_ends_the_command_at_once() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let holder = stubborn(&place, &sandbox);
        place.remove_first_row(&sandbox);
        holder.wait().assert_code(123).assert_stderr_has(&["calc: lost: the store has taken it away", "KILL"]);
    }
}

#[test]
fn the_line_names_who_holds_the_lock_now() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let holder = stubborn(&place, &sandbox);
        let waiter = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "exec sleep 600"], 1);
        place.remove_first_row(&sandbox);
        let now = format!("; now held by pid {} on ", waiter.pid());
        holder.wait().assert_code(123).assert_one_line(&["calc: lost: the store has taken it away", "KILL", &now]);
        // The queue is empty.
        waiter.signal(libc::SIGTERM);
        waiter.wait().assert_signal(libc::SIGTERM);
        let holder = stubborn(&place, &sandbox);
        place.remove_first_row(&sandbox);
        holder.wait().assert_code(123).assert_one_line(&["the store has taken it away", "; nobody holds it now"]);
    }
}

#[test]
fn a_server_that_stops_ends_the_command_before_its_lease_does() {
    for kill in [false, true] {
        for place in Place::own_servers() {
            let sandbox = Sandbox::new();
            let holder = stubborn(&place, &sandbox);
            let began = Instant::now();
            if kill {
                place.kill()
            } else {
                place.freeze()
            }
            let outcome = holder.wait();
            assert!(began.elapsed() < Duration::from_secs(3), "the lease is 3 s: {outcome:?}");
            outcome.assert_code(123).assert_stderr_has(&["cannot be renewed", "lost", "could not be reached", "KILL"]);
            place.thaw();
        }
    }
}

#[test]
fn connections_that_are_cut_or_lead_nowhere_are_made_anew_or_end_the_command() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let proxy = Proxy::to(&place.address());
        let url = place.url().unwrap().replacen(&place.address(), proxy.address(), 1);
        let url = url.clone() + if url.contains('?') { "&ttl=" } else { "?ttl=" };
        let run = |ttl: &str, args: &[&str]| {
            sandbox.lockrun(&[&["--store", &(url.clone() + ttl), "-l", "calc"], args].concat()).start()
        };
        let holder = run("3", &["-c", STUBBORN]).until_says("\n");
        let waiter = run("20", &["--", "echo", "ran"]);
        place.until_waiting(&sandbox, 1);
        let began = Instant::now();
        eventually("a lease has passed", || {
            proxy.cut();
            place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(1);
            began.elapsed() > Duration::from_secs(4)
        });
        proxy.lose_answers();
        holder.wait().assert_code(123).assert_stderr_has(&["cannot be renewed", "could not be reached", "KILL"]);
        proxy.open();
        waiter.wait().assert_code(0).assert_stdout("ran\n");
    }
}

/// etcd grants no lease below one and a half times its election timeout.
#[test]
fn a_longer_lease_than_was_asked_for_is_used_to_the_end() {
    let place = Place::Etcd(Etcd::start_with(&["--election-timeout=5000"]));
    let sandbox = Sandbox::new();
    let holder = place
        .lockrun_with(&sandbox, "?ttl=2&connect=60", &["-l", "calc", "-c", "echo holding; exec sleep 600"])
        .start();
    let mut holder = holder.until_says("holding");
    let began = Instant::now();
    place.freeze();
    // Renewed after a third of 8 s, so that there is time to try again.
    eventually("the holder has heard of it", || holder.stderr().contains("cannot be renewed"));
    assert!(!holder.has_ended());
    let outcome = holder.wait();
    // By the 2 s that were asked for, it would have been ended before.
    assert!(began.elapsed() > Duration::from_secs(2), "{outcome:?}");
    outcome.assert_code(123).assert_stderr_has(&["lost", "could not be reached", "TERM"]);
    place.thaw();
}

#[test]
fn a_server_that_comes_back_in_time_is_no_loss() {
    for place in Place::own_servers() {
        let sandbox = Sandbox::new();
        let holder = place.lockrun_with(&sandbox, SHORT, &["-l", "calc", "--", "sleep", "4"]).start();
        eventually("it holds", || place.lockrun(&sandbox, &["status", "calc"]).run().code == Some(1));
        place.freeze();
        std::thread::sleep(Duration::from_millis(700));
        place.thaw();
        holder.wait().assert_code(0);
    }
}

#[test]
fn a_server_that_is_restarted_within_the_lease_costs_nobody_anything() {
    for mut place in Place::own_servers() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let waiters: Vec<_> = (1..=2)
            .map(|number| {
                place.wait_in_queue(&sandbox, &["-l", "calc", "-c", &format!("echo {number} >>order")], number)
            })
            .collect();
        place.kill();
        place.restart();
        place.until_waiting(&sandbox, 2);
        holder.release().assert_code(0).assert_silent();
        for waiter in waiters {
            waiter.wait().assert_code(0);
        }
        assert_eq!(std::fs::read_to_string(sandbox.path("work/order")).unwrap(), "1\n2\n");
    }
}

#[test]
fn a_server_that_comes_back_after_the_lease_finds_the_command_ended_and_waiters_waiting() {
    for mut place in Place::own_servers() {
        let sandbox = Sandbox::new();
        let holder = place.lockrun_with(&sandbox, SHORT, &["-l", "calc", "-c", "echo holding; exec sleep 600"]).start();
        let holder = holder.until_says("holding");
        let waiter = place.lockrun_with(&sandbox, "?ttl=3", &["-l", "calc", "--", "echo", "ran"]).start();
        let bounded = place.lockrun_with(&sandbox, "?ttl=3", &["-t", "5", "-l", "calc", "--", "touch", "late"]).start();
        place.until_waiting(&sandbox, 2);
        place.kill();
        holder.wait().assert_code(123).assert_stderr_has(&["could not be reached in time", "TERM"]);
        bounded.wait().assert_code(124);
        place.restart();
        waiter.wait().assert_code(0).assert_stdout("ran\n");
        assert!(!sandbox.path("work/late").exists());
    }
}

#[test]
fn a_keeper_that_was_killed_or_hangs_is_replaced() {
    for (fault, place) in
        [libc::SIGKILL, libc::SIGSTOP].into_iter().flat_map(|fault| Place::servers().map(|place| (fault, place)))
    {
        let sandbox = Sandbox::new();
        let holder = place.hold_with(&sandbox, SHORT, &["-l", "calc"]);
        let first = keeper_of(holder.pid());
        signal(first, fault);
        eventually("another one", || !is_alive(first) && keeper_of(holder.pid()) != first);
        // Longer than a lease.
        let began = Instant::now();
        eventually("a lease has passed", || {
            place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(1);
            began.elapsed() > Duration::from_secs(4)
        });
        holder.release().assert_code(0).assert_silent();
        place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(0);
    }
}

#[test]
fn a_keeper_that_was_killed_while_it_waited_is_replaced_in_its_place() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let first = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "echo 1 >>order"], 1);
        let second = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "echo 2 >>order"], 2);
        let keeper = keeper_of(first.pid());
        signal(keeper, libc::SIGKILL);
        eventually("another one", || keeper_of(first.pid()) != keeper);
        holder.release();
        first.wait().assert_code(0);
        second.wait().assert_code(0);
        assert_eq!(std::fs::read_to_string(sandbox.path("work/order")).unwrap(), "1\n2\n");
    }
}

#[test]
fn where_all_of_us_were_stopped_the_line_says_so() {
    for (keeper_first, place) in
        [false, true].into_iter().flat_map(|first| Place::servers().map(|place| (first, place)))
    {
        let sandbox = Sandbox::new();
        let holder = stubborn(&place, &sandbox);
        let keeper = keeper_of(holder.pid());
        let all = if keeper_first { [keeper, holder.pid()] } else { [holder.pid(), keeper] };
        for pid in all {
            signal(pid, libc::SIGSTOP);
        }
        eventually("the lease has ended", || place.lockrun(&sandbox, &["status", "calc"]).run().code == Some(0));
        signal(all[0], libc::SIGCONT);
        if keeper_first {
            let command: i32 = holder.stdout().trim().parse().unwrap();
            eventually("the keeper has killed", || !is_alive(command));
        }
        signal(all[1], libc::SIGCONT);
        let outcome = holder.wait();
        outcome.assert_code(123).assert_one_line(&["calc: lost: lockrun, or this machine, was stopped for ", "KILL"]);
    }
}

fn is_held(place: &Place, sandbox: &Sandbox) -> bool {
    place.lockrun(sandbox, &["status", "calc"]).run().code == Some(1)
}

/// A stopped lockrun whose keeper has the lock.
fn stopped_at_the_grant(place: &Place, sandbox: &Sandbox) -> Running {
    let holder = place.hold_with(sandbox, SHORT, &["-l", "calc"]);
    let late = place.lockrun_with(sandbox, SHORT, &["-l", "calc", "--", "touch", "started"]).start();
    place.until_waiting(sandbox, 1);
    late.signal(libc::SIGSTOP);
    holder.release().assert_code(0);
    eventually("its keeper has the lock", || is_held(place, sandbox));
    late
}

#[test]
fn a_lock_that_was_lost_before_the_command_started_starts_nothing() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let is_held = || is_held(&place, &sandbox);
        let late = stopped_at_the_grant(&place, &sandbox);
        // So its keeper has also said so.
        let began = Instant::now();
        eventually("a lease has passed", || {
            assert!(is_held());
            began.elapsed() > Duration::from_secs(4)
        });
        let keeper = keeper_of(late.pid());
        signal(keeper, libc::SIGSTOP);
        eventually("the lease has ended", || !is_held());
        late.signal(libc::SIGCONT);
        signal(keeper, libc::SIGCONT);
        late.wait()
            .assert_code(123)
            .assert_one_line(&["calc: lost: lockrun, or this machine, was stopped for ", "not started"]);
        assert!(!sandbox.path("work/started").exists());
    }
}

/// Asked to let go, or the row removed, while the wrapper is stopped.
#[test]
fn a_lock_that_was_taken_away_before_the_command_started_starts_nothing() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let late = stopped_at_the_grant(&place, &sandbox);
        let broken = place.lockrun(&sandbox, &["break", "--kill-after", "0.1", "calc"]).run();
        broken.assert_code(125).assert_one_line(&["did not let go in time; its row was removed"]);
        late.signal(libc::SIGCONT);
        late.wait().assert_code(123).assert_stderr_has(&["calc: broken by pid ", "the command was not started"]);
        assert!(!sandbox.path("work/started").exists());
    }
}

#[test]
fn a_wrapper_that_is_stopped_does_not_keep_its_command_past_the_lease() {
    for place in Place::own_servers() {
        let sandbox = Sandbox::new();
        let holder = stubborn(&place, &sandbox);
        let command: i32 = holder.stdout().trim().parse().unwrap();
        holder.signal(libc::SIGSTOP);
        place.freeze();
        let began = Instant::now();
        eventually("the command was killed", || !is_alive(command) || status_field(command, "State").starts_with('Z'));
        assert!(began.elapsed() < Duration::from_secs(3));
        place.thaw();
        holder.signal(libc::SIGCONT);
        holder.wait().assert_code(123);
    }
}

#[test]
fn at_least_keeps_the_lock_after_the_command() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let began = Instant::now();
        let args = ["--at-least", "4", "-l", "calc", "--", "true"];
        place.lockrun(&sandbox, &args).run().assert_code(0).assert_silent();
        assert!(began.elapsed() < Duration::from_secs(3), "it returns at once");
        let busy = place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run();
        busy.assert_code(75).assert_one_line(&["kept until"]);
        place.lockrun(&sandbox, &["-l", "calc", "--", "true"]).run().assert_code(0);
        assert!(began.elapsed() >= Duration::from_secs(4));
        // break removes it at once.
        place.lockrun(&sandbox, &["--at-least", "600", "-l", "calc", "--", "true"]).run().assert_code(0);
        place.lockrun(&sandbox, &["break", "calc"]).run().assert_code(0);
        place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
    }
}

#[test]
fn etcdctl_lock_and_lockrun_exclude_each_other() {
    let (place, sandbox) = (server(), Sandbox::new());
    let holder = place.hold(&sandbox, &["-l", "calc"]);
    let script = sandbox.write("work/hold.sh", "echo holding; until [ -e end ]; do sleep 0.01; done");
    let other = place.server().etcdctl_command(&sandbox, &["lock", "jobs/calc", "sh", script.to_str().unwrap()]);
    let mut other = other.start();
    place.until_waiting(&sandbox, 1);
    assert!(!other.has_ended());
    holder.release();
    let other = other.until_says("holding");
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    let waiter = place.wait_in_queue(&sandbox, &["-l", "calc", "--", "echo", "ran"], 1);
    sandbox.write("work/end", "");
    other.wait();
    waiter.wait().assert_code(0).assert_stdout("ran\n");
}

/// It is the cluster, the prefix and the name that make a lock, not the URL.
#[test]
fn the_same_lock_by_another_url_is_refused_under_itself() {
    let (place, other, sandbox) = (server(), Etcd::start_with(&["--initial-cluster-token=other"]), Sandbox::new());
    let address = place.server().address();
    let under = |url: &str| {
        let script = format!("lockrun --store '{url}' -t 20 -l calc -- echo inside");
        place.lockrun(&sandbox, &["-l", "calc", "-c", &script]).run()
    };
    for same in [format!("etcd://127.0.0.1:1,{address}/jobs?ttl=7"), format!("etcd://{address}/j%6Fbs/")] {
        under(&same).assert_code(122).assert_stdout("").assert_one_line(&["calc", "--reentrant"]);
    }
    for another in [format!("etcd://{address}/others"), other.url("jobs")] {
        under(&another).assert_code(0).assert_stdout("inside\n").assert_silent();
    }
}

#[test]
fn locks_on_files_and_on_a_server_are_taken_under_each_other() {
    let (place, sandbox) = (server(), Sandbox::new());
    let url = place.server().url("jobs");
    let dir = sandbox.locks().display().to_string();
    let (on_files, on_server) = (format!("--dir {dir}"), format!("--store {url}"));
    for [outer, inner] in [[&on_files, &on_server], [&on_server, &on_files]] {
        // The name is the same, the lock is not.
        let innermost = "echo $LOCKRUN_NAME";
        let script = format!("lockrun {inner} -l calc -- lockrun {inner} -l other -c '{innermost}'");
        let args = [outer.split(' ').collect(), vec!["-l", "calc", "-c", &script]].concat();
        sandbox.lockrun(&args).run().assert_code(0).assert_stdout("other\n").assert_silent();
        // Through the other kind the outer one is still seen.
        let script = format!("lockrun {inner} -l other -- lockrun {outer} -l calc -- echo inside");
        let args = [outer.split(' ').collect(), vec!["-l", "calc", "-c", &script]].concat();
        sandbox.lockrun(&args).run().assert_code(122).assert_stdout("").assert_one_line(&["calc"]);
    }
}

/// Nothing of the holder is left, and the server has not heard of its end.
#[test]
fn a_standby_takes_over_when_a_host_dies() {
    for place in Place::servers() {
        let sandbox = Sandbox::new();
        let script = "echo $$; exec sleep 600";
        let holder = place.lockrun_with(&sandbox, SHORT, &["-l", "calc", "-c", script]).start().until_says("\n");
        let standby = place.wait_in_queue(&sandbox, &["-l", "calc", "--", "echo", "took over"], 1);
        let command: i32 = holder.stdout().trim().parse().unwrap();
        // The keeper first: it would give the lock back.
        for process in [keeper_of(holder.pid()), holder.pid(), command] {
            signal(process, libc::SIGSTOP);
        }
        for process in [keeper_of(holder.pid()), holder.pid(), command] {
            signal(process, libc::SIGKILL);
        }
        standby.wait().assert_code(0).assert_stdout("took over\n");
    }
}

/// The kilobytes of a process's heap that are in memory.
fn heap(pid: i32) -> u32 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let of_heap = maps.lines().skip_while(|line| !line.ends_with("[heap]"));
    let size = of_heap.filter_map(|line| line.strip_prefix("Anonymous:")).next().unwrap();
    size.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn waiting_takes_little_memory() {
    let (place, sandbox) = (server(), Sandbox::new());
    let _holder = stubborn(&place, &sandbox);
    let waiter = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "exec sleep 600"], 1);
    let heaps = [waiter.pid(), keeper_of(waiter.pid())].map(heap);
    assert!(heaps.iter().all(|kilobytes| *kilobytes <= 256), "{heaps:?}");
}

#[test]
fn nothing_is_left_on_the_server() {
    for place in Place::own_servers() {
        let sandbox = Sandbox::new();
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        place.lockrun(&sandbox, &["-t", "0.1", "-l", "calc", "--", "true"]).run().assert_code(124);
        place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
        holder.release();
        assert_eq!(place.rows(&sandbox), [""; 0]);
        if let Place::Etcd(etcd) = &place {
            assert_eq!(etcd.keys(&sandbox, ""), [""; 0]);
            etcd.etcdctl(&sandbox, &["lease", "list"]).assert_stdout("found 0 leases\n");
        }
    }
}
