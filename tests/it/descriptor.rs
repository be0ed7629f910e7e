//! `acquire --fd N`: the lock is on a descriptor of the script's own, in every shell
//! and however it was opened.

use crate::support::{Outcome, Running, SHELLS, Sandbox, Terminal, in_pid_namespace, is_held, may_act_as_root};
use std::fs;
use std::path::Path;

/// A script that opens `calc`, locks it and does `body`.
fn script(options: &str, body: &str) -> String {
    format!("exec 9<>\"$(lockrun path calc)\" || exit; lockrun acquire --fd 9 {options} || exit; {body}")
}

/// One that holds until its input ends.
#[track_caller]
fn hold(sandbox: &Sandbox, options: &str) -> Running {
    sandbox.sh(&script(options, "echo holding; cat")).input("").start().until_says("holding")
}

fn flock(sandbox: &Sandbox, path: &Path) -> Option<i32> {
    sandbox.command("flock", &["-n".as_ref(), path.as_os_str(), "true".as_ref()]).run().code
}

fn try_named(sandbox: &Sandbox, options: &[&str]) -> Option<i32> {
    sandbox.lockrun(&[options, &["-q", "-n", "-l", "calc", "--", "true"]].concat()).run().code
}

#[test]
fn a_script_in_any_shell_holds_it_until_it_ends() {
    for shell in SHELLS {
        let sandbox = Sandbox::new();
        let text = shell.with_descriptor("lockrun acquire --fd 9 -n || exit; echo holding; cat");
        let holder = sandbox.shell(shell, &text).input("").start().until_says("holding");
        assert_eq!(try_named(&sandbox, &[]), Some(75), "{shell:?}");
        assert_eq!(flock(&sandbox, &sandbox.lock_file("calc")), Some(1), "{shell:?}");
        let second = sandbox.shell(shell, &text).run();
        second.assert_code(75).assert_stdout("").assert_one_line(&["calc", "busy", "held by pid"]);
        holder.wait().assert_code(0).assert_silent().assert_stdout("holding\n");
        assert_eq!(try_named(&sandbox, &[]), Some(0), "{shell:?}");
    }
}

#[test]
fn in_shells_that_close_it_for_programs_the_error_says_what_to_write() {
    for shell in SHELLS {
        let sandbox = Sandbox::new();
        let text = "exec 9<>\"$(lockrun path calc)\" || exit; lockrun acquire --fd 9; echo $?";
        let outcome = sandbox.shell(shell, text).run();
        match shell.passes_on_what_exec_opens() {
            true => outcome.assert_stdout("0\n").assert_silent(),
            false => outcome.assert_stdout("125\n").assert_one_line(&["9 is not open", "ksh", "( ... ) 9<>"]),
        };
    }
}

#[test]
fn an_exclusive_lock_works_on_every_kind_of_open_file() {
    let sandbox = Sandbox::new();
    sandbox.write("work/file", "precious\n");
    sandbox.make_dir("work/directory", 0o755);
    for (open, path) in [
        ("9<file", "file"),
        ("9>>file", "file"),
        ("9<>file", "file"),
        ("9<directory", "directory"),
        ("9>new", "new"),
        ("9<>\"$(lockrun path calc)\"", "../locks/calc.lock"),
        ("9<\"$(lockrun path calc)\"", "../locks/calc.lock"),
        ("9>\"$(lockrun path calc)\"", "../locks/calc.lock"),
    ] {
        let text = format!("exec {open}; lockrun acquire --fd 9 -n || exit; echo holding; cat");
        let holder = sandbox.sh(&text).input("").start().until_says("holding");
        let path = sandbox.path("work").join(path);
        assert_eq!(flock(&sandbox, &path), Some(1), "{open}");
        holder.wait().assert_code(0).assert_silent();
        assert_eq!(flock(&sandbox, &path), Some(0), "{open}");
    }
    assert_eq!(fs::read_to_string(sandbox.path("work/file")).unwrap(), "precious\n");
    assert_eq!(fs::read_to_string(sandbox.path("work/new")).unwrap(), "");
}

