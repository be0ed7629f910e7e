//! Who may talk to etcd, and at which address: TLS, users and passwords, files with
//! secrets that change while a lock is held or waited for.

use crate::support::{Authority, Etcd, Invocation, Running, Sandbox, eventually};
use std::fs;

/// Long enough to start a server within a lease, and short enough to wait for a renewal.
const TTL: &str = "ttl=10";

fn lockrun(sandbox: &Sandbox, store: &str, args: &[&str]) -> Invocation {
    sandbox.command("env", &[&["-u", "LOCKRUN_DIR", "lockrun"], args].concat()).env("LOCKRUN_STORE", store)
}

fn hold(sandbox: &Sandbox, store: &str) -> Running {
    hold_with(sandbox, store, "echo holding; exec cat")
}

fn hold_with(sandbox: &Sandbox, store: &str, script: &str) -> Running {
    lockrun(sandbox, store, &["-l", "calc", "-c", script]).input("").start().until_says("holding")
}

/// A command that does not end by itself.
const ENDLESS: &str = "echo holding; exec sleep 600";

fn wait_in_queue(sandbox: &Sandbox, store: &str) -> Running {
    let waiter = lockrun(sandbox, store, &["-l", "calc", "--", "echo", "ran"]).start();
    eventually("it waits", || list(sandbox, store)[0]["waiting"] == 1);
    waiter
}

fn list(sandbox: &Sandbox, store: &str) -> serde_json::Value {
    serde_json::from_str(&lockrun(sandbox, store, &["list", "--json"]).run().assert_code(0).stdout).unwrap()
}

fn until_stderr_has(running: &Running, text: &str) {
    eventually(text, || running.stderr().contains(text));
}

#[test]
fn with_tls_both_sides_show_a_certificate() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start_with_tls(&sandbox);
    let tls = etcd.tls().unwrap();
    let strangers = Authority::in_directory(&sandbox, "strangers");
    let run = |url: &str| lockrun(&sandbox, url, &["-l", "calc", "--", "echo", "ran"]).run();
    run(&etcd.url("jobs")).assert_code(0).assert_stdout("ran\n").assert_silent();
    let identity = format!("&cert={}&key={}", tls.cert.display(), tls.key.display());
    let secure =
        |cacert: &str, rest: &str| run(&format!("etcds://{}/jobs?connect=1&cacert={cacert}{rest}", etcd.address()));
    let own = tls.cacert.to_str().unwrap();
    let missing = sandbox.path("missing").display().to_string();
    for (outcome, code, says) in [
        (secure(strangers.cert().to_str().unwrap(), &identity), 125, "not signed by an authority in"),
        (secure(&missing, &identity), 125, "No such file"),
        (secure(own, ""), 125, "rejects our client certificate"),
    ] {
        outcome.assert_code(code).assert_stdout("").assert_one_line(&[etcd.address(), says]);
    }
}

/// The authority too: the files are read again for each connection.
#[test]
fn certificates_that_are_renewed_while_a_lock_is_held_and_waited_for_cost_nobody_anything() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start_with_tls(&sandbox);
    let store = format!("{}&{TTL}", etcd.url("jobs"));
    let holder = hold(&sandbox, &store);
    let waiter = wait_in_queue(&sandbox, &store);
    etcd.kill();
    until_stderr_has(&holder, "cannot be renewed");
    etcd.renew_certificates(&sandbox);
    etcd.restart();
    until_stderr_has(&holder, "the lock was renewed");
    holder.wait().assert_code(0);
    waiter.wait().assert_code(0).assert_stdout("ran\n");
}

#[test]
fn certificates_that_cannot_be_read_while_a_lock_is_held_are_an_unreachable_server() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start_with_tls(&sandbox);
    let store = format!("{}&ttl=3", etcd.url("jobs"));
    let holder = hold_with(&sandbox, &store, ENDLESS);
    fs::write(&etcd.tls().unwrap().cacert, "damaged").unwrap();
    etcd.kill();
    etcd.restart();
    holder.wait().assert_code(123).assert_stderr_has(&["cannot be renewed", "ca.pem", "could not be reached in time"]);
    lockrun(&sandbox, &store, &["-l", "calc", "--", "touch", "ran"])
        .run()
        .assert_code(125)
        .assert_one_line(&["ca.pem"]);
}

#[test]
fn a_password_that_changes_while_a_lock_is_held_and_waited_for_is_read_again() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start();
    etcd.switch_users_on(&sandbox, "old");
    let password = sandbox.write("password", "old\n");
    let account = format!("user=lockrun&password-file={}", password.display());
    let store = format!("etcd://{}/jobs?{account}&{TTL}", etcd.address());
    let holder = hold(&sandbox, &store);
    let waiter = wait_in_queue(&sandbox, &store);
    etcd.change_password(&sandbox, "new");
    until_stderr_has(&holder, "cannot be renewed: etcd knows no such user, or the password is wrong");
    // At the start it is an error of the caller's.
    let late = lockrun(&sandbox, &store, &["-l", "calc", "--", "true"]).run();
    late.assert_code(125).assert_one_line(&["the password is wrong"]);
    sandbox.write("password", "new\n");
    until_stderr_has(&holder, "the lock was renewed");
    holder.wait().assert_code(0);
    waiter.wait().assert_code(0).assert_stdout("ran\n");
}

