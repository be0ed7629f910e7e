//! Observing the system's state, and waiting for it.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Returns once `holds` does; fails the test after [`LIMIT`]. The only place in
/// these tests that sleeps.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(1));
    }
}

/// Whether anybody holds a flock(2) lock, exclusive or shared, on this file.
/// Takes the lock for a moment if nobody does.
pub fn is_held(path: &Path) -> bool {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Whether this process, or one that it started, sleeps in flock(2) or fcntl(2).
pub fn sleeps_in_a_lock_call(pid: i32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let mut words = call.split(' ');
    let number = words.next().and_then(|word| word.parse().ok());
    let operation = words.nth(1).and_then(|word| i32::from_str_radix(word.strip_prefix("0x")?, 16).ok()).unwrap_or(0);
    // Not a call that only queries or tries, and was preempted.
    let sleeps = match number {
        Some(libc::SYS_flock) => operation & libc::LOCK_NB == 0,
        Some(libc::SYS_fcntl) => [libc::F_SETLKW, libc::F_OFD_SETLKW].contains(&operation),
        _ => false,
    };
    sleeps || children(pid).into_iter().any(sleeps_in_a_lock_call)
}

/// Whether this process still runs; a zombie does not.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// The children of this process.
pub fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().flat_map(str::parse).collect()
}

/// A line of /proc/PID/status, without its name.
pub fn status_field(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}
