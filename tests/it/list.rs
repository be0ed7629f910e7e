//! `lockrun list --json`: every lock, and every holder that the kernel shows.

use crate::support::{Sandbox, am_root, eventually, in_pid_namespace, is_held, may_act_as_root};
use serde_json::{Value, json};
use std::fs;

/// The one lock that was asked for.
#[track_caller]
fn one(sandbox: &Sandbox, words: &[&str]) -> Value {
    let mut locks = sandbox.list(words);
    assert_eq!(locks.len(), 1, "{locks:?}");
    locks.remove(0)
}

#[test]
fn a_directory_without_locks_lists_nothing_and_is_not_made() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.list(&[] as &[&str]), [] as [Value; 0]);
    assert!(sandbox.files_in_locks().is_empty());
    assert_eq!(one(&sandbox, &["calc"])["state"], "free");
    assert!(sandbox.files_in_locks().is_empty());
}

#[test]
fn a_free_lock_has_no_holder() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let mut lock = one(&sandbox, &[]);
    let path = sandbox.lock_file("calc");
    assert!(lock["last"].take().is_object());
    assert_eq!(
        lock,
        json!({
            "name": "calc", "path": path, "held": false, "state": "free", "slots": null, "holders": [],
            "waiting": 0, "last": null,
        })
    );
}

#[test]
fn a_holder_is_described_with_times() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc", "--expires", "1h"]);
    let lock = one(&sandbox, &["calc"]);
    assert_eq!(lock["state"], "exclusive");
    let row = &lock["holders"][0];
    assert_eq!(row["pid"], holder.pid());
    assert!(row["command"].as_str().unwrap().contains("exec cat"), "{row}");
    let time = |field: &str| humantime::parse_rfc3339(row[field].as_str().unwrap()).unwrap();
    assert_eq!(time("expires").duration_since(time("since")).unwrap().as_secs_f64().round(), 3600.0);
    assert!((0.0..60.0).contains(&row["age"].as_f64().unwrap()), "{row}");
    assert!((3540.0..=3600.0).contains(&row["remaining"].as_f64().unwrap()), "{row}");
    assert!(row["fence"].as_u64().unwrap() > 0, "{row}");
    assert_eq!((&row["slot"], &row["owner"]), (&Value::Null, &Value::Null));
}

#[test]
fn every_shared_holder_is_listed() {
    let sandbox = Sandbox::new();
    let holders = [(); 3].map(|()| sandbox.hold(&["-l", "data", "--shared"]));
    let lock = one(&sandbox, &["data"]);
    assert_eq!(lock["state"], "shared");
    let mut pids: Vec<_> = lock["holders"].as_array().unwrap().iter().map(|row| row["pid"].clone()).collect();
    pids.sort_by_key(|pid| pid.as_i64());
    for row in lock["holders"].as_array().unwrap() {
        assert!(row["age"].is_number() && row["command"].as_str().unwrap().starts_with("sh -c"), "{row}");
        assert_eq!((&row["slot"], row["fence"].is_u64()), (&Value::Null, true), "{row}");
    }
    assert_eq!(lock["held"], true);
    let mut expected = holders.each_ref().map(|holder| holder.pid());
    expected.sort_unstable();
    assert_eq!(pids, expected);
}

#[test]
fn slots_of_a_pool_are_numbered() {
    let sandbox = Sandbox::new();
    let _holders = [(); 2].map(|()| sandbox.hold(&["-l", "gpu", "--slots", "4"]));
    let lock = one(&sandbox, &["gpu"]);
    assert_eq!((&lock["state"], &lock["slots"]), (&"slots".into(), &4.into()), "{lock}");
    let mut slots: Vec<_> = lock["holders"].as_array().unwrap().iter().map(|row| row["slot"].as_u64()).collect();
    slots.sort();
    assert_eq!(slots, [Some(0), Some(1)], "{lock}");
    let table = sandbox.lockrun(&["list"]).run();
    assert!(table.stdout.contains("2 of 4 slots"), "{table:?}");
    sandbox.lockrun(&["status", "gpu"]).run().assert_code(1);
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_stdout("");
}

