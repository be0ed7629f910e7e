//! What holds for tokens of lock files and of a server alike, by one list.

use crate::support::{Place, Running, Sandbox, eventually};
use serde_json::Value;
use std::time::{Duration, Instant};

const RUN: [&str; 6] = ["-l", "calc", "--", "sh", "-c", "echo ran"];

fn busy(place: &Place, sandbox: &Sandbox) {
    place.lockrun(sandbox, &[&["-n"], &RUN[..]].concat()).run().assert_code(75).assert_stdout("");
}

fn assert_free(place: &Place, sandbox: &Sandbox) {
    place.lockrun(sandbox, &["status", "calc"]).run().assert_code(0);
    place.lockrun(sandbox, &[&["-n"], &RUN[..]].concat()).run().assert_code(0).assert_stdout("ran\n");
}

fn state(sandbox: &Sandbox, token: &str) -> Value {
    serde_json::from_str(&sandbox.lockrun(&["check", "--json", token]).run().assert_code(0).stdout).unwrap()
}

/// A process that ends with its input.
fn owner(sandbox: &Sandbox) -> Running {
    sandbox.sh("echo ready; exec cat").input("").start().until_says("ready")
}

#[test]
fn a_token_holds_the_lock_until_it_is_released() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let outcome = place.lockrun(&sandbox, &["acquire", "-l", "calc", "--expires", "1h"]).run();
        let token = outcome.assert_code(0).assert_silent().stdout.trim_end().to_owned();
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{token}");
        sandbox.check(&token).assert_code(0).assert_silent();
        busy(&place, &sandbox);
        let waiter = place.wait_in_queue(&sandbox, &RUN, 1);
        sandbox.release(&token).assert_code(0).assert_silent();
        waiter.wait().assert_code(0).assert_stdout("ran\n");
        for command in ["release", "check", "renew"] {
            sandbox.with_token(command, &token).assert_code(123).assert_one_line(&["calc: no longer held"]);
        }
        assert_free(&place, &sandbox);
    }
}

#[test]
fn of_two_releases_at_once_one_gives_the_lock_back() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        for _ in 0..5 {
            let token = place.acquire(&sandbox, &["-l", "calc", "-l", "other", "--expires", "1h"]);
            let both = [(); 2].map(|()| sandbox.lockrun(&["release", &token]).start());
            let mut codes = both.map(|release| release.wait().code);
            codes.sort_unstable();
            assert_eq!(codes, [Some(0), Some(123)]);
            assert_free(&place, &sandbox);
        }
    }
}

#[test]
fn check_says_what_is_held_and_for_how_long() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "1h"]);
        let said = state(&sandbox, &token);
        assert_eq!((&said["name"], &said["slot"]), (&"calc".into(), &Value::Null), "{said}");
        assert!(said["fence"].as_u64().unwrap() > 0 && said["expires"].is_string(), "{said}");
        let remaining = said["remaining"].as_f64().unwrap();
        assert!(remaining > 3500.0 && remaining <= 3601.0, "{said}");
        let forever = place.acquire(&sandbox, &["-l", "other", "--expires", "forever"]);
        let said = state(&sandbox, &forever);
        assert!(said["expires"].is_null() && said["remaining"].is_null(), "{said}");
        sandbox.release(&forever).assert_code(0);
    }
}

#[test]
fn a_token_expires_and_a_waiter_gets_its_turn() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "2"]);
        let waiter = place.wait_in_queue(&sandbox, &RUN, 1);
        waiter.wait().assert_code(0).assert_stdout("ran\n");
        sandbox.release(&token).assert_code(123).assert_stderr_has(&["calc", "expired"]);
    }
}

#[test]
fn renew_pushes_the_expiry_out_for_an_owner_as_well() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let owner = owner(&sandbox);
        let pid = owner.pid().to_string();
        for options in [&["-l", "calc"][..], &["-l", "calc", "--owner", &pid]] {
            let token = place.acquire(&sandbox, &[options, &["--expires", "1800"]].concat());
            let remaining = |token: &str| state(&sandbox, token)["remaining"].as_f64();
            for (renewal, least, most) in [
                (&["--expires", "2h"][..], 7000.0, 7201.0),
                (&[], 1700.0, 1801.0),
                (&["--expires", "1h"], 3500.0, 3601.0),
            ] {
                sandbox.lockrun(&[&["renew", &token], renewal].concat()).run().assert_code(0).assert_silent();
                let left = remaining(&token).unwrap();
                assert!(left > least && left <= most, "{renewal:?}: {left}");
            }
            sandbox.lockrun(&["renew", &token, "--expires", "forever"]).run().assert_code(0);
            assert_eq!(remaining(&token), None);
            sandbox.lockrun(&["renew", &token, "--expires", "1"]).run().assert_code(0);
            eventually("it expires", || sandbox.check(&token).code == Some(123));
            assert_free(&place, &sandbox);
        }
    }
}

