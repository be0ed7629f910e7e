//! Server processes for tests, on loopback addresses that only this process uses, with
//! their data in memory where there is a /dev/shm.

use super::eventually;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU16, Ordering};

/// Starts the server once for each line that it reads, and ends it when its
/// input ends: then the test has ended, in whatever way.
pub(super) const GUARD: &str = "data=$1; shift; while read -r _; do \"$@\" >>\"$data/log\" 2>&1 & pid=$!; echo $pid; done; \
                     kill -9 $pid 2>/dev/null; wait; rm -rf \"$data\"";

/// Has the guard start the server; returns the server's process id.
pub(super) fn start_under(guard: &mut Child) -> i32 {
    guard.stdin.as_mut().unwrap().write_all(b"start\n").unwrap();
    let mut pid = String::new();
    // One line a start, so nothing is lost with the reader's buffer.
    BufReader::new(guard.stdout.as_mut().unwrap()).read_line(&mut pid).unwrap();
    pid.trim().parse().expect("a process id")
}

/// Stops a process, and returns once none of its threads runs. It may have ended.
pub fn freeze(pid: i32) {
    signal(pid, libc::SIGSTOP);
    eventually("all threads have stopped", || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let stats = threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
        stats.into_iter().all(|stat| {
            stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['T', 'Z', 'X']))
        })
    });
}

/// The library that gives a process a clock of its own: Debian's package faketime.
pub(super) const FAKETIME: &str = "/usr/$LIB/faketime/libfaketime.so.1";

/// For env(1): a program whose wall clock follows this file, and no other clock.
pub(super) fn own_clock(library: &Path, file: &Path) -> [String; 4] {
    set_clock(file, 0);
    [
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_NO_CACHE=1".into(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
    ]
}

/// Sets a clock of [`own_clock`] this many seconds ahead of ours.
pub(super) fn set_clock(file: &Path, ahead: i64) {
    // In one step, because it is read at any time.
    let new = file.with_extension("new");
    fs::write(&new, format!("{ahead:+}")).unwrap();
    fs::rename(new, file).unwrap();
}

/// Sends a signal to a process.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill has no memory effects.
    unsafe { libc::kill(pid, signal) };
}

/// A directory in memory, if there is one.
pub(super) fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.into() } else { std::env::temp_dir() }
}

/// A loopback host of this process, and two ports that it has not used before.
pub(super) fn next_address() -> (String, u16) {
    static PORT: AtomicU16 = AtomicU16::new(2379);
    (host(), PORT.fetch_add(2, Ordering::Relaxed))
}

pub(super) fn host() -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{}", 64 | (pid >> 16) & 63, (pid >> 8) & 255, pid & 255)
}
