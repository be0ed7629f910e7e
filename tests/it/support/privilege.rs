//! What needs root, or a namespace of its own.

use super::{Invocation, Sandbox};
use std::process::{Command, Stdio};

pub fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the test may act as root. If not, says so, and fails with `CI` set, where
/// nothing may be skipped.
#[track_caller]
pub fn may_act_as_root(for_what: &str) -> bool {
    am_root() || left_out(&format!("{for_what} needs root"))
}

/// A command as the first process of a pid namespace of its own; it ends with
/// the process that is started, unshare(1).
#[track_caller]
pub fn in_pid_namespace(sandbox: &Sandbox, command: &[&str]) -> Option<Invocation> {
    let namespaces: &[&str] = match am_root() {
        true => &["--pid", "--fork", "--kill-child", "--mount-proc"],
        false => &["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"],
    };
    let works = Command::new("unshare").args(namespaces).arg("true").stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        left_out("a pid namespace needs privileges that are not here");
        return None;
    }
    Some(sandbox.command("unshare", &[namespaces, command].concat()))
}

/// Shell text to run as root of a mount namespace of its own, so that nobody else sees
/// what it mounts. `None` where the system refuses that.
#[track_caller]
pub fn with_mounts(sandbox: &Sandbox, script: &str) -> Option<Invocation> {
    let namespaces: &[&str] = match am_root() {
        true => &["--mount"],
        false => &["--user", "--map-root-user", "--mount"],
    };
    let works = Command::new("unshare")
        .args(namespaces)
        .args(["mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status();
    if !works.is_ok_and(|status| status.success()) {
        left_out("a mount namespace needs privileges that are not here");
        return None;
    }
    // A step that fails must not let the rest run on the real directories.
    let script = format!("set -e; {script}");
    let args = [namespaces, &["sh", "-c", &script]].concat();
    Some(sandbox.command("unshare", &args))
}

#[track_caller]
fn left_out(reason: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "not tested: {reason}");
    eprintln!("not tested: {reason}");
    false
}
