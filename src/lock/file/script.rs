//! Ending a script that holds a lock by a descriptor of its own, and what it
//! started. A process that has only inherited the descriptor, such as a daemon
//! that outlived the script, is nobody's to end.

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

/// A script, and below it what it has started, as far as that is still below it.
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
    ///
    /// # Errors
    /// The kernel has no descriptors of processes.
    pub fn of(script: Script) -> Result<Option<Self>> {
        let mut tree = Self { script, members: Vec::new() };
        tree.add(script.pid, || standing::is_alive(&script))?;
        if tree.members.is_empty() {
            return Ok(None);
        }
        tree.add_started()?;
        Ok(Some(tree))
    }

    /// Adds what the members have started since. Returns whether there was
    /// anything.
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

    /// Adds a process if it is still one when it cannot be mistaken any more.
    fn add(&mut self, pid: i32, is_one: impl Fn() -> bool) -> Result<()> {
        let is_known = pid == getpid().as_raw_nonzero().get() || self.members.iter().any(|member| member.pid == pid);
        // Nobody ends the first process of a system or a container.
        if !is_known
            && pid > 1
            && let Some(process) = process::open(pid)?
            && is_one()
        {
            self.members.push(Member { pid, process });
        }
        Ok(())
    }

    /// The script.
    pub fn pid(&self) -> i32 {
        self.script.pid
    }

    /// What is open here.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.members.iter().map(|member| member.process.as_fd()).collect()
    }

    /// # Errors
    /// The script is another user's.
    pub fn require_ours(&self) -> Result<()> {
        const NOTHING: i32 = 0;
        self.members.first().map_or(Ok(()), |script| script.signal(NOTHING))
    }

    /// Asks all of them to end: the script first, so that it does not go on with
    /// its next command.
    pub fn ask(&self) {
        for member in &self.members {
            // One that changed its user cannot be asked.
            let _ = member.signal(libc::SIGTERM);
            // What is stopped cannot end.
            if process::is_stopped(member.pid) {
                let _ = member.signal(libc::SIGCONT);
            }
        }
    }

    /// Sleeps until all of them have ended; not longer than `limit`.
    pub fn wait(&self, limit: Duration) {
        let deadline = Instant::now().checked_add(limit);
        for member in &self.members {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            process::wait_for_end(&member.process, left);
        }
    }

    /// Kills what is left. What is stopped starts nothing meanwhile.
    ///
    /// # Errors
    /// See [`of`](Self::of).
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
                Err(anyhow!("pid {} belongs to another user, and cannot be ended by us", self.pid))
                    .context(Advice::new("ask that user, or root"))
            }
            Err(e) => Err(process::cannot_signal(e)).with_context(|| format!("cannot end pid {}", self.pid)),
        }
    }
}
