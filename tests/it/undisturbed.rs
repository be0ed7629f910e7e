//! Inspecting a lock never makes another lockrun fail or wait.

use crate::support::{Sandbox, in_pid_namespace};

/// Tries so often while others look without a pause; counts what failed.
fn try_beside(sandbox: &Sandbox, look: &str, tries: u32) {
    let looking = format!("touch looking; while [ -e looking ]; do {look} || exit 1; done");
    let Some(inside) = in_pid_namespace(sandbox, &["sh", "-c", &looking]) else { return };
    let lookers = [sandbox.sh(&looking).start(), inside.start()];
    let trying = format!(
        "failed=0; i=0; while [ $i -lt {tries} ]; do i=$((i + 1))
            lockrun -n -l calc -- true || failed=$((failed + 1)); done; rm looking; echo $failed"
    );
    sandbox.sh(&trying).run().assert_code(0).assert_stdout("0\n");
    for looker in lookers {
        looker.wait().assert_code(0);
    }
}

#[test]
fn list_makes_no_timeout_0_fail() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    for _ in 0..10 {
        try_beside(&sandbox, "lockrun list >/dev/null", 1000);
    }
}

#[test]
fn status_and_prune_make_no_timeout_0_fail() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    try_beside(&sandbox, "{ lockrun status calc || [ $? = 1 ]; lockrun prune >/dev/null; }", 1000);
}

/// A holder is always seen.
#[test]
fn a_held_lock_is_never_shown_as_free() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-l", "calc", "--shared"]);
    let traffic = "touch busy; while [ -e busy ]; do lockrun -s -n -l calc -- true || exit 1; done";
    let traffic = [(); 2].map(|()| sandbox.sh(traffic).start());
    let looking = "i=0; while [ $i -lt 300 ]; do i=$((i + 1))
        lockrun list | grep -q shared || exit 1; ! lockrun status calc || exit 2; done; rm busy";
    sandbox.sh(looking).run().assert_code(0);
    for busy in traffic {
        busy.wait().assert_code(0);
    }
}