/// A reader of a lock that may have slots has to be open for reading.
#[test]
fn a_shared_lock_works_on_every_kind_of_open_file() {
    let sandbox = Sandbox::new();
    for open in ["9<>\"$(lockrun path calc)\"", "9<\"$(lockrun path calc)\"", "9>file"] {
        let text = format!("exec {open}; lockrun acquire --fd 9 -n -s || exit; echo holding; cat");
        let one = sandbox.sh(&text).input("").start().until_says("holding");
        let other = sandbox.sh(&text).input("").start().until_says("holding");
        one.wait().assert_code(0).assert_silent();
        other.wait().assert_code(0).assert_silent();
    }
    let outcome = sandbox.sh("exec 9>\"$(lockrun path calc)\"; lockrun acquire --fd 9 -s").run();
    outcome.assert_code(125).assert_one_line(&["descriptor 9", "9<>"]);
}

#[test]
fn other_kinds_of_file_are_refused_and_the_error_says_what_to_open() {
    let sandbox = Sandbox::new();
    let refused = |outcome: Outcome, what: &str| {
        outcome.assert_code(125).assert_one_line(&["descriptor 9", what, "exec 9<>\"$(lockrun path NAME)\""]);
    };
    sandbox.command("mkfifo", &["fifo"]).run().assert_code(0);
    for (open, what) in [("9>&-", "not open"), ("9<>fifo", "a pipe"), ("9</dev/null", "a device")] {
        refused(sandbox.sh(&format!("exec {open}; lockrun acquire --fd 9")).run(), what);
        refused(sandbox.sh(&format!("exec {open}; lockrun check --fd 9")).run(), what);
        refused(sandbox.sh(&format!("exec {open}; lockrun release --fd 9")).run(), what);
    }
    let python = |make: &str| {
        let text = format!(
            "import os, socket\n{make}\nos.dup2(fd, 9, True)\nos.execlp('lockrun', 'lockrun', 'acquire', '--fd', '9')"
        );
        sandbox.command("python3", &["-c", &text]).run()
    };
    refused(python("s = socket.socket(); fd = s.fileno()"), "a socket");
    refused(python("fd = os.memfd_create('x')"), "a memfd");
    refused(python("fd = os.open('/tmp', os.O_PATH)"), "O_PATH");
    let terminal = Terminal::start(sandbox.sh("exec 9<&0; lockrun acquire --fd 9 2>err; echo $? >code"));
    terminal.wait();
    assert_eq!(fs::read_to_string(sandbox.path("work/code")).unwrap(), "125\n");
    assert!(fs::read_to_string(sandbox.path("work/err")).unwrap().contains("a terminal"));
    assert!(sandbox.files_in_locks().is_empty());
}

/// A number that is closed is not the one of a file that lockrun opens itself.
#[test]
fn a_closed_descriptor_is_never_taken_for_a_file_of_lockrun() {
    let sandbox = Sandbox::new();
    for number in 3..12 {
        let line = format!("exec {number}>&-; lockrun acquire --fd {number}");
        sandbox.command("bash", &["-c", &line]).run().assert_code(125).assert_one_line(&["not open"]);
    }
    for number in ["-1", "x", "99999999999"] {
        sandbox.lockrun(&["acquire", "--fd", number]).run().assert_usage_error(&["--fd"]);
    }
}