#[test]
fn waiters_are_counted() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    assert_eq!(one(&sandbox, &[])["waiting"], 0);
    let wait =
        |options: &[&str]| sandbox.lockrun(&[options, &["-l", "calc", "--", "true"]].concat()).start().until_waiting();
    let waiters = [wait(&[]), wait(&["--shared"]), wait(&["--shared"]), wait(&[])];
    assert_eq!(one(&sandbox, &[])["waiting"], 4);
    let [first, rest @ ..] = waiters;
    drop(first);
    eventually("three wait", || one(&sandbox, &[])["waiting"] == 3);
    holder.release();
    for waiter in rest {
        waiter.wait().assert_code(0);
    }
}

#[test]
fn a_token_is_listed_with_its_owner() {
    let sandbox = Sandbox::new();
    let owner = sandbox.command("sleep", &["1000"]).start();
    let pid = owner.pid().to_string();
    sandbox.lockrun(&["acquire", "-l", "calc", "--owner", &pid]).run().assert_code(0);
    let row = &one(&sandbox, &[])["holders"][0];
    assert_eq!(row["owner"], owner.pid());
    assert_eq!(row["expires"], Value::Null);
    drop(owner);
    eventually("the owner's end frees it", || one(&sandbox, &[])["state"] == "free");
}

#[test]
fn locks_of_other_programs_are_held_too() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    let python = sandbox.hold_by_python(&sandbox.lock_file("python"));
    let flock = sandbox.hold_by_flock(&[], &sandbox.lock_file("flock"));
    let shared = sandbox.hold_by_flock(&["--shared"], &sandbox.lock_file("shared"));
    for (name, state, holder) in
        [("python", "exclusive", &python), ("flock", "exclusive", &flock), ("shared", "shared", &shared)]
    {
        let lock = one(&sandbox, &[name]);
        assert_eq!(lock["state"], state, "{lock}");
        assert_eq!(lock["holders"][0]["pid"], holder.pid(), "{lock}");
        assert_eq!(lock["holders"][0]["since"], Value::Null, "nobody wrote it down: {lock}");
    }
    assert_eq!(sandbox.list(&[] as &[&str]).len(), 3);
}

#[test]
fn a_locked_path_is_listed_as_a_path() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/data", "precious\n");
    let path = file.to_str().unwrap();
    let holder = sandbox.hold(&["--file", path]);
    let _waiter = sandbox.lockrun(&["--file", path, "--", "true"]).start().until_waiting();
    for words in [&[] as &[&str], &["--file", path], &["--file", "./data"]] {
        let lock = one(&sandbox, words);
        assert_eq!((&lock["state"], &lock["waiting"]), (&"exclusive".into(), &1.into()), "{lock}");
        assert_eq!(lock["holders"][0]["pid"], holder.pid());
    }
    let elsewhere = sandbox.hold_by_flock(&[], &sandbox.write("work/other", ""));
    let lock = one(&sandbox, &["--file", "other"]);
    assert_eq!(lock["holders"][0]["pid"], elsewhere.pid());
}

#[test]
fn a_process_that_inherited_a_lock_is_listed_when_the_locker_is_dead() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    let script = format!("(flock 9; sleep 1000 & echo $! >pid) 9>{}", sandbox.lock_file("calc").display());
    sandbox.sh(&script).run().assert_code(0);
    let heir: i32 = fs::read_to_string(sandbox.path("work/pid")).unwrap().trim().parse().unwrap();
    let lock = one(&sandbox, &["calc"]);
    assert_eq!((&lock["state"], &lock["holders"][0]["pid"]), (&"exclusive".into(), &heir.into()), "{lock}");
}