#[test]
fn what_a_user_may_do_is_up_to_his_role() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start();
    etcd.switch_users_on(&sandbox, "geheim");
    let run = |prefix: &str, login: &str, args: &[&str]| {
        lockrun(&sandbox, &format!("etcd://{login}{}/{prefix}", etcd.address()), args).run()
    };
    let command = ["-l", "calc", "--", "true"];
    run("jobs", "lockrun:geheim@", &command).assert_code(0).assert_silent();
    let denied = run("other", "lockrun:geheim@", &command);
    denied.assert_code(125).assert_one_line(&["permission denied", "role"]);
    run("jobs", "", &command).assert_code(125).assert_one_line(&["?user="]);
    run("jobs", "", &["list"]).assert_code(125);
    // Who may only read can look.
    let root = |args: &[&str]| etcd.etcdctl(&sandbox, &[&["--user=root:secret"], args].concat());
    for args in [
        &["user", "add", "reader:geheim"][..],
        &["role", "add", "reading"],
        &["role", "grant-permission", "reading", "--prefix=true", "read", "jobs/"],
        &["user", "grant-role", "reader", "reading"],
    ] {
        root(args).assert_code(0);
    }
    run("jobs", "reader:geheim@", &["list"]).assert_code(0);
    run("jobs", "reader:geheim@", &["status", "calc"]).assert_code(0);
    run("jobs", "reader:geheim@", &["wait", "calc"]).assert_code(0);
    run("jobs", "reader:geheim@", &command).assert_code(125).assert_one_line(&["permission denied"]);
}

#[test]
fn a_password_is_in_no_record_no_list_and_no_report() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start();
    etcd.switch_users_on(&sandbox, "geheim");
    let store = format!("etcd://lockrun:geheim@{}/jobs", etcd.address());
    let args = ["-v", "--report", "report", "-l", "calc", "--", "sh", "-c", "echo holding; exec cat"];
    let holder = lockrun(&sandbox, &store, &args).input("").start().until_says("holding");
    let run = |args: &[&str]| {
        let outcome = lockrun(&sandbox, &store, args).run();
        outcome.stdout + &outcome.stderr
    };
    let mut shown = vec![
        etcd.etcdctl(&sandbox, &["--user=root:secret", "get", "--prefix", ""]).stdout,
        run(&["list"]),
        run(&["list", "--json"]),
        run(&["-v", "-n", "-l", "calc", "--", "true"]),
        run(&["-v", "-t", "0.1", "-l", "calc", "--", "true"]),
        run(&["-v", "status", "calc"]),
    ];
    let outcome = holder.wait();
    shown.extend([outcome.stdout.clone(), outcome.stderr, fs::read_to_string(sandbox.path("work/report")).unwrap()]);
    assert!(shown.iter().all(|text| !text.is_empty()) || shown[5].is_empty(), "{shown:?}");
    for text in shown {
        assert!(!text.contains("geheim"), "{text}");
    }
}

#[test]
fn dead_addresses_among_good_ones_cost_time_and_nothing_else() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start();
    let dead = etcd.address().replace(":2", ":3");
    let store = format!("etcd://{dead},no-such-host.invalid,{}/jobs?ttl=3", etcd.address());
    // The first address is drawn.
    for _ in 0..6 {
        let outcome = lockrun(&sandbox, &store, &["-l", "calc", "--", "echo", "ran"]).run();
        outcome.assert_code(0).assert_stdout("ran\n").assert_silent();
    }
    // Longer than a lease, with renewals.
    lockrun(&sandbox, &store, &["-l", "calc", "--", "sleep", "4"]).run().assert_code(0).assert_silent();
}

#[test]
fn another_cluster_is_not_taken_for_the_one_that_has_the_lock() {
    let sandbox = Sandbox::new();
    let (one, other) = (Etcd::start(), Etcd::start_with(&["--initial-cluster-token=other"]));
    let store = format!("etcd://{},{}/jobs?ttl=3", one.address(), other.address());
    let holder = hold_with(&sandbox, &store, ENDLESS);
    let has = |etcd: &Etcd| !etcd.keys(&sandbox, "jobs/").is_empty();
    let (first, second) = if has(&one) { (&one, &other) } else { (&other, &one) };
    assert!(!has(second));
    first.kill();
    let outcome = holder.wait();
    let says = format!("{}: belongs to another cluster", second.address());
    outcome.assert_code(123).assert_stderr_has(&["cannot be renewed", &says, "could not be reached in time"]);
    assert!(!has(second));
}
