//! `lockrun prune`: removes what nobody uses, and nothing else.

use crate::support::{Sandbox, Timeline, may_act_as_root};
use std::fs;

#[test]
fn unused_files_are_removed_and_named() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_silent().assert_stdout("");
    assert!(sandbox.files_in_locks().is_empty());
    sandbox.write("work/data", "");
    let locks: [&[&str]; 4] = [&["-l", "calc"], &["-l", "a\x1bb"], &["-l", "data", "-s"], &["--file", "data"]];
    for lock in locks {
        sandbox.lockrun(&[lock, &["--", "true"]].concat()).run().assert_code(0);
    }
    let before = sandbox.files_in_locks();
    let expected = format!("{}\na\\x1bb\ncalc\ndata\n", sandbox.path("work/data").display());
    sandbox.lockrun(&["prune", "--dry-run"]).run().assert_code(0).assert_stdout(&expected);
    assert_eq!(sandbox.files_in_locks(), before);
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_silent().assert_stdout(&expected);
    assert_eq!(sandbox.files_in_locks(), [".floor"]);
    assert!(sandbox.path("work/data").exists());
}

#[test]
fn what_is_held_or_waited_for_stays() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("work/data", "");
    let _holders = [
        sandbox.hold(&["-l", "held"]),
        sandbox.hold(&["-l", "shared", "-s"]),
        sandbox.hold(&["--file", "data"]),
        sandbox.hold_by_flock(&[], &sandbox.lock_file("flock")),
        sandbox.hold_by_python(&sandbox.lock_file("python")),
    ];
    let before = sandbox.files_in_locks();
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_stdout("");
    assert_eq!(sandbox.files_in_locks(), before);
    assert!(file.exists());
}

#[test]
fn a_lock_with_only_a_stopped_waiter_stays() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiter = sandbox.lockrun(&["-l", "calc", "--exec", "--", "true"]).start().until_waiting();
    waiter.signal(libc::SIGSTOP);
    holder.release();
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_stdout("");
    waiter.signal(libc::SIGCONT);
    waiter.wait().assert_code(0);
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_stdout("calc\n");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    for name in ["Cargo.lock", "not ours.lock", "README", ".hidden.lock"] {
        sandbox.write(&format!("locks/{name}"), "text\n");
    }
    sandbox.write("locks/empty.txt", "");
    let before = sandbox.files_in_locks();
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_stdout("");
    assert_eq!(sandbox.files_in_locks(), before);
}

/// A script has opened but not yet locked it. Were the file removed before that,
/// somebody else would get in too.
#[test]
fn a_file_that_flock_made_is_not_removed_before_it_is_locked() {
    for lockrun_made_it in [false, true] {
        let sandbox = Sandbox::new();
        sandbox.make_dir("locks", 0o700);
        if lockrun_made_it {
            sandbox.lockrun(&["-l", "job", "--", "true"]).run().assert_code(0);
        }
        let script = "exec 9>$LOCKRUN_DIR/job.lock
            lockrun prune --dry-run; lockrun prune
            flock -n 9 || exit 9
            flock -n $LOCKRUN_DIR/job.lock true || echo excluded";
        sandbox.sh(script).run().assert_code(0).assert_silent().assert_stdout("excluded\n");
    }
}

