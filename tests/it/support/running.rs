//! A command while it runs.

use super::{Invocation, LIMIT, Outcome, eventually, sleeps_in_a_lock_call};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// A command in the background, in a process group of its own. Dropping it kills
/// the group.
pub struct Running {
    child: Child,
    command: String,
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
    ended: bool,
}

impl Running {
    /// `started`: a time before the child was started, so that its measured time is not
    /// too short.
    pub(super) fn new(started: Instant, child: Child, command: String, stdout: PathBuf, stderr: PathBuf) -> Self {
        Self { child, command, stdout, stderr, started, ended: false }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
    }

    /// Sends a signal to the whole process group, as a terminal does.
    pub fn signal_group(&self, signal: i32) {
        send(-self.pid(), signal);
    }

    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// What it has written so far.
    pub fn stdout(&self) -> String {
        text_of(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        text_of(&self.stderr)
    }

    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait().expect("waitpid");
        self.ended = status.is_some();
        self.ended
    }

    /// Whether it waits for a lock right now.
    pub fn is_waiting(&self) -> bool {
        sleeps_in_a_lock_call(self.pid())
    }

    /// Returns once it waits for a lock, and so has its place in the queue.
    #[track_caller]
    pub fn until_waiting(mut self) -> Self {
        let command = self.command.clone();
        eventually(&format!("{command} waits for the lock"), || {
            let ended = self.has_ended();
            assert!(!ended, "{command} ended instead of waiting: {self:?}");
            self.is_waiting()
        });
        self
    }

    /// Returns once its standard output contains `text`.
    #[track_caller]
    pub fn until_says(mut self, text: &str) -> Self {
        let command = self.command.clone();
        eventually(&format!("{command} prints {text:?}"), || {
            let ended = self.has_ended();
            let said = self.stdout().contains(text);
            assert!(said || !ended, "{command} ended first: {self:?}");
            said
        });
        self
    }

    /// Waits for its end, closing its standard input.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        self.close_stdin();
        let Some(status) = self.wait_at_most(LIMIT) else {
            panic!("still running after {LIMIT:?}: {self:?}");
        };
        Outcome {
            command: self.command.clone(),
            code: status.code(),
            signal: status.signal(),
            dumped_core: status.core_dumped(),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took: self.started.elapsed(),
        }
    }

    fn wait_at_most(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        let pid = Pid::from_child(&self.child);
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            let timeout = Timespec::try_from(limit).unwrap();
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).expect("poll");
        }
        loop {
            let status = self.child.try_wait().expect("waitpid");
            self.ended = status.is_some();
            if self.ended || Instant::now() >= deadline {
                return status;
            }
            // Its tracer has not seen its end yet.
            std::thread::yield_now();
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{} (pid {})", self.command, self.pid())?;
        writeln!(out, "--- stdout\n{}", self.stdout())?;
        writeln!(out, "--- stderr\n{}", self.stderr())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.signal_group(libc::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// A command that holds a lock until [`release`](Self::release) is called.
pub struct Holder(Running);

impl Holder {
    /// Runs under the lock: says so, and ends with its input.
    pub(super) const COMMAND: &str = "echo holding; exec cat";

    #[track_caller]
    pub(super) fn start(invocation: Invocation) -> Self {
        Self(invocation.input("").start().until_says("holding"))
    }

    /// Lets the command end, and returns how it and its wrapper ended.
    #[track_caller]
    pub fn release(self) -> Outcome {
        self.0.wait()
    }
}

/// A command that has said that it holds the lock, as [`Holder::COMMAND`] does.
impl From<Running> for Holder {
    fn from(running: Running) -> Self {
        Self(running)
    }
}

impl std::ops::Deref for Holder {
    type Target = Running;
    fn deref(&self) -> &Running {
        &self.0
    }
}

impl std::ops::DerefMut for Holder {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.0
    }
}

fn send(pid: i32, signal: i32) {
    // SAFETY: kill has no memory effects. The child is not reaped before it is
    // dropped or waited for, so the number is still its own.
    unsafe { libc::kill(pid, signal) };
}

fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
