//! `--store URL`, `LOCKRUN_STORE`: where the locks are, and what is wrong with a URL.

use crate::support::{Etcd, Invocation, Sandbox, children};
use std::fs;

/// Without a LOCKRUN_DIR, which every sandbox has.
fn lockrun(sandbox: &Sandbox, args: &[&str]) -> Invocation {
    sandbox.command("env", &[&["-u", "LOCKRUN_DIR", "lockrun"], args].concat())
}

const RUN: [&str; 5] = ["-l", "calc", "--", "touch", "ran"];

#[test]
fn a_wrong_url_is_125_and_says_what_to_write() {
    let sandbox = Sandbox::new();
    for url in [
        "",
        "db",
        "etcd:",
        "etcd://",
        "http://a",
        "etcd://a?ttl=1",
        "postgres:///b",
        "postgres://a/b?port=1",
        "postgres://a?sslmode=prefer",
        "redis://a/b",
        "valkey://a?evict=risk",
        "etcd://a:x",
    ] {
        let outcome = lockrun(&sandbox, &[&["--store", url], &RUN as &[&str]].concat()).run();
        outcome.assert_code(125).assert_stdout("").assert_one_line(&["--store="]);
        lockrun(&sandbox, &RUN).env("LOCKRUN_STORE", url).run().assert_code(125).assert_one_line(&["LOCKRUN_STORE="]);
    }
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn each_wrong_url_has_its_own_line() {
    let sandbox = Sandbox::new();
    for (url, says) in [
        ("", "it is empty"),
        ("a:2379", "the scheme a is unknown; write etcd://HOST"),
        ("etcd", "this is not a URL"),
        ("etcd:a", "// is missing"),
        ("etcd://a,,b", "a host is missing"),
        ("etcd://a:0", "0 is not a port"),
        ("etcd://[::1", "] is missing"),
        ("etcd://a b", "a b is not a host name"),
        ("etcd://a#b", "write %23"),
        ("etcd://a//b", "the prefix has an empty part"),
        ("file:///x", "give --dir DIR"),
        ("etcd://a?ttl=1", "ttl: at least 2 seconds"),
        ("etcd://a?ttl=2d", "ttl: at most a day"),
        ("etcd://a?x=1", "the parameter x is unknown; the parameters are ttl,"),
        ("etcd://a?ttl", "the parameter ttl has no value"),
        ("etcd://a?cacert=/c", "write etcds://"),
        ("etcds://a?cert=/c", "cert and key go together"),
        ("etcd://u@a", "the user u has no password; give password-file=FILE"),
        ("etcd://a?password-file=/f", "give user=NAME"),
        ("etcd://u:p@a?user=v", "the user is given twice"),
        ("etcd://a/%zz", "write %25"),
    ] {
        let outcome = lockrun(&sandbox, &RUN).env("LOCKRUN_STORE", url).run();
        outcome.assert_code(125).assert_stdout("").assert_one_line(&["LOCKRUN_STORE=", says]);
    }
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn an_unreachable_server_is_69() {
    let sandbox = Sandbox::new();
    let store = "etcd://127.0.0.1:1,127.0.0.1:2?connect=0.2";
    for args in [
        &["-l", "calc", "--", "touch", "ran"] as &[&str],
        &["-n", "-E", "0", "-q", "-l", "calc", "--", "touch", "ran"],
        &["status", "calc"],
        &["list"],
        &["wait", "calc"],
        &["break", "calc"],
    ] {
        let outcome = lockrun(&sandbox, args).env("LOCKRUN_STORE", store).run();
        outcome.assert_code(69).assert_stdout("").assert_one_line(&["127.0.0.1:1: ", "127.0.0.1:2: "]);
    }
    assert!(!sandbox.path("work/ran").exists());
}

#[test]
fn options_for_this_machine_ignore_the_environment() {
    let sandbox = Sandbox::new();
    let nowhere = "etcd://127.0.0.1:1?connect=0.2";
    let run = |args: &[&str]| lockrun(&sandbox, args).env("LOCKRUN_STORE", nowhere).run();
    run(&["--store", "file:", "-l", "calc", "--", "true"]).assert_code(0);
    run(&["--file", "lock", "--", "true"]).assert_code(0);
    let dir = sandbox.locks();
    run(&["--dir", dir.to_str().unwrap(), "-l", "calc", "--", "true"]).assert_code(0);
    run(&["path", "calc"]).assert_code(0);
    run(&["--", "true"]).assert_code(125).assert_one_line(&["needs --name"]);
    for options in [&["--dir", "."] as &[&str], &["--file", "lock"]] {
        let args = [&["--store", nowhere], options, &["--", "true"]].concat();
        lockrun(&sandbox, &args).run().assert_code(125).assert_one_line(&["give one of them"]);
    }
    let both =
        sandbox.lockrun(&["-l", "calc", "--", "true"]).env("LOCKRUN_STORE", nowhere).env("LOCKRUN_DIR", &dir).run();
    both.assert_code(125).assert_one_line(&["unset LOCKRUN_DIR", "LOCKRUN_STORE"]);
}

#[test]
fn what_only_files_or_only_servers_can_do_is_125() {
    let sandbox = Sandbox::new();
    let store = "etcd://127.0.0.1:1?connect=0.2";
    lockrun(&sandbox, &["--store", store, "--exec", "-l", "calc", "--", "true"]).run().assert_code(125);
    lockrun(&sandbox, &["--at-least", "5", "-l", "calc", "--", "true"]).run().assert_code(125);
}

#[test]
fn a_command_under_the_lock_inherits_the_store() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start();
    let script = "lockrun -l other -- sh -c 'echo $LOCKRUN_NAME'";
    let outcome = lockrun(&sandbox, &["-l", "calc", "-c", script]).env("LOCKRUN_STORE", etcd.url("jobs")).run();
    outcome.assert_code(0).assert_stdout("other\n").assert_silent();
}

/// Root and its password, which only the environment has.
#[test]
fn a_password_is_never_shown() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start();
    for command in
        [&["user", "add", "root:geheim"] as &[&str], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        etcd.etcdctl(&sandbox, command).assert_code(0);
    }
    let url = |password: &str| format!("etcd://root:{password}@{}/jobs", etcd.address());
    let wrong = lockrun(&sandbox, &RUN).env("LOCKRUN_STORE", url("falsch")).run();
    wrong.assert_code(125);
    assert!(!wrong.stderr.contains("falsch"), "{wrong:?}");
    let script = "echo holding; exec cat";
    let right = lockrun(&sandbox, &["-v", "-l", "calc", "-c", script]).env("LOCKRUN_STORE", url("geheim")).input("");
    let right = right.start().until_says("holding");
    let keepers = children(right.pid());
    assert!(keepers.len() == 2, "the command and the keeper: {keepers:?}");
    for (pid, what) in keepers.iter().chain([&right.pid()]).flat_map(|pid| [(pid, "cmdline"), (pid, "environ")]) {
        let shown = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{what}")).unwrap()).into_owned();
        let is_inherited = what == "environ" && !shown.is_empty();
        assert!(is_inherited || !shown.contains("geheim"), "{pid} {what}: {shown}");
        let is_keeper = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("lockrun-keeper");
        assert!(!is_keeper || !shown.contains("geheim"), "{shown}");
    }
    let right = right.wait();
    right.assert_code(0);
    assert!(!right.stderr.contains("geheim"), "{right:?}");
    let shown = lockrun(&sandbox, &["--store", &url("geheim"), "-l", "calc", "--", "true"]).run();
    shown.assert_code(125).assert_one_line(&["password-file"]);
    assert!(!shown.stderr.contains("geheim"), "{shown:?}");
}
