//! CI jobs: steps that share a token, jobs that are cancelled.

use crate::support::{Sandbox, eventually, holder_of, is_held};

/// CI runners kill every process that has the job's variable.
const CLEAN_UP: &str = r#"
    for environment in /proc/[0-9]*/environ; do
        if tr '\0' '\n' 2>/dev/null <"$environment" | grep -qx "$MARK"; then
            pid=${environment#/proc/}; kill -9 "${pid%/environ}"; echo killed
        fi
    done"#;

#[test]
fn the_clean_up_of_a_cancelled_job_frees_the_lock() {
    for variable in ["RUNNER_TRACKING_ID", "BUILD_ID"] {
        let sandbox = Sandbox::new();
        let id = format!("job of {}", sandbox.path("").display());
        let acquire = sandbox.lockrun(&["acquire", "-l", "calc", "--expires", "1h"]);
        acquire.env(variable, &id).run().assert_code(0);
        let clean_up = sandbox.sh(CLEAN_UP).env("MARK", format!("{variable}={id}"));
        clean_up.run().assert_code(0).assert_stdout("killed\n");
        eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
        sandbox.assert_free("calc");
    }
}

#[test]
fn the_clean_up_of_another_job_leaves_the_lock() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    sandbox.sh(CLEAN_UP).env("MARK", "BUILD_ID=another one").run().assert_stdout("");
    sandbox.release(&token).assert_code(0);
}

#[test]
fn a_token_from_inside_survives_the_expiry_of_the_outer_command() {
    let sandbox = Sandbox::new();
    let script = "lockrun acquire -l calc --expires 1h >token; echo acquired; exec sleep 1000";
    let outcome = sandbox.lockrun(&["-l", "outer", "--expires", "300ms", "--", "sh", "-c", script]).run();
    outcome.assert_code(123).assert_stdout("acquired\n");
    let token = std::fs::read_to_string(sandbox.path("work/token")).unwrap();
    sandbox.release(token.trim()).assert_code(0);
    sandbox.assert_free("calc");
}

#[test]
fn hold_tree_does_not_wait_for_the_keeper_of_a_token() {
    let sandbox = Sandbox::new();
    let run = ["-l", "outer", "--hold", "tree", "--", "lockrun", "acquire", "-l", "calc", "--expires", "1h"];
    let outcome = sandbox.lockrun(&run).run();
    let token = outcome.assert_code(0).stdout.trim();
    sandbox.assert_free("outer");
    sandbox.check(token).assert_code(0);
    sandbox.release(token).assert_code(0);
}

#[test]
fn adopted_keepers_are_reaped() {
    let sandbox = Sandbox::new();
    // The outer lockrun becomes the parent of the holder.
    let script = r#"
        token=$(lockrun acquire -l calc --expires 1h); holder=$(pgrep -P $PPID lockrun-keeper)
        lockrun release "$token"
        until ! test -e "/proc/${holder:?}"; do :; done; echo reaped"#;
    let run = ["-l", "outer", "--hold", "tree", "--", "sh", "-c", script];
    sandbox.lockrun(&run).run().assert_code(0).assert_stdout("reaped\n");
}

#[test]
fn a_token_from_inside_survives_the_kill_of_the_outer_lockrun() {
    let sandbox = Sandbox::new();
    let script = "lockrun acquire -l calc --expires 1h; echo acquired; exec sleep 1000";
    let outer = sandbox.lockrun(&["-l", "outer", "-c", script]).start().until_says("acquired");
    let token = outer.stdout().lines().next().unwrap().to_owned();
    outer.signal_group(libc::SIGKILL);
    outer.wait();
    assert!(is_held(&sandbox.lock_file("calc")));
    assert_ne!(holder_of(&sandbox.lock_file("calc")), 0);
    sandbox.release(&token).assert_code(0);
}

/// The steps of docs/recipes.md: the next step has the variables of the file.
#[test]
fn a_step_leaves_the_token_in_the_file_of_variables() {
    let sandbox = Sandbox::new();
    sandbox.write("work/env", "OTHER=1\n");
    let acquire = || sandbox.lockrun(&["acquire", "calc", "-n", "--expires", "1h", "--env-file", "env"]);
    let outcome = acquire().env("GITHUB_ACTIONS", "true").run();
    let text = std::fs::read_to_string(sandbox.path("work/env")).unwrap();
    let token = text.strip_prefix("OTHER=1\nLOCKRUN_TOKEN=").unwrap_or_else(|| panic!("{text}")).trim_end().to_owned();
    outcome.assert_code(0).assert_stdout(&format!("::add-mask::{token}\n"));
    // Without the lock, nothing is written, and the step fails.
    acquire().run().assert_code(75).assert_stdout("");
    assert_eq!(std::fs::read_to_string(sandbox.path("work/env")).unwrap(), text);
    sandbox.lockrun(&["release"]).env("LOCKRUN_TOKEN", &token).run().assert_code(0).assert_silent();
    let elsewhere = sandbox.lockrun(&["acquire", "calc", "--expires", "1h", "--env-file", "new"]).run();
    elsewhere.assert_code(0).assert_stdout("");
    let mode = std::os::unix::fs::PermissionsExt::mode(&sandbox.path("work/new").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_of_variables_that_takes_nothing_leaves_nothing_locked() {
    let sandbox = Sandbox::new();
    let acquire = |file: &str| sandbox.lockrun(&["acquire", "calc", "--expires", "1h", "--env-file", file]).run();
    acquire("missing/env").assert_code(125).assert_one_line(&["missing/env", "nothing was locked"]);
    acquire("/dev/full").assert_code(125).assert_one_line(&["the lock was released"]);
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
}
