//! Recognising keepers among other processes.
//!
//! A keeper belongs to a lock and not to the command that happened to start it, so what
//! ends such a command with everything below it passes keepers over. Any process can
//! take any name; a keeper is known by its executable and by a descriptor of its own
//! that nothing inherits.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::process;
use crate::sys;

const NAME: &str = "lockrun-keeper";

/// Makes this process known as a keeper for as long as the descriptor is open. `None`
/// before Linux 3.17.
pub fn announce() -> Option<OwnedFd> {
    memfd_create(NAME, MemfdFlags::CLOEXEC).ok()
}

/// Whether this process keeps locks on a server.
pub fn is_keeper(pid: i32) -> bool {
    if !process::is_lockrun(pid) {
        return false;
    }
    let announced = format!("/memfd:{NAME} (deleted)");
    sys::numbers_in(&format!("/proc/{pid}/fd")).into_iter().any(|descriptor| {
        let link = fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
        link.is_ok_and(|link| link.as_os_str() == announced.as_str()) && closes_on_exec(pid, descriptor)
    })
}

fn closes_on_exec(pid: i32, descriptor: i32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0);
    flags & libc::O_CLOEXEC != 0
}
