//! Many tokens: never two at once, and nothing is left behind.

use crate::support::{Sandbox, Timeline, eventually};
use std::fs;

/// Processes, other than zombies, whose environment has this.
fn processes_with(mark: &str) -> Vec<String> {
    let has = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("environ"))
            .is_ok_and(|environment| environment.windows(mark.len()).any(|part| part == mark.as_bytes()))
    };
    let entries = fs::read_dir("/proc").unwrap().flatten().filter(has);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_thousand_tokens_of_eight_processes_never_overlap_and_leave_nothing() {
    let sandbox = Sandbox::new();
    let timeline = Timeline::new(&sandbox);
    let visit = timeline.visit("$$.$i", ":");
    let script = format!(
        r#"i=0; while [ $i -lt 125 ]; do i=$((i + 1))
            token=$(BUILD_ID={mark} lockrun acquire -l calc --expires 1h) || exit
            echo "$token" >>tokens
            {visit}
            lockrun release "$token" || exit
        done"#,
        mark = sandbox.path("contest").display(),
    );
    let running: Vec<_> = (0..8).map(|_| sandbox.sh(&script).start()).collect();
    for process in running {
        process.wait().assert_code(0).assert_silent();
    }
    timeline.assert_one_at_a_time();
    assert_eq!(timeline.entered().len(), 1000);
    let mark = format!("BUILD_ID={}\0", sandbox.path("contest").display());
    eventually("all holders have ended", || processes_with(&mark).is_empty());
    assert_eq!(sandbox.files_in_locks(), ["calc.lock"]);
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let tokens = fs::read_to_string(sandbox.path("work/tokens")).unwrap();
    assert_eq!(tokens.lines().count(), 1000);
    let left = tokens.lines().filter(|token| sockets.contains(&crate::support::part(token, "i"))).count();
    assert_eq!(left, 0, "sockets left");
}

#[test]
fn after_release_the_next_timeout_0_succeeds() {
    let sandbox = Sandbox::new();
    let script = r#"i=0; while [ $i -lt 300 ]; do i=$((i + 1))
        token=$(lockrun acquire -n -l calc --expires 1h) || exit
        lockrun release "$token" || exit
        lockrun -n -l calc -- true || exit
    done"#;
    sandbox.sh(script).run().assert_code(0).assert_silent();
}

#[test]
fn tokens_are_granted_first_in_first_out() {
    let sandbox = Sandbox::new();
    let first = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    let timeline = Timeline::new(&sandbox);
    let waiters: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|id| {
            let visit = timeline.visit(id, ":");
            let script = format!(r#"t=$(lockrun acquire -l calc --owner $$) || exit; {visit}; lockrun release "$t""#);
            sandbox.sh(&script).start().until_waiting()
        })
        .collect();
    sandbox.release(&first).assert_code(0);
    for waiter in waiters {
        waiter.wait().assert_code(0).assert_silent();
    }
    timeline.assert_one_at_a_time();
    timeline.assert_entered(&["a", "b", "c", "d"]);
}
