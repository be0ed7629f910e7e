//! `lockrun status LOCK`: 0 if `--timeout 0` would get it now, 1 if not.

use crate::support::{Sandbox, Terminal};

#[track_caller]
fn assert_status(sandbox: &Sandbox, words: &[&str], code: i32) {
    let outcome = sandbox.lockrun(&[&["status"], words].concat()).run();
    outcome.assert_code(code).assert_silent().assert_stdout("");
}

#[test]
fn it_tells_free_from_held_in_every_mode() {
    let sandbox = Sandbox::new();
    assert_status(&sandbox, &["calc"], 0);
    let holder = sandbox.hold(&["-l", "calc"]);
    assert_status(&sandbox, &["calc"], 1);
    assert_status(&sandbox, &["other"], 0);
    holder.release();
    assert_status(&sandbox, &["calc"], 0);
    let reader = sandbox.hold(&["-l", "calc", "--shared"]);
    assert_status(&sandbox, &["calc"], 1);
    reader.release();
    let foreign = sandbox.hold_by_python(&sandbox.lock_file("python"));
    assert_status(&sandbox, &["python"], 1);
    foreign.release();
    assert_status(&sandbox, &["python"], 0);
}

#[test]
fn it_takes_a_path() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/data", "precious\n");
    assert_status(&sandbox, &["--file", "data"], 0);
    assert_status(&sandbox, &["--file", "missing"], 0);
    assert!(!sandbox.path("work/missing").exists());
    let _holder = sandbox.hold_by_flock(&[], &file);
    assert_status(&sandbox, &["--file", "data"], 1);
}

/// `--timeout 0` would not get it, because it does not pass waiters.
#[test]
fn a_lock_with_waiters_is_not_free() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-l", "calc", "--exec", "--", "true"]).start().until_waiting();
    waiter.signal(libc::SIGSTOP);
    holder.release();
    assert_status(&sandbox, &["calc"], 1);
    sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    waiter.signal(libc::SIGCONT);
    waiter.wait().assert_code(0);
    assert_status(&sandbox, &["calc"], 0);
}

#[test]
fn an_unknown_state_is_125() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    sandbox.write("locks/foreign.lock", "4242\n");
    std::os::unix::fs::symlink("/dev/null", sandbox.lock_file("link")).unwrap();
    for words in [&["foreign"] as &[&str], &["link"], &[""]] {
        let outcome = sandbox.lockrun(&[&["status"], words].concat()).run();
        outcome.assert_code(125).assert_one_line(&[]).assert_stdout("");
    }
    for words in [&[] as &[&str], &["a", "b"], &["a", "--file", "b"]] {
        let outcome = sandbox.lockrun(&[&["status"], words].concat()).run();
        outcome.assert_usage_error(&["which lock?"]).assert_stdout("");
    }
}

#[test]
fn on_a_terminal_it_says_what_it_knows() {
    let sandbox = Sandbox::new();
    let on_terminal = |name: &str, code: i32| {
        let outcome = Terminal::start(sandbox.lockrun(&["status", name])).wait();
        outcome.assert_code(code);
        outcome.stdout.trim_end().to_owned()
    };
    assert_eq!(on_terminal("calc", 0), "calc: free");
    sandbox.lockrun(&["-l", "calc", "-c", "exit 3"]).run().assert_code(3);
    let text = on_terminal("calc", 0);
    assert!(text.starts_with("calc: free; last run: exit 3 (/bin/sh), ") && text.ends_with(" ago"), "{text}");
    let holder = sandbox.hold(&["-l", "calc"]);
    let _waiter = sandbox.lockrun(&["-l", "calc", "--", "true"]).start().until_waiting();
    let text = on_terminal("calc", 1);
    assert!(text.starts_with(&format!("calc: held by pid {} (sh -c ", holder.pid())), "{text}");
    assert!(text.ends_with("; 1 waiting"), "{text}");
}

/// LOCK as a word, `--name`, `--file`, and the directory before or after the command.
#[test]
fn a_lock_is_named_in_every_form() {
    let sandbox = Sandbox::new();
    let locks = sandbox.locks().display().to_string();
    let file = sandbox.lock_file("calc").display().to_string();
    let token = sandbox.lockrun(&["--dir", &locks, "acquire", "calc", "--expires", "1h"]).run();
    let token = token.assert_code(0).assert_silent().stdout.trim().to_owned();
    for (command, code) in [("status", 1), ("list", 0), ("wait", 124)] {
        let forms: [&[&str]; 6] = [
            &[command, "calc"],
            &[command, "--name", "calc"],
            &[command, "-l", "calc"],
            &[command, "--file", &file],
            &["--dir", &locks, command, "calc"],
            &[&format!("--dir={locks}"), command, "--name", "calc"],
        ];
        for form in forms {
            let words = if command == "wait" { [form, &["-t", "0"]].concat() } else { form.to_vec() };
            let outcome = sandbox.lockrun(&words).run();
            outcome.assert_code(code);
            assert!(command != "list" || outcome.stdout.contains("calc"), "{form:?}: {outcome:?}");
        }
    }
    sandbox.lockrun(&["break", "--name", "calc"]).run().assert_code(0).assert_silent();
    sandbox.lockrun(&["check", &token]).run().assert_code(123);
}
