//! Ending a script that holds a lock by its own descriptor, and its descendants. A
//! process that only inherited the descriptor, such as a daemon that outlived the
//! script, is left alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::process::{geteuid, getpid};

use super::standing;
use crate::advice::Advice;
use crate::process;
use crate::record::Script;
use crate::sys;

/// A script and its remaining descendants.
pub struct ScriptTree {
    script: Script,
    members: Vec<Member>,
}

struct Member {
    pid: i32,
    process: OwnedFd,
}

impl ScriptTree {
    /// The processes of a script; `None`: it has ended.
    /// Errors: the kernel has no pidfds.
    pub fn of(script: Script) -> Result<Option<Self>> {
        let mut tree = Self { script, members: Vec::new() };
        tree.add(script.pid, || standing::is_alive(&script))?;
        if tree.members.is_empty() {
            return Ok(None);
        }
        tree.add_started()?;
        Ok(Some(tree))
    }

    /// Adds newly started descendants. Returns whether there were any.
    fn add_started(&mut self) -> Result<bool> {
        let before = self.members.len();
        let mut next = 0;
        while next < self.members.len() {
            let parent = self.members[next].pid;
            for child in process::children(parent) {
                self.add(child, || process::parent(child) == Some(parent))?;
            }
            next += 1;
        }
        Ok(self.members.len() > before)
    }

    /// Adds a process if it still qualifies once we have its pidfd.
    fn add(&mut self, pid: i32, is_one: impl Fn() -> bool) -> Result<()> {
        let is_known = pid == getpid().as_raw_nonzero().get() || self.members.iter().any(|member| member.pid == pid);
        // Process 1 of a system or container is never signalled.
        if !is_known
            && pid > 1
            && let Some(process) = process::open(pid)?
            && is_one()
        {
            self.members.push(Member { pid, process });
        }
        Ok(())
    }

    pub fn pid(&self) -> i32 {
        self.script.pid
    }

    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.members.iter().map(|member| member.process.as_fd()).collect()
    }

    /// Errors: the script belongs to another user.
    pub fn require_ours(&self) -> Result<()> {
        const NOTHING: i32 = 0;
        self.members.first().map_or(Ok(()), |script| script.signal(NOTHING))
    }

    /// Sends TERM to all: the script first, so that it does not start its next command.
    pub fn ask(&self) {
        for member in &self.members {
            // A process that changed its user cannot be signalled.
            let _ = member.signal(libc::SIGTERM);
            // A stopped process cannot end.
            if process::is_stopped(member.pid) {
                let _ = member.signal(libc::SIGCONT);
            }
        }
    }

    /// Sleeps until all of them have ended, at most `limit`.
    pub fn wait(&self, limit: Duration) {
        let deadline = Instant::now().checked_add(limit);
        for member in &self.members {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            process::wait_for_end(&member.process, left);
        }
    }

    /// Kills the rest. They are stopped first, so that they start nothing meanwhile.
    pub fn kill(&mut self) -> Result<()> {
        self.members.retain(|member| !process::wait_for_end(&member.process, Duration::ZERO));
        loop {
            self.members.iter().for_each(|member| drop(member.signal(libc::SIGSTOP)));
            if !self.add_started()? {
                break;
            }
        }
        self.members.iter().for_each(|member| drop(member.signal(libc::SIGKILL)));
        Ok(())
    }
}

impl Member {
    fn signal(&self, signal: i32) -> Result<()> {
        let is_ours = || geteuid().is_root() || process::user_id(self.pid) == Some(geteuid().as_raw());
        match sys::send_by_pidfd(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM) if !is_ours() => {
                Err(anyhow!("pid {} belongs to another user, so we cannot end it", self.pid))
                    .context(Advice::new("ask that user, or root"))
            }
            Err(e) => Err(process::cannot_signal(e)).with_context(|| format!("cannot end pid {}", self.pid)),
        }
    }
}
