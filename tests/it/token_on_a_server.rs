//! What only tokens of a server have: no process, no file, other machines.

use crate::support::{Etcd, Example, Place, Sandbox, eventually, is_alive, may_act_as_root};
use std::path::Path;
use std::time::{Duration, Instant};

fn server() -> Place {
    Place::Etcd(Etcd::start())
}

/// Processes that keep a lock of this name.
fn keepers(name: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_keeper = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).starts_with(&format!("lockrun: keeps {name}"))
    };
    pids.filter(is_keeper).collect()
}

/// Like no other test's.
fn name() -> String {
    format!("calc-{}-{:?}", std::process::id(), std::thread::current().id())
}

fn kill(pid: i32) {
    // SAFETY: kill has no memory effects.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

#[test]
fn no_process_stays_without_an_owner_and_one_with_it() {
    let (place, sandbox, name) = (server(), Sandbox::new(), name());
    let token = place.acquire(&sandbox, &["-l", &name, "--expires", "1h"]);
    eventually("nobody keeps it", || keepers(&name).is_empty());
    sandbox.check(&token).assert_code(0);
    sandbox.release(&token).assert_code(0);
    assert!(place.server().keys(&sandbox, "jobs/").is_empty());
    let token = place.acquire(&sandbox, &["-l", &name, "--owner", &std::process::id().to_string()]);
    assert_eq!(keepers(&name).len(), 1);
    sandbox.release(&token).assert_code(0);
    eventually("nobody keeps it", || keepers(&name).is_empty());
    assert!(place.server().keys(&sandbox, "jobs/").is_empty());
    eventually("no lease stays", || {
        place.server().etcdctl(&sandbox, &["lease", "list"]).stdout.starts_with("found 0 leases")
    });
}

#[test]
fn a_token_works_from_another_home_directory_and_user() {
    let (place, sandbox, elsewhere) = (server(), Sandbox::new(), Sandbox::new());
    for command in ["check", "renew", "release"] {
        let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "1h"]);
        let home = elsewhere.make_dir("home", 0o777);
        let mut lockrun = elsewhere.lockrun(&[command, &token]).env("HOME", &home).current_dir(Path::new("/"));
        lockrun = lockrun.env("LOCKRUN_DIR", "/nonexistent");
        if may_act_as_root("another user") {
            lockrun = lockrun.by_user(65534, 65534);
        }
        lockrun.run().assert_code(0).assert_silent();
        place.lockrun(&sandbox, &["break", "calc"]).run().assert_code(0);
    }
}

#[test]
fn a_token_has_no_password_and_no_file() {
    let (place, sandbox) = (server(), Sandbox::new());
    let file = sandbox.write("secret-file", "geheim\n");
    let url = format!("etcd://{}/jobs?user=root&password-file={}", place.server().address(), file.display());
    let token = sandbox.acquire(&["--store", &url, "-l", "calc", "--expires", "1h"]);
    let text = data_encoding::BASE64URL_NOPAD.decode(token.strip_prefix("lr1.").unwrap().as_bytes()).unwrap();
    let text = String::from_utf8_lossy(&text);
    for secret in ["geheim", "secret-file", "root"] {
        assert!(!text.contains(secret), "{text}");
    }
    sandbox.release(&token).assert_code(0);
}

#[test]
fn the_store_is_that_of_the_option_or_environment_and_the_same_one() {
    let (place, other, sandbox) = (server(), Etcd::start(), Sandbox::new());
    let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "1h"]);
    let wrong = sandbox.lockrun(&["release", &token]).env("LOCKRUN_STORE", other.url("jobs")).run();
    wrong.assert_code(125).assert_one_line(&["calc", "another cluster"]);
    sandbox.lockrun(&["release", "--store", &other.url("jobs"), &token]).run().assert_code(125);
    sandbox.check(&token).assert_code(0);
    // The prefix is the token's, the addresses are not.
    let dead = "etcd://127.0.0.1:1/jobs";
    let down = sandbox.lockrun(&["check", &token]).env("LOCKRUN_STORE", format!("{dead}?connect=100ms")).run();
    down.assert_code(69).assert_one_line(&["calc", "cannot be reached", "127.0.0.1:1"]);
    let right = place.server().url("other");
    sandbox.lockrun(&["check", "--store", &right, &token]).env("LOCKRUN_STORE", dead).run().assert_code(0);
    sandbox.lockrun(&["release", &token]).env("LOCKRUN_STORE", "file:").run().assert_code(0);
    // A token of lock files is none of a server's.
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    sandbox.lockrun(&["release", &token]).env("LOCKRUN_STORE", right).run().assert_code(0);
}

#[test]
fn a_server_that_is_away_is_said_to_be() {
    let (mut place, sandbox) = (server(), Sandbox::new());
    let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "1h"]);
    place.server().kill();
    for command in ["check", "renew", "release"] {
        let outcome = sandbox.with_token(command, &token);
        outcome.assert_code(69).assert_one_line(&["calc", "cannot be reached", "connection refused"]);
    }
    let none = place.lockrun_with(&sandbox, "?connect=100ms", &["acquire", "-l", "calc"]).run();
    none.assert_code(69).assert_stdout("");
    // 125 beats 69 beats 123.
    sandbox.lockrun(&["release", &token, "lr1.nonsense"]).run().assert_code(125);
    let Place::Etcd(etcd) = &mut place else { unreachable!() };
    etcd.restart();
    sandbox.check(&token).assert_code(0);
    sandbox.release(&token).assert_code(0);
}