#[test]
fn it_excludes_and_is_excluded_by_flock_names_paths_and_tokens() {
    let sandbox = Sandbox::new();
    let holder = hold(&sandbox, "-n");
    assert_eq!(try_named(&sandbox, &["-s"]), Some(75));
    let path = sandbox.lock_file("calc");
    let path = path.to_str().unwrap();
    sandbox.lockrun(&["-n", "--file", path, "--", "true"]).run().assert_code(75);
    sandbox.lockrun(&["acquire", "-n", "-l", "calc"]).run().assert_code(75);
    holder.wait().assert_code(0);

    let attempt = |sandbox: &Sandbox| {
        let outcome = sandbox.sh(&script("-n", "echo in")).run();
        outcome.assert_code(75).assert_stdout("").assert_one_line(&["calc", "busy"]);
    };
    for options in [["-l", "calc"], ["--file", path]] {
        let holder = sandbox.hold(&options);
        attempt(&sandbox);
        holder.release();
    }
    let flock = sandbox.hold_by_flock(&[], &sandbox.lock_file("calc"));
    attempt(&sandbox);
    flock.release();
    let token = sandbox.acquire(&["-l", "calc"]);
    attempt(&sandbox);
    sandbox.lockrun(&["release", &token]).run().assert_code(0);
    sandbox.sh(&script("-n", "echo in")).run().assert_code(0).assert_stdout("in\n");
}

/// A path into the locks directory, the name and the descriptor: one queue, one
/// record.
#[test]
fn the_lock_file_of_a_name_has_no_second_queue() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["path", "calc"]).run().assert_code(0);
    let path = sandbox.lock_file("calc");
    sandbox.lockrun(&["--file", path.to_str().unwrap(), "--", "true"]).run().assert_code(0);
    sandbox.sh(&script("", "true")).run().assert_code(0);
    assert_eq!(sandbox.files_in_locks(), ["calc.lock"]);
    let _holder = hold(&sandbox, "");
    let seen = &sandbox.list(&["calc"])[0];
    assert_eq!(seen["holders"][0]["command"].as_str().unwrap().split(' ').next(), Some("/bin/sh"), "{seen}");
    let by_path = &sandbox.list(&["--file", path.to_str().unwrap()])[0];
    assert_eq!(by_path["holders"][0]["fence"], seen["holders"][0]["fence"]);
}

/// Its content is not touched; its queue is elsewhere.
#[test]
fn a_foreign_file_named_like_a_lock_file_is_locked_as_any_other() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    fs::write(sandbox.lock_file("foreign"), "precious\n").unwrap();
    let text = "exec 9<>\"$LOCKRUN_DIR/foreign.lock\"; lockrun acquire --fd 9 -n && lockrun check --fd 9";
    sandbox.sh(text).run().assert_code(0).assert_silent();
    assert_eq!(fs::read_to_string(sandbox.lock_file("foreign")).unwrap(), "precious\n");
}

#[test]
fn a_path_of_descriptors_means_the_descriptor() {
    let sandbox = Sandbox::new();
    for path in ["/dev/fd/9", "/proc/self/fd/9"] {
        let text = format!(
            "exec 9<>file; lockrun acquire -n --file {path} || exit; lockrun check --file {path} || exit
            flock -n file true; echo flock $?
            lockrun release --file {path} || exit; flock -n file true; echo flock $?"
        );
        sandbox.sh(&text).run().assert_code(0).assert_silent().assert_stdout("flock 1\nflock 0\n");
    }
    for command in ["release", "check"] {
        sandbox.lockrun(&[command, "--file", "x"]).run().assert_code(125).assert_one_line(&["/dev/fd/N"]);
    }
}

#[test]
fn a_name_or_path_beside_the_descriptor_must_be_that_of_its_file() {
    let sandbox = Sandbox::new();
    let acquire =
        |open: &str, options: &str| sandbox.sh(&format!("exec 9<>{open}; lockrun acquire -n --fd 9 {options}")).run();
    sandbox.lockrun(&["path", "other"]).run().assert_code(0);
    acquire("\"$(lockrun path calc)\"", "--name calc").assert_code(0).assert_silent();
    acquire("file", "--file file").assert_code(0).assert_silent();
    acquire("file", "--file ../work/file --file /dev/fd/9").assert_code(0).assert_silent();
    for (open, options) in [
        ("file", "--name calc"),
        ("file", "--file missing"),
        ("file", "--file file --name calc"),
        ("\"$(lockrun path calc)\"", "--name calc --name other"),
        ("file", "--file /dev/fd/0"),
    ] {
        acquire(open, options).assert_code(125).assert_one_line(&["descriptor 9 is not open on", "lockrun path"]);
    }
}

