//! Killing a command in place of a wrapper that is dead or stopped.
//!
//! The keeper reaches COMMAND and every process that has inherited the life line. A
//! process that has closed it can only be fenced off by LOCKRUN_FENCE.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::process;
use crate::sys;

/// The processes that must die before the lease ends.
pub struct Victims {
    /// The link text of the life line in /proc: `pipe:[4711]`.
    life: String,
    wrapper: i32,
    command: Option<OwnedFd>,
}

impl Victims {
    /// All processes that hold the other end of this pipe, without the wrapper.
    pub fn of(life: impl AsFd, wrapper: Pid) -> std::io::Result<Self> {
        let inode = rustix::fs::fstat(life)?.st_ino;
        Ok(Self { life: format!("pipe:[{inode}]"), wrapper: wrapper.as_raw_nonzero().get(), command: None })
    }

    pub fn set_command(&mut self, pid: i32) {
        let process = open(pid);
        // If it was reaped, its id may belong to another process.
        self.command = process.filter(|_| process::parent(pid) == Some(self.wrapper));
    }

    /// Kills all that can be reached.
    pub fn kill(&self) {
        if let Some(command) = &self.command {
            let _ = sys::send_by_pidfd(command, libc::SIGKILL);
        }
        let us = rustix::process::getpid().as_raw_nonzero().get();
        for pid in sys::numbers_in("/proc").into_iter().filter(|pid| *pid != us && *pid != self.wrapper) {
            if self.has_life_line(pid)
                && let Some(process) = open(pid)
                && self.has_life_line(pid)
            {
                let _ = sys::send_by_pidfd(&process, libc::SIGKILL);
            }
        }
    }

    fn has_life_line(&self, pid: i32) -> bool {
        let directory = format!("/proc/{pid}/fd");
        let link = |number: &i32| std::fs::read_link(format!("{directory}/{number}")).ok();
        sys::numbers_in(&directory).iter().filter_map(link).any(|link| link.as_os_str() == self.life.as_str())
    }
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}