#[test]
fn a_keeper_that_is_killed_leaves_the_lock_to_its_lease() {
    let (place, sandbox, name) = (server(), Sandbox::new(), name());
    let token = place
        .lockrun_with(&sandbox, "?ttl=2", &["acquire", "-l", &name, "--owner", &std::process::id().to_string()])
        .run();
    let token = token.assert_code(0).stdout.trim_end().to_owned();
    kill(keepers(&name)[0]);
    sandbox.check(&token).assert_code(0);
    eventually("the lease ends", || sandbox.check(&token).code == Some(123));
    place.lockrun(&sandbox, &["-n", "-l", &name, "--", "true"]).run().assert_code(0);
}

#[test]
fn an_owner_keeps_the_lock_for_longer_than_a_lease_and_over_an_outage() {
    let (place, sandbox) = (server(), Sandbox::new());
    let began = Instant::now();
    let options = ["acquire", "-l", "calc", "--owner", &std::process::id().to_string()];
    let token = place.lockrun_with(&sandbox, "?ttl=2", &options).run().stdout.trim_end().to_owned();
    eventually("two leases have passed", || {
        sandbox.check(&token).assert_code(0);
        began.elapsed() > Duration::from_secs(5)
    });
    place.server().freeze();
    std::thread::sleep(Duration::from_millis(700));
    place.server().thaw();
    sandbox.check(&token).assert_code(0);
    sandbox.release(&token).assert_code(0);
}

/// Whenever acquire is killed, and its keeper with it or not: either its token is good,
/// or the lock is free soon.
#[test]
fn an_acquire_that_is_killed_leaves_no_lock_stuck() {
    let (place, sandbox, name) = (server(), Sandbox::new(), name());
    let (mut good, mut bad) = (0, 0);
    for round in 0..36 {
        let options = ["acquire", "-l", &name, "--expires", "3"];
        let acquire = place.lockrun_with(&sandbox, "?ttl=2", &options).start();
        std::thread::sleep(Duration::from_millis(round / 2));
        if round % 2 == 1 {
            keepers(&name).into_iter().for_each(kill);
        }
        acquire.signal(libc::SIGKILL);
        let token = acquire.wait().stdout.trim_end().to_owned();
        let is_good = !token.is_empty() && sandbox.check(&token).code == Some(0);
        (good, bad) = if is_good { (good + 1, bad) } else { (good, bad + 1) };
        if is_good {
            sandbox.release(&token).assert_code(0);
        }
        eventually("the lock is free", || {
            place.lockrun(&sandbox, &["-n", "-l", &name, "--", "true"]).run().code == Some(0)
        });
        eventually("nobody keeps it", || keepers(&name).iter().all(|pid| !is_alive(*pid)));
    }
    println!("{good} tokens were good, {bad} were not");
    assert!(bad > 0);
}

#[test]
fn a_reader_of_the_token_that_is_slow_lets_acquire_be_killed_and_frees_the_lock() {
    let (place, sandbox) = (server(), Sandbox::new());
    let _full = sandbox.full_pipe("pipe");
    let script = format!("exec lockrun acquire {} -l calc --expires 1h >pipe", place.store());
    let acquire = sandbox.sh(&script).start();
    eventually("it is held", || place.lockrun(&sandbox, &["status", "calc"]).run().code == Some(1));
    acquire.signal(libc::SIGKILL);
    acquire.wait().assert_signal(libc::SIGKILL);
    eventually("the lock is free", || place.lockrun(&sandbox, &["status", "calc"]).run().code == Some(0));
}

#[test]
fn a_descriptor_is_of_this_machine() {
    let (place, sandbox) = (server(), Sandbox::new());
    let script = format!("exec 9>f; lockrun acquire --fd 9 {}", place.store());
    sandbox.sh(&script).run().assert_code(125).assert_one_line(&["--fd means this machine", "--store"]);
    let fine = sandbox.sh("exec 9>f; lockrun acquire --fd 9").env("LOCKRUN_STORE", place.server().url("jobs"));
    fine.run().assert_code(0).assert_silent();
}

/// Each line of the recipe on a machine of its own, as far as files tell; the token goes
/// from one to the next.
#[test]
fn the_recipe_for_ci_jobs_works_on_other_machines() {
    const HOSTS: &str = "etcd1,etcd2,etcd3";
    let (place, sandbox) = (server(), Sandbox::new());
    let recipes = Example::all_in("docs/recipes.md");
    let recipe = recipes.iter().find(|example| example.text.contains(&format!("{HOSTS}/ci"))).unwrap();
    let steps = recipe.behind("- ");
    assert_eq!(steps.len(), 4);
    let mut token = String::new();
    for (number, step) in steps.iter().enumerate() {
        let machine = Sandbox::new();
        machine.write("work/token", &token);
        for stub in ["deploy.sh", "test.sh"] {
            machine.write(&format!("bin/{stub}"), "#!/bin/sh\necho \"${0##*/}\"\n");
            machine.sh(&format!("chmod +x ../bin/{stub}")).run().assert_code(0);
        }
        let outcome = machine.sh(&step.replace(HOSTS, place.server().address())).run();
        outcome.assert_code(0).assert_stdout(["", "deploy.sh\n", "test.sh\n", ""][number]);
        token = std::fs::read_to_string(machine.path("work/token")).unwrap();
        let status = place.server().keys(&sandbox, "ci/staging/");
        assert_eq!(status.len(), usize::from(number < 3), "{step}");
    }
}

#[test]
fn a_token_goes_to_a_file_of_ci_as_well() {
    let (place, sandbox) = (server(), Sandbox::new());
    let options = ["acquire", "-l", "calc", "--expires", "1h", "--env-file", "env"];
    place.lockrun(&sandbox, &options).run().assert_code(0).assert_stdout("");
    sandbox.sh(". ./env; lockrun release \"$LOCKRUN_TOKEN\"").run().assert_code(0).assert_silent();
}