#[test]
fn options_without_meaning_for_a_descriptor_are_refused() {
    let sandbox = Sandbox::new();
    for options in ["--slots 2", "--owner $$", "--expires 1h", "-E 0"] {
        let outcome = sandbox.sh(&script(options, "echo in")).run();
        outcome.assert_code(125).assert_stdout("").assert_one_line(&[options.split(' ').next().unwrap()]);
    }
    let both = sandbox.sh("exec 9<>file; lockrun release --fd 9 word").run();
    both.assert_usage_error(&["--fd"]);
    sandbox.sh("exec 9<>file; lockrun check word --fd 9").run().assert_usage_error(&["--fd"]);
}

#[test]
fn the_last_of_two_options_counts_and_the_environment_has_a_timeout() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc", "-s"]);
    let code = |options: &str| sandbox.sh(&script(options, "true")).run().code;
    assert_eq!(code("-t 100 -n"), Some(75));
    assert_eq!(code("-n -t 0.01"), Some(124));
    assert_eq!(code("-n -x -s"), Some(0));
    assert_eq!(code("-n -s -x"), Some(75));
    assert_eq!(code("-n -E 9"), Some(9));
    assert_eq!(sandbox.sh(&script("", "true")).env("LOCKRUN_TIMEOUT", "0.01").run().code, Some(124));
    holder.release();
}

#[test]
fn messages_are_those_of_every_lock() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.sh(&script("-v", "true")).run();
    outcome.assert_code(0).assert_stdout("").assert_one_line(&["calc: locked", "calc.lock", "waited"]);
    let holder = hold(&sandbox, "");
    let words = ["calc: timed out after 10ms", &format!("held by pid {} (/bin/sh -c", holder.pid()), "for "];
    sandbox.sh(&script("-t 0.01", "true")).run().assert_code(124).assert_one_line(&words);
    sandbox.sh(&script("-q -t 0.01", "true")).run().assert_code(124).assert_silent();
}

#[test]
fn check_shows_the_fencing_token() {
    let sandbox = Sandbox::new();
    let fence = |text: &str| {
        let outcome = sandbox.sh(&script("", text)).run();
        let seen: serde_json::Value = serde_json::from_str(&outcome.assert_code(0).assert_silent().stdout).unwrap();
        assert_eq!((&seen["name"], &seen["expires"]), (&"calc".into(), &serde_json::Value::Null));
        seen["fence"].as_u64()
    };
    let one = fence("lockrun check --fd 9 --json").unwrap();
    assert!(fence("lockrun check --fd 9 --json").unwrap() > one);
    // flock(1) gives none.
    assert_eq!(fence("flock -u 9; flock 9; lockrun check --json --fd 9"), None);
    let text = "lockrun release --fd 9; lockrun check --fd 9 --json";
    sandbox.sh(&script("", text)).run().assert_code(123).assert_stdout("").assert_one_line(&["calc", "holds no lock"]);
}