#[test]
fn a_dry_run_locks_nothing_where_the_kernel_can_be_asked() {
    if fs::read_link("/proc/self/ns/pid").unwrap().as_os_str() != "pid:[4026531836]" {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let trace = ["-qq", "-o", "trace", "-e", "trace=flock", "lockrun", "prune", "--dry-run"];
    // Other tests may hold so many locks that the kernel shows them in pieces.
    crate::support::eventually("the kernel shows all locks in one piece", || {
        sandbox.command("strace", &trace).run().assert_code(0).assert_stdout("calc\n");
        fs::read_to_string(sandbox.path("work/trace")).unwrap().is_empty()
    });
}

/// What is there instead of `.floor`, and what messages call it.
const NO_FLOOR: [(&str, &str); 5] = [
    ("ln -s ../work/target .floor", "a symbolic link"),
    ("mkfifo .floor", "a FIFO"),
    ("mkdir .floor", "a directory"),
    ("echo text >.floor", "not lockrun's"),
    ("echo >../work/target; ln ../work/target .floor", "hard links"),
];

#[test]
fn without_a_floor_it_goes_on_where_the_clock_is_enough() {
    for (make, kind) in NO_FLOOR {
        let sandbox = Sandbox::new();
        let first = fence(&sandbox, "calc");
        fence(&sandbox, "other");
        sandbox.sh(&format!("cd $LOCKRUN_DIR; {make}")).run().assert_code(0);
        let outcome = sandbox.lockrun(&["prune"]).run();
        outcome.assert_code(0).assert_stdout("calc\nother\n");
        outcome.assert_one_line(&["cannot remember the largest fence", "/.floor: ", kind, "; remove it"]);
        assert_eq!(sandbox.files_in_locks(), [".floor"]);
        assert!(fence(&sandbox, "calc") > first);
    }
}

#[test]
fn without_a_floor_what_is_ahead_of_the_clock_stays() {
    for (make, _) in NO_FLOOR {
        let sandbox = Sandbox::new();
        let first = fence(&sandbox, "calc");
        let ahead = first + 1_000_000_000_000;
        let text = fs::read_to_string(sandbox.lock_file("calc")).unwrap();
        fs::write(sandbox.lock_file("calc"), text.replace(&first.to_string(), &ahead.to_string())).unwrap();
        fence(&sandbox, "other");
        sandbox.sh(&format!("cd $LOCKRUN_DIR; {make}")).run().assert_code(0);
        let outcome = sandbox.lockrun(&["prune"]).run();
        outcome.assert_code(125).assert_stdout("other\n");
        outcome.assert_stderr_has(&["cannot remove", "calc.lock: its fence is ahead of the clock", "cannot remember"]);
        assert_eq!(fence(&sandbox, "calc"), ahead + 1);
    }
}

/// Another user of the directory keeps it locked.
#[test]
fn a_floor_that_is_locked_holds_nobody_up() {
    let sandbox = Sandbox::new();
    fence(&sandbox, "calc");
    let holder = sandbox.hold_by_flock(&[], &sandbox.path("locks/.floor"));
    let outcome = sandbox.lockrun(&["prune"]).run();
    outcome.assert_code(0).assert_stdout("calc\n").assert_one_line(&["/.floor: cannot lock it"]);
    holder.release();
}

#[test]
fn another_users_file_in_a_shared_directory_is_reported() {
    if !may_act_as_root("another user") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    sandbox.lockrun(&["-l", "root", "--", "true"]).run().assert_code(0);
    let by_other = |args: &[&str]| sandbox.lockrun(args).current_dir(&std::env::temp_dir()).by_user(12345, 12345).run();
    by_other(&["-l", "other", "--", "true"]).assert_code(0);
    let outcome = by_other(&["prune"]);
    outcome.assert_code(125).assert_stdout("other\n").assert_one_line(&["root.lock", "another user"]);
}

fn fence(sandbox: &Sandbox, name: &str) -> u64 {
    let outcome = sandbox.lockrun(&["-l", name, "-c", "echo $LOCKRUN_FENCE"]).run();
    outcome.assert_code(0).stdout.trim().parse().unwrap()
}

/// A clock far ahead, then set back: only the floor remembers.
#[test]
fn fences_go_on_rising_after_the_file_is_gone() {
    let sandbox = Sandbox::new();
    let first = fence(&sandbox, "calc");
    let ahead = first + 1_000_000_000_000;
    let text = fs::read_to_string(sandbox.lock_file("calc")).unwrap();
    let text = text.replace(&format!("\"fence\":{first}"), &format!("\"fence\":{ahead}"));
    fs::write(sandbox.lock_file("calc"), text).unwrap();
    assert_eq!(fence(&sandbox, "calc"), ahead + 1);
    sandbox.lockrun(&["prune"]).run().assert_code(0).assert_stdout("calc\n");
    assert_eq!(fence(&sandbox, "calc"), ahead + 2);
    // A smaller one does not lower it.
    assert!(fence(&sandbox, "other") > ahead + 1, "every new file begins above the floor");
    sandbox.lockrun(&["prune"]).run().assert_code(0);
    assert!(fence(&sandbox, "calc") > ahead + 2);
}

/// Numbers that no clock can have made do not spread from file to file, and a
/// directory where they already have recovers by itself.
#[test]
fn a_number_that_no_clock_can_have_made_is_not_remembered() {
    for wrong in [u64::MAX, u64::MAX - 1] {
        for where_it_stands in ["calc.lock", ".floor"] {
            let sandbox = Sandbox::new();
            let first = fence(&sandbox, "calc");
            match where_it_stands {
                ".floor" => fs::write(sandbox.path("locks/.floor"), format!("{wrong:020}\n")).unwrap(),
                _ => {
                    let text = fs::read_to_string(sandbox.lock_file("calc")).unwrap();
                    fs::write(sandbox.lock_file("calc"), text.replace(&first.to_string(), &wrong.to_string())).unwrap();
                }
            }
            let other = fence(&sandbox, "other");
            assert!(first < other && other < first + 1_000_000_000_000, "{other}");
            sandbox.lockrun(&["prune"]).run().assert_code(0).assert_silent().assert_stdout("calc\nother\n");
            assert_eq!(fs::read_to_string(sandbox.path("locks/.floor")).unwrap(), format!("{other:020}\n"));
            assert!(fence(&sandbox, "calc") > other);
        }
    }
}

/// 8 takers, some at once, some waiting, beside a loop that prunes.
#[test]
fn it_never_lets_in_a_second_holder() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    let pruning = "touch pruning; while [ -e pruning ]; do lockrun prune >>pruned || exit 1; done";
    let pruners = [(); 2].map(|()| sandbox.sh(pruning).start());
    let turn = timeline.visit("$$", "echo $LOCKRUN_FENCE >>fences");
    sandbox.write("work/turn", &turn);
    let taking = "for i in $(seq 100); do lockrun -l calc -- sh ./turn || exit 1; done";
    let takers: Vec<_> = (0..8).map(|_| sandbox.sh(taking).start()).collect();
    for taker in takers {
        taker.wait().assert_code(0).assert_silent();
    }
    fs::remove_file(sandbox.path("work/pruning")).unwrap();
    for pruner in pruners {
        pruner.wait().assert_code(0).assert_silent();
    }
    timeline.assert_one_at_a_time();
    let numbers = fs::read_to_string(sandbox.path("work/fences")).unwrap();
    let numbers: Vec<u64> = numbers.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.len(), 800);
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let pruned = fs::read_to_string(sandbox.path("work/pruned")).unwrap();
    assert!(pruned.lines().count() > 0, "nothing was pruned meanwhile");
}

#[test]
fn what_was_used_within_the_time_stays() {
    let sandbox = Sandbox::new();
    for name in ["old", "new"] {
        sandbox.lockrun(&["-l", name, "--", "true"]).run().assert_code(0);
    }
    let hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 3600);
    fs::File::options().write(true).open(sandbox.lock_file("old")).unwrap().set_modified(hours_ago).unwrap();
    let prune = |words: &[&str]| sandbox.lockrun(&[&["prune"], words].concat()).run();
    prune(&["--older", "4h"]).assert_code(0).assert_stdout("");
    prune(&["--older", "2h", "--dry-run"]).assert_code(0).assert_stdout("old\n");
    prune(&["--older", "2h"]).assert_code(0).assert_stdout("old\n");
    assert!(sandbox.lock_file("new").exists());
    prune(&[]).assert_code(0).assert_stdout("new\n");
}
