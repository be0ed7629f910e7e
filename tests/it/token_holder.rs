//! The keeper of a token has the lock and nothing of its caller.

use crate::support::{Sandbox, eventually, holder_of, is_alive, may_act_as_root, status_field, with_mounts};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs;
use std::path::PathBuf;

/// A sandbox, a token on `calc` and the pid of the process behind it.
fn holder() -> (Sandbox, String, i32) {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    let pid = holder_of(&sandbox.lock_file("calc"));
    (sandbox, token, pid)
}

fn read(pid: i32, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned()
}

/// Where its descriptors from 3 on lead.
fn descriptors(pid: i32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let above = entries.filter(|entry| !matches!(entry.file_name().to_str(), Some("0" | "1" | "2")));
    above.map(|entry| fs::read_link(entry.path()).unwrap()).collect()
}

#[test]
fn a_command_substitution_returns_at_once() {
    let sandbox = Sandbox::new();
    let script = r#"exec 7>file 8<&0; t=$(lockrun acquire -l calc --expires 1h 2>&1); echo "$t""#;
    let token = sandbox.sh(script).run().assert_code(0).stdout.trim().to_owned();
    sandbox.release(&token).assert_code(0);
}

#[test]
fn it_keeps_no_descriptor_of_the_caller() {
    let sandbox = Sandbox::new();
    let script = "exec 3>file 5>&1 9<.; lockrun acquire -l calc --owner $PPID";
    let outcome = sandbox.sh(script).run();
    outcome.assert_code(0);
    let pid = holder_of(&sandbox.lock_file("calc"));
    let own = [sandbox.locks(), sandbox.lock_file("calc")];
    let is_own = |path: &PathBuf| {
        let text = path.to_str().unwrap();
        own.contains(path) || text.starts_with("socket:") || text.starts_with("anon_inode:")
    };
    let found = descriptors(pid);
    assert!(found.iter().all(is_own), "{found:?}");
    for standard in 0..3 {
        let path = fs::read_link(format!("/proc/{pid}/fd/{standard}")).unwrap();
        assert_eq!(path, PathBuf::from("/dev/null"));
    }
}

/// Else its file system could not be unmounted.
#[test]
fn it_keeps_no_working_directory_where_paths_are_relative() {
    let sandbox = Sandbox::new();
    for words in ["--dir ../locks -l calc", "--dir ../locks --file ../home/new", "-l calc"] {
        let script = format!("LOCKRUN_DIR=../locks lockrun acquire {words} --expires 1000");
        let token = sandbox.sh(&script).run().assert_code(0).stdout.clone();
        let locks = sandbox.list::<&str>(&[]);
        let held = locks.iter().find(|lock| lock["state"] != "free").unwrap();
        let found = descriptors(held["holders"][0]["pid"].as_i64().unwrap() as i32);
        assert!(!found.contains(&sandbox.path("work")), "{words}: {found:?}");
        sandbox.release(token.trim()).assert_code(0);
    }
}

#[test]
fn it_leaves_the_callers_directory_and_session() {
    let (_sandbox, _token, pid) = holder();
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), PathBuf::from("/"));
    let stat = read(pid, "stat");
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let (group, session, terminal) = (fields[2], fields[3], fields[4]);
    assert_eq!((group, session, terminal), (&*pid.to_string(), &*pid.to_string(), "0"));
}

#[test]
fn it_keeps_the_variables_that_ci_systems_look_for() {
    let sandbox = Sandbox::new();
    let acquire = sandbox.lockrun(&["acquire", "-l", "calc", "--expires", "60"]);
    let acquire = acquire.env("RUNNER_TRACKING_ID", "one").env("BUILD_ID", "two").env("PASSWORD", "geheim");
    acquire.env("BUILD_ID_2", "three").run().assert_code(0);
    let text = read(holder_of(&sandbox.lock_file("calc")), "environ");
    let mut variables: Vec<_> = text.split('\0').filter(|variable| !variable.is_empty()).collect();
    variables.sort_unstable();
    let sandbox_mark = format!("JENKINS_NODE_COOKIE={}", sandbox.path("").display());
    assert_eq!(variables, ["BUILD_ID=two", sandbox_mark.trim_end_matches('/'), "RUNNER_TRACKING_ID=one"]);
}

#[test]
fn ps_shows_the_lock_and_never_a_token() {
    let (sandbox, token, pid) = holder();
    let command = sandbox.sh(&format!("ps -ww -o args= -p {pid}")).run();
    command.assert_code(0).assert_stdout("lockrun: keeps calc\n");
    let everything = sandbox.sh(&format!("ps -ww -o pid,comm,args e -p {pid}")).run();
    let secret = crate::support::part(&token, "s");
    assert!(!everything.stdout.contains(&secret), "{everything:?}");
    assert_eq!(read(pid, "comm"), "lockrun-keeper\n");
}

#[test]
fn no_file_contains_the_secret() {
    let (sandbox, token, _) = holder();
    let secret = crate::support::part(&token, "s");
    for name in sandbox.files_in_locks() {
        assert!(!fs::read_to_string(sandbox.locks().join(name)).unwrap().contains(&secret));
    }
}

#[test]
fn it_has_little_memory_of_its_own() {
    let (_sandbox, _token, pid) = holder();
    let rollup = read(pid, "smaps_rollup");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    let kilobytes: u32 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes <= 1024, "{kilobytes} kB");
}

#[test]
fn it_does_nothing_while_it_waits() {
    let (sandbox, token, pid) = holder();
    let done = || (status_field(pid, "voluntary_ctxt_switches"), status_field(pid, "nonvoluntary_ctxt_switches"));
    sandbox.check(&token).assert_code(0);
    eventually("it sleeps", || status_field(pid, "State").starts_with('S'));
    let before = done();
    // Something else happens meanwhile, on its lock as well.
    for _ in 0..20 {
        sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    }
    assert_eq!(before, done());
}

#[test]
fn term_makes_it_release_the_lock() {
    let (sandbox, token, pid) = holder();
    // SAFETY: kill has no memory effects; the holder lives.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    eventually("it ends", || !is_alive(pid));
    sandbox.assert_free("calc");
    sandbox.release(&token).assert_code(123);
}

#[test]
fn few_descriptors_are_enough() {
    let sandbox = Sandbox::new();
    let acquire = sandbox.lockrun(&["acquire", "-l", "calc", "--expires", "60"]).before_exec(|| {
        let few = Rlimit { current: Some(16), maximum: Some(16) };
        let _ = setrlimit(Resource::Nofile, few);
    });
    let outcome = acquire.run();
    outcome.assert_code(0);
    sandbox.release(outcome.stdout.trim()).assert_code(0);
}

#[test]
fn other_users_see_nothing_of_the_caller() {
    if !may_act_as_root("looking as another user") {
        return;
    }
    let (sandbox, token, pid) = holder();
    let script = format!("ps -ww -o args= e -p {pid}; cat /proc/{pid}/cmdline");
    let seen = sandbox.sh(&script).by_user(54321, 54321).run();
    assert!(!seen.stdout.contains(&token) && !seen.stdout.contains("HOME="), "{seen:?}");
}

#[test]
fn it_keeps_no_descriptor_of_the_caller_where_there_is_no_proc() {
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs none /proc; mkfifo pipe; cat pipe >read & reader=$!
        lockrun acquire -l calc --expires 1h 7>pipe 9>&7; wait $reader";
    if let Some(invocation) = with_mounts(&sandbox, script) {
        let token = invocation.run().assert_code(0).stdout.trim().to_owned();
        sandbox.release(&token).assert_code(0);
    }
}
