//! Processes as /proc shows them: parents, children, states.

use std::fs;

/// The children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|children| children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The parent; `None` for a process that is gone, or that has none here.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.split(' ').nth(1)?.parse().ok().filter(|parent| *parent > 0)
}

/// The parent, its parent and so on.
pub fn ancestors(pid: i32) -> impl Iterator<Item = i32> {
    std::iter::successors(parent(pid), |pid| parent(*pid))
}

/// Whether /proc shows the processes that we know by their ids: it is not
/// mounted, or is another pid namespace's, in some containers.
pub fn proc_is_ours() -> bool {
    let us = rustix::process::getpid().as_raw_nonzero().get().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == us.as_str())
}

/// Whether it has ended without being waited for; `false` for one that is
/// gone.
pub fn is_zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields.starts_with('Z'))
}

/// `/proc/PID/stat` from the state on, behind a name that may contain
/// anything.
fn stat(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}