#[test]
fn a_file_that_was_removed_or_replaced_is_not_locked() {
    let sandbox = Sandbox::new();
    for change in ["rm file", "mv file old", "mv file old; echo >file", "echo >new; mv new file"] {
        // Opened before it is changed, as by a script that cleans up.
        let renamed = change.starts_with("mv file");
        if !renamed {
            let text = format!("exec 9<>file; {change}; lockrun acquire --fd 9");
            let outcome = sandbox.sh(&text).run();
            outcome.assert_code(123).assert_one_line(&["file", "removed or replaced", "open it again"]);
        }
        // And while it is waited for.
        sandbox.write("work/file", "");
        let holder = sandbox.hold_by_flock(&[], &sandbox.path("work/file"));
        let text = "exec 9<>file; lockrun acquire --fd 9 || exit; echo in";
        let waiter = sandbox.sh(text).start().until_waiting();
        sandbox.sh(change).run().assert_code(0);
        holder.release();
        waiter
            .wait()
            .assert_code(123)
            .assert_stdout("")
            .assert_one_line(&["removed or replaced", "nothing was locked"]);
        // And while it is held.
        sandbox.write("work/file", "");
        let text = format!(
            "exec 9<>file; lockrun acquire --fd 9 || exit; {change}
            lockrun check --fd 9; echo $?; lockrun release --fd 9; echo $?; lockrun release --fd 9; echo $?"
        );
        let outcome = sandbox.sh(&text).run();
        outcome.assert_stdout("123\n123\n0\n").assert_stderr_has(&["lost", "removed or replaced"]);
    }
}

#[test]
fn a_script_that_removes_its_lock_file_opens_it_again() {
    let sandbox = Sandbox::new();
    let text = "while :; do
            exec 9<>file || exit; lockrun acquire --fd 9 && break
            code=$?; [ $code = 123 ] || exit $code
        done
        echo in; sleep 0.01; rm file";
    let scripts: Vec<_> = (0..5).map(|_| sandbox.sh(text).start()).collect();
    for script in scripts {
        script.wait().assert_code(0).assert_stdout("in\n");
    }
}

/// As www-data and nobody have none.
#[test]
fn without_a_default_directory_the_kernel_queues() {
    if !may_act_as_root("acting as a user without a home") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("work", 0o777);
    let home = "unset LOCKRUN_DIR; HOME=/proc";
    let by_nobody = |text: &str| sandbox.sh(&format!("{home}; exec 9<>file; {text}")).by_user(65534, 65534);
    let holder = by_nobody("lockrun acquire --fd 9 -n || exit; echo holding; cat").input("").start();
    let holder = holder.until_says("holding");
    assert_eq!(flock(&sandbox, &sandbox.path("work/file")), Some(1));
    by_nobody("lockrun acquire --fd 9 -n").run().assert_code(75).assert_one_line(&["file: busy", "held by pid"]);
    by_nobody("lockrun acquire --fd 9 -t 0.01").run().assert_code(124);
    let waiter = by_nobody("lockrun acquire --fd 9 && lockrun check --fd 9 && echo in").start().until_waiting();
    holder.wait().assert_code(0).assert_silent();
    waiter.wait().assert_code(0).assert_stdout("in\n").assert_silent();
    let told = by_nobody("lockrun acquire --fd 9 -v").run();
    told.assert_code(0).assert_stderr_has(&["in the kernel's own queue", "cannot use the locks directory", "locked"]);
    // What was asked for by name is no less than that.
    let given = by_nobody("lockrun acquire --fd 9 -d /proc/none").run();
    given.assert_code(125).assert_one_line(&["/proc/none"]);
    by_nobody("lockrun acquire --fd 9 --replace").run().assert_code(125).assert_one_line(&["give --dir"]);
}

/// Where the dead have no numbers.
#[test]
fn the_record_is_believed_in_a_container_too() {
    let sandbox = Sandbox::new();
    let text = "lockrun check --fd 9 --json | jq .fence; lockrun list --json calc | jq -r '.[0].holders[0].since'";
    let Some(container) = in_pid_namespace(&sandbox, &["sh", "-c", &script("", text)]) else { return };
    let outcome = container.run();
    outcome.assert_code(0).assert_silent();
    assert!(!outcome.stdout.contains("null"), "{outcome:?}");
    assert!(!is_held(&sandbox.lock_file("calc")));
}