#[test]
fn what_cannot_be_had_is_said_by_the_same_codes() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "1h"]);
        let acquire = |options: &[&str]| {
            let outcome = place.lockrun(&sandbox, &[&["acquire", "-l", "calc"], options].concat()).run();
            outcome.assert_stdout("");
            outcome
        };
        acquire(&["-n"]).assert_code(75).assert_one_line(&["calc: busy", "held by"]);
        acquire(&["-t", "0.2"]).assert_code(124).assert_one_line(&["timed out after 200ms"]);
        acquire(&["--max-waiters", "0"]).assert_code(121).assert_one_line(&["queue is full"]);
        acquire(&["-n", "-E", "7", "-q"]).assert_code(7).assert_silent();
        sandbox.release(&token).assert_code(0);
    }
}

#[test]
fn readers_slots_and_sets_are_held_by_tokens() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let hour = ["--expires", "1h"];
        let readers = [(); 2].map(|()| place.acquire(&sandbox, &[&["-s", "-l", "calc"], &hour[..]].concat()));
        busy(&place, &sandbox);
        place.lockrun(&sandbox, &["-n", "-s", "-l", "calc", "--", "true"]).run().assert_code(0);
        for token in readers {
            sandbox.release(&token).assert_code(0);
        }
        let slot = |wanted: i64| {
            let token = place.acquire(&sandbox, &[&["--slots", "2", "-l", "calc"], &hour[..]].concat());
            assert_eq!(state(&sandbox, &token)["slot"], wanted);
            token
        };
        let slots = [slot(0), slot(1)];
        place.lockrun(&sandbox, &["acquire", "-n", "--slots", "2", "-l", "calc"]).run().assert_code(75);
        for token in slots {
            sandbox.release(&token).assert_code(0);
        }
        let both = place.acquire(&sandbox, &[&["-l", "calc", "-l", "other"], &hour[..]].concat());
        busy(&place, &sandbox);
        place.lockrun(&sandbox, &["-n", "-l", "other", "--", "true"]).run().assert_code(75);
        // One of them is lost, and so is the token; the other one is given back.
        place.lockrun(&sandbox, &["break", "calc"]).run().assert_code(0);
        sandbox.check(&both).assert_code(123);
        sandbox.release(&both).assert_code(123);
        place.lockrun(&sandbox, &["-n", "-l", "calc", "-l", "other", "--", "true"]).run().assert_code(0);
    }
}

#[test]
fn break_and_replace_end_tokens_and_list_shows_them() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let owner = owner(&sandbox);
        let pid = owner.pid().to_string();
        for options in [&["-l", "calc", "--expires", "1h"][..], &["-l", "calc", "--owner", &pid]] {
            let token = place.acquire(&sandbox, options);
            let list = place.lockrun(&sandbox, &["list"]).run();
            assert!(list.assert_code(0).stdout.contains("token for"), "{list:?}");
            place.lockrun(&sandbox, &["break", "calc"]).run().assert_code(0).assert_silent();
            sandbox.check(&token).assert_code(123).assert_stderr_has(&["calc", "broken"]);
            assert_free(&place, &sandbox);
            let token = place.acquire(&sandbox, options);
            place.lockrun(&sandbox, &[&["--replace"], &RUN[..]].concat()).run().assert_code(0).assert_stdout("ran\n");
            sandbox.release(&token).assert_code(123).assert_stderr_has(&["calc", "replaced"]);
            let holder = place.hold(&sandbox, &["-l", "calc"]);
            let newest = place.acquire(&sandbox, &[&["--replace"], options].concat());
            holder.release().assert_code(123).assert_stderr_has(&["replaced by pid"]);
            sandbox.release(&newest).assert_code(0);
        }
    }
}