/// Also those that waited, and those whose records would stand in the same place.
#[test]
fn many_who_share_it_have_their_own_age_and_command() {
    let sandbox = Sandbox::new();
    let writer = sandbox.hold(&["-l", "data"]);
    let readers: Vec<_> = (0..30)
        .map(|number| {
            let script = format!("echo holding; exec cat; reader {number}");
            sandbox.lockrun(&["-l", "data", "-s", "--", "sh", "-c", &script]).input("").start().until_waiting()
        })
        .collect();
    writer.release();
    let readers: Vec<_> = readers.into_iter().map(|reader| reader.until_says("holding")).collect();
    let lock = one(&sandbox, &["data"]);
    let mut numbers: Vec<u32> = lock["holders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert!(row["age"].is_number() && row["fence"].is_u64(), "{row}");
            row["command"].as_str().unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
    drop(readers);
}

/// kill -9 of the wrapper: COMMAND has the lock, and is found.
#[test]
fn a_command_is_listed_when_its_lockrun_was_killed() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let command = crate::support::children(holder.pid())[0];
    holder.signal(libc::SIGKILL);
    eventually("COMMAND alone holds it", || one(&sandbox, &["calc"])["holders"][0]["pid"] == command);
    let lock = one(&sandbox, &["calc"]);
    assert!(lock["holders"][0]["since"].is_string(), "the record is of this grant: {lock}");
}

#[test]
fn a_lock_held_in_another_pid_namespace_is_not_free() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "free", "--", "true"]).run().assert_code(0);
    let _exclusive = sandbox.hold(&["-l", "calc"]);
    let _shared = sandbox.hold(&["-l", "data", "--shared"]);
    let _waiter = sandbox.lockrun(&["-l", "calc", "--", "true"]).start().until_waiting();
    let program = sandbox.path("bin/lockrun").display().to_string();
    let Some(inside) = in_pid_namespace(&sandbox, &[&program, "list", "--json"]) else { return };
    let outcome = inside.run();
    outcome.assert_code(0).assert_silent();
    let locks: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    let seen: Vec<_> = locks.iter().map(|lock| (lock["state"].as_str().unwrap(), lock["waiting"].as_u64())).collect();
    assert_eq!(seen, [("exclusive", Some(1)), ("shared", Some(0)), ("free", Some(0))], "{locks:?}");
    assert!(locks.iter().all(|lock| lock["holders"] == json!([])), "{locks:?}");
    let Some(inside) = in_pid_namespace(&sandbox, &[&program, "list"]) else { return };
    assert!(inside.run().stdout.contains("(holder unknown)"));
}

#[test]
fn another_user_sees_that_a_lock_is_held() {
    if !may_act_as_root("another user") {
        return;
    }
    assert!(am_root());
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o755);
    let holder = sandbox.hold(&["-l", "calc"]);
    sandbox.lockrun(&["-l", "free", "--", "true"]).run().assert_code(0);
    // The locker is dead, and its heir's descriptors are not ours to see.
    let script = format!("(flock 9; sleep 1000 &) 9>{}", sandbox.lock_file("dead").display());
    sandbox.sh(&script).run().assert_code(0);
    let list = || -> Vec<Value> {
        let outcome = sandbox.lockrun(&["list", "--json"]).by_user(12345, 12345).run();
        serde_json::from_str(&outcome.assert_code(0).assert_silent().stdout).unwrap()
    };
    let state = |locks: &[Value], name: &str| locks.iter().find(|lock| lock["name"] == name).unwrap()["state"].clone();
    // While other tests hold many locks, the kernel does not show all of them
    // in one piece: then what is not shown may be held.
    let mut locks = Vec::new();
    eventually("the kernel shows all locks in one piece", || {
        locks = list();
        state(&locks, "free") != "unknown"
    });
    assert_eq!(["calc", "dead", "free"].map(|name| state(&locks, name)), ["exclusive", "exclusive", "free"]);
    assert_eq!(locks[0]["holders"][0]["pid"], holder.pid(), "{locks:?}");
}

