//! Processes as /proc shows them: parents, children, states.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys;
use crate::users;

/// A process id, if the number can be one.
pub fn id(pid: i32) -> Option<Pid> {
    if pid > 0 { Pid::from_raw(pid) } else { None }
}

pub fn children(pid: i32) -> Vec<i32> {
    sys::numbers_in(&format!("/proc/{pid}/task"))
        .into_iter()
        .filter_map(|thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).ok())
        .flat_map(|children| children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The parent; `None`: the process is gone, or has no parent here.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.split(' ').nth(1)?.parse().ok().filter(|parent| *parent > 0)
}

pub fn ancestors(pid: i32) -> impl Iterator<Item = i32> {
    std::iter::successors(parent(pid), |pid| parent(*pid))
}

/// The command line, its words separated by blanks; `None`: the process is gone or has
/// none.
pub fn command_line(pid: i32) -> Option<Vec<u8>> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // A retitled process pads its title with zeros.
    let end = words.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut line = words[..end].to_vec();
    line.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    (!line.is_empty()).then_some(line)
}

/// The user's login name, or number.
pub fn user(pid: i32) -> Option<String> {
    let uid = user_id(pid)?;
    Some(users::name_of(uid).unwrap_or_else(|| uid.to_string()))
}

/// The effective user, even of a process that nobody may inspect, whose directory in
/// /proc belongs to root. `None`: the process is gone.
pub fn user_id(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Whether /proc shows our pid namespace. In some containers it is missing or shows
/// another.
pub fn proc_is_ours() -> bool {
    let us = rustix::process::getpid().as_raw_nonzero().get().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == us.as_str())
}

/// Whether the process has begun to end, or is gone. The kernel closes descriptors one
/// by one, so a socket may be gone while a lock is still held.
pub fn is_ending(pid: i32) -> bool {
    // PF_EXITING, see proc_pid_stat(5); set before anything is closed.
    const EXITING: u32 = 0x4;
    stat(pid).is_none_or(|fields| {
        let flags = fields.split(' ').nth(6).and_then(|flags| flags.parse().ok()).unwrap_or(0);
        fields.starts_with(['Z', 'X']) || flags & EXITING != 0
    })
}

/// A pidfd, which always means this process; `None`: it is gone. Fails if the kernel or
/// a sandbox does not allow it.
pub fn open(pid: i32) -> Result<Option<OwnedFd>> {
    let Some(pid) = id(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => Ok(Some(sys::above_stdio(process)?)),
        // The last two: it is the id of a thread.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(cannot_open(error)),
    }
}

/// The error for a failed pidfd_open(2).
pub fn cannot_open(error: Errno) -> anyhow::Error {
    match error {
        Errno::NOSYS => anyhow!("this kernel cannot open processes (pidfd_open): Linux 5.3 or later is needed"),
        Errno::PERM | Errno::ACCESS => anyhow!("a sandbox (seccomp) does not let us open processes (pidfd_open)"),
        error => anyhow::Error::from(error).context("cannot open a process"),
    }
}

/// The error for a failed pidfd_send_signal(2) to a process of our own user.
pub fn cannot_signal(error: Errno) -> anyhow::Error {
    match error {
        Errno::NOSYS => anyhow!("this kernel has no pidfd_send_signal(2): Linux 5.3 or later is needed"),
        Errno::PERM => anyhow!("a sandbox (seccomp) does not let us signal it (pidfd_send_signal)"),
        error => anyhow::Error::from(error),
    }
}

/// Whether it executes the same program as we do, also one that was replaced by another
/// version. A name would prove nothing.
pub fn is_lockrun(pid: i32) -> bool {
    let identity = |path: &str| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let path = |path: &str| fs::read_link(path).ok();
    let (theirs, ours) = (format!("/proc/{pid}/exe"), "/proc/self/exe");
    let Some(their_identity) = identity(&theirs) else { return false };
    // These links lead to the file itself, even if it has no name any more.
    Some(their_identity) == identity(ours)
        || path(&theirs).zip(path(ours)).is_some_and(|(theirs, ours)| is_replaced(&theirs, &ours))
}

/// Whether one of two programs was removed from where the other one is, or was.
fn is_replaced(one: &Path, other: &Path) -> bool {
    const REMOVED: &[u8] = b" (deleted)";
    let [one, other] = [one, other].map(|path| path.as_os_str().as_bytes());
    let [before, now] = [one, other].map(|path| path.strip_suffix(REMOVED).unwrap_or(path));
    before == now && (one.ends_with(REMOVED) || other.ends_with(REMOVED))
}

/// What distinguishes a process from others with the same id: its start, in ticks since
/// boot, and its number on pidfs (Linux 6.9, else 0). `None`: it is gone or has ended.
pub fn incarnation(pid: i32) -> Option<(u64, u64)> {
    const PIDFS: u32 = 0x5049_4446;
    if is_ending(pid) {
        return None;
    }
    let start = stat(pid)?.split(' ').nth(19)?.parse().ok()?;
    let number = |process: OwnedFd| {
        let is_pidfs = rustix::fs::fstatfs(&process).is_ok_and(|fs| fs.f_type as u32 == PIDFS);
        rustix::fs::fstat(&process).ok().filter(|_| is_pidfs).map(|stat| stat.st_ino)
    };
    let number = open(pid).unwrap_or(None).and_then(number);
    Some((start, number.unwrap_or(0)))
}

/// What tells a process from every other one on any host; `None` for one that is
/// gone, or where /proc does not show our pid namespace.
#[cfg(feature = "net")]
pub fn mark(pid: i32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok().filter(|_| proc_is_ours())?;
    let start = stat(pid)?.split(' ').nth(19)?.to_owned();
    Some(format!("{} {} {pid} {start}", boot.trim_end(), namespace.display()))
}

/// Sleeps until an [`open`] process has ended and released all it had, or for `limit`.
/// Returns whether it has.
pub fn wait_for_end(process: &OwnedFd, limit: Duration) -> bool {
    sys::is_readable(process, Some(limit)).unwrap_or(false)
}

/// Whether it has ended but was not waited for.
pub fn is_zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields.starts_with('Z'))
}

/// Whether a signal has stopped it.
pub fn is_stopped(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields.starts_with('T'))
}

/// `/proc/PID/stat` from the state on, after a name that may contain anything.
fn stat(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}