#[test]
fn the_lock_ends_with_its_owner_however_that_ends() {
    for place in Place::all() {
        for signal in [None, Some(libc::SIGTERM), Some(libc::SIGKILL)] {
            let sandbox = Sandbox::new();
            let mut owner = owner(&sandbox);
            let token = place.acquire(&sandbox, &["-l", "calc", "--owner", &owner.pid().to_string()]);
            sandbox.check(&token).assert_code(0).assert_silent();
            let waiter = place.wait_in_queue(&sandbox, &RUN, 1);
            match signal {
                Some(signal) => owner.signal(signal),
                None => owner.close_stdin(),
            }
            waiter.wait().assert_code(0).assert_stdout("ran\n");
            sandbox.release(&token).assert_code(123);
        }
    }
}

#[test]
fn a_wait_ends_with_its_owner() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let mut owner = owner(&sandbox);
        let holder = place.hold(&sandbox, &["-l", "calc"]);
        let waiter = place.wait_in_queue(&sandbox, &["acquire", "-l", "calc", "--owner", &owner.pid().to_string()], 1);
        owner.close_stdin();
        waiter.wait().assert_code(125).assert_stdout("").assert_one_line(&["--owner ended", "not taken"]);
        place.until_waiting(&sandbox, 0);
        holder.release();
        assert_free(&place, &sandbox);
    }
}

#[test]
fn a_wait_for_a_token_that_is_ended_leaves_nothing() {
    for place in Place::all() {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
            let sandbox = Sandbox::new();
            let holder = place.hold(&sandbox, &["-l", "calc"]);
            let waiter = place.wait_in_queue(&sandbox, &["acquire", "-l", "calc", "--expires", "1h"], 1);
            waiter.signal(signal);
            waiter.wait().assert_signal(signal).assert_stdout("");
            place.until_waiting(&sandbox, 0);
            holder.release();
            assert_free(&place, &sandbox);
        }
    }
}

#[test]
fn a_token_that_cannot_be_printed_gives_the_lock_back() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        for to in [">&-", ">/dev/full"] {
            let store = place.store();
            let script = format!("lockrun acquire {store} -l calc --expires 1h {to}");
            sandbox.sh(&script).run().assert_code(125).assert_stderr_has(&["could not be printed"]);
            assert_free(&place, &sandbox);
        }
    }
}

#[test]
fn a_token_in_the_environment_or_of_an_ancestor_is_around_us() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "1h"]);
        let under = |options: &[&str]| {
            place.lockrun(&sandbox, &[options, &RUN[..]].concat()).env("LOCKRUN_TOKEN", &token).run()
        };
        under(&[]).assert_code(122).assert_stdout("").assert_one_line(&["calc", "--reentrant"]);
        under(&["-n"]).assert_code(122);
        under(&["--reentrant"]).assert_code(0).assert_stdout("ran\n").assert_silent();
        sandbox.check(&token).assert_code(0);
        sandbox.release(&token).assert_code(0);
        under(&[]).assert_code(0).assert_stdout("ran\n");
        let store = place.store();
        let script = format!(
            "t=$(lockrun acquire {store} -l calc --owner $$) || exit; \
             lockrun {store} -l calc -- echo no; echo $?; lockrun {store} -n -l calc -- echo no; echo $?; \
             lockrun {store} --reentrant -l calc -- echo inside; lockrun release $t; lockrun {store} -l calc -- echo after"
        );
        let outcome = sandbox.sh(&script).run();
        outcome.assert_code(0).assert_stdout("122\n122\ninside\nafter\n");
    }
}

#[test]
fn a_command_that_is_ended_takes_no_token_with_it() {
    for place in Place::all() {
        let sandbox = Sandbox::new();
        let (store, owner) = (place.store_with("?ttl=2"), std::process::id());
        let script = format!("lockrun acquire {store} -l calc --owner {owner} >token; exec sleep 600");
        let outer = ["--expires", "2", "--kill-after", "0.1", "-l", "outer", "-c", &script];
        // All hosts of a Redis use the same ttl.
        place.lockrun_with(&sandbox, "?ttl=2", &outer).run().assert_code(123);
        let token = std::fs::read_to_string(sandbox.path("work/token")).unwrap();
        // On a server, the lock of a killed keeper is free when its lease ends.
        let began = Instant::now();
        eventually("a lease has passed", || {
            sandbox.check(token.trim()).assert_code(0);
            began.elapsed() > Duration::from_secs(4)
        });
        sandbox.release(token.trim()).assert_code(0);
    }
}
