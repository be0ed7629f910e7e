//! On a server: `--expires` and `--hold tree` wait for what COMMAND started, and
//! not for the process that keeps the lock.

use crate::support::{
    Etcd, Invocation, Place, Sandbox, children, eventually, in_pid_namespace, keeper_of, with_mounts,
};
use crate::support::{is_alive, signal};

const SOON: [&str; 4] = ["--expires", "0.3", "--kill-after", "0.1"];

/// A daemon that ends when there is a file `end`, left by a command that ends with 3.
const LEAVE_A_DAEMON: &str =
    "setsid sh -c 'echo $$; exec >&- 2>&-; until [ -e end ]; do sleep 0.01; done; touch ended' & exit 3";

/// lockrun on this server, where /proc is not mounted.
#[track_caller]
fn without_proc(place: &Place, sandbox: &Sandbox, options: &[&str], script: &str) -> Option<Invocation> {
    let url = place.server().url("jobs");
    let script = script.replace('"', "\\\"").replace('$', "\\$");
    let lockrun = format!("exec lockrun --store {url}?ttl=3 -l calc {} -c \"{script}\"", options.join(" "));
    with_mounts(sandbox, &format!("mount -t tmpfs none /proc; {lockrun}"))
}

fn server() -> Place {
    Place::Etcd(Etcd::start())
}

fn number_in(text: &str) -> i32 {
    text.trim().parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn where_proc_is_not_mounted_an_expired_command_ends_the_run() {
    let (place, sandbox) = (server(), Sandbox::new());
    let Some(lockrun) = without_proc(&place, &sandbox, &SOON, "exec sleep 1000") else { return };
    lockrun.run().assert_code(123).assert_one_line(&["expired", "TERM"]);
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
}

#[test]
fn where_proc_shows_other_processes_an_expired_command_ends_the_run() {
    let (place, sandbox) = (server(), Sandbox::new());
    let url = place.server().url("jobs");
    // A second pid namespace in the first, which shows the first one's /proc.
    let unshare = ["unshare", "--pid", "--fork", "--kill-child", "lockrun", "--store", &url, "-l", "calc"];
    let command = [&unshare as &[&str], &SOON, &["--", "sleep", "1000"]].concat();
    let Some(lockrun) = in_pid_namespace(&sandbox, &command) else { return };
    lockrun.run().assert_code(123).assert_one_line(&["expired", "TERM"]);
}

#[test]
fn where_proc_is_not_mounted_hold_tree_waits_for_the_tree_alone() {
    let (place, sandbox) = (server(), Sandbox::new());
    let Some(lockrun) = without_proc(&place, &sandbox, &["--hold", "tree"], LEAVE_A_DAEMON) else { return };
    let holder = lockrun.start().until_says("\n");
    let daemon = number_in(&holder.stdout());
    eventually("the command has ended", || children(holder.pid()).iter().filter(|pid| **pid != daemon).count() == 1);
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    sandbox.write("work/end", "");
    holder.wait().assert_code(3).assert_silent();
    assert!(sandbox.path("work/ended").exists());
}

/// Neither the keeper nor the killed one that it replaced counts, even before that is
/// reaped.
#[test]
fn hold_tree_does_not_wait_for_a_killed_keeper() {
    for proc_is_mounted in [true, false] {
        let (place, sandbox) = (server(), Sandbox::new());
        let options = ["--hold", "tree"];
        let lockrun = match proc_is_mounted {
            true => place.lockrun_with(&sandbox, "?ttl=3", &["--hold", "tree", "-l", "calc", "-c", LEAVE_A_DAEMON]),
            false => match without_proc(&place, &sandbox, &options, LEAVE_A_DAEMON) {
                Some(lockrun) => lockrun,
                None => return,
            },
        };
        let holder = lockrun.start().until_says("\n");
        let first = keeper_of(holder.pid());
        signal(first, libc::SIGKILL);
        eventually("another one", || !is_alive(first) && keeper_of(holder.pid()) != first);
        sandbox.write("work/end", "");
        holder.wait().assert_code(3).assert_silent();
        place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(0);
    }
}

#[test]
fn many_keepers_leave_no_zombies() {
    let (place, sandbox) = (server(), Sandbox::new());
    let holder = place.hold(&sandbox, &["-l", "calc"]);
    for _ in 0..4 {
        let keeper = keeper_of(holder.pid());
        signal(keeper, libc::SIGKILL);
        eventually("another one", || keeper_of(holder.pid()) != keeper);
    }
    // COMMAND, the keeper, and the one before it, which the next one would reap.
    eventually("the dead are gone", || children(holder.pid()).len() <= 3);
    holder.release().assert_code(0).assert_silent();
}