/// As Python's lockf takes it, which is another kind of lock than the lock.
#[test]
fn a_foreign_record_lock_on_the_whole_file_is_no_waiter() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let script = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); \
                  print('holding', flush=True); sys.stdin.read()";
    let file = sandbox.lock_file("calc").display().to_string();
    let stranger = sandbox.command("python3", &["-c", script, &file]).input("").start().until_says("holding");
    assert_eq!(one(&sandbox, &["calc"])["waiting"], 0);
    stranger.wait().assert_code(0);
    drop(holder);
}

#[test]
fn any_name_is_shown_as_it_was_given() {
    let sandbox = Sandbox::new();
    let long = "x".repeat(300);
    for name in ["a/b c", "%41", "-n", "b\u{fc}ro", "new\nline", &long] {
        sandbox.lockrun(&["-l", name, "--", "true"]).run().assert_code(0);
    }
    let mut names: Vec<_> =
        sandbox.list(&[] as &[&str]).iter().map(|lock| lock["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["%41", "-n", "a/b c", "b\u{fc}ro", "new\nline", &long]);
}

#[test]
fn foreign_files_are_not_listed() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    sandbox.write("locks/Cargo.lock", "version = 4\n");
    sandbox.write("locks/not ours.lock", "");
    sandbox.write("locks/README", "");
    sandbox.write("locks/%-1-2.gate", "");
    fs::create_dir(sandbox.path("locks/dir.lock")).unwrap();
    std::os::unix::fs::symlink("/dev/null", sandbox.path("locks/link.lock")).unwrap();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    assert_eq!(one(&sandbox, &[])["name"], "calc");
    sandbox.lockrun(&["list", "link"]).run().assert_code(125).assert_one_line(&["link.lock"]);
}

#[test]
fn a_text_that_lies_is_not_believed() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let text = fs::read_to_string(sandbox.lock_file("calc")).unwrap();
    let forged = text.replace(&format!("\"pid\":{}", holder.pid()), "\"pid\":1");
    assert_ne!(forged, text);
    fs::write(sandbox.lock_file("calc"), forged).unwrap();
    let lock = one(&sandbox, &["calc"]);
    assert_eq!(lock["holders"][0]["pid"], holder.pid(), "{lock}");
    assert_eq!(lock["holders"][0]["fence"], Value::Null, "{lock}");
    holder.release();
    assert!(!is_held(&sandbox.lock_file("calc")));
    assert_eq!(one(&sandbox, &["calc"])["holders"], json!([]));
}

#[test]
fn completion_gets_only_names() {
    let sandbox = Sandbox::new();
    for name in ["calc", "a/b", "new\nline"] {
        sandbox.lockrun(&["-l", name, "--", "true"]).run().assert_code(0);
    }
    sandbox.lockrun(&["list", "--names"]).run().assert_code(0).assert_stdout("a/b\ncalc\n");
}

#[test]
fn json_escapes_what_a_terminal_obeys_or_what_reorders_text() {
    let sandbox = Sandbox::new();
    let name = "a\u{202e}b\u{9b}\u{7f}\u{200b}c";
    let report = sandbox.path("report");
    let command = ["--report", report.to_str().unwrap(), "-l", name, "--", "true", name];
    sandbox.lockrun(&command).run().assert_code(0);
    let token = sandbox.acquire(&["-l", name, "--expires", "1h"]);
    let outputs = [
        sandbox.lockrun(&["list", "--json"]).run().assert_code(0).stdout.clone(),
        sandbox.lockrun(&["check", "--json", &token]).run().assert_code(0).stdout.clone(),
        fs::read_to_string(report).unwrap(),
    ];
    for output in outputs {
        assert!(output.contains(r"\u202e") || output.contains(r"\\u{202e}"), "{output}");
        let raw = |c: char| c.is_control() && c != '\n' || ['\u{202e}', '\u{200b}'].contains(&c);
        assert!(!output.contains(raw), "{output:?}");
    }
    assert_eq!(one(&sandbox, &[])["name"], name);
    sandbox.lockrun(&["list", "--names"]).run().assert_code(0).assert_stdout("");
}
