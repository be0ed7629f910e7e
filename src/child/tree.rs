//! Everything that COMMAND started: our descendants, including those that double-forked
//! or called setsid(2).
//!
//! As a subreaper (prctl(2)) we become the parent of every descendant whose parent
//! ends, so none can leave the tree. Children that we already had before exec are
//! spared.
//!
//! A process is signalled through a pidfd (Linux 5.3), because its id may have been
//! reused. Where there is none, only our own children are signalled, whose ids stay
//! theirs until we reap them; the others become our children when their parents end.

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, set_child_subreaper, test_kill_process, waitid,
};

use crate::process;
use crate::sys;

/// Our descendants.
pub struct Tree {
    root: i32,
    spared: Vec<i32>,
    /// These have got TERM; and whether others are to get it once they are our
    /// children.
    asked: Vec<i32>,
    has_more_to_ask: bool,
    /// Whether a process is the keeper of a token. That is not part of the tree,
    /// because its lock belongs to the holder of the token.
    is_token_keeper: fn(i32) -> bool,
}

/// The result of signalling the tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signalled {
    /// These got it.
    pub reached: Vec<i32>,
    /// Another user's, which we may not signal.
    pub refused: Vec<i32>,
    /// Others can be signalled once they are our children.
    pub is_partial: bool,
}

impl Tree {
    /// The tree of everything started from now on, without the processes for which
    /// `is_token_keeper` is true.
    pub fn of_what_follows(is_token_keeper: fn(i32) -> bool) -> Self {
        // Should it fail, only what stays in the tree by itself is reached.
        let _ = set_child_subreaper(Some(getpid()));
        let root = getpid().as_raw_nonzero().get();
        let spared = if has_children() { below(root, |_| true).map(|(pid, _)| pid).collect() } else { Vec::new() };
        Self { root, spared, asked: Vec::new(), has_more_to_ask: false, is_token_keeper }
    }

    /// Forgets a child that was reaped, because its id may be reused.
    pub fn forget(&mut self, pid: Pid) {
        let pid = pid.as_raw_nonzero().get();
        self.spared.retain(|spared| *spared != pid);
        self.asked.retain(|asked| *asked != pid);
    }

    pub fn is_empty(&self) -> bool {
        if process::proc_is_ours() { self.members().is_empty() } else { !has_children() }
    }

    /// Signals every process of the tree, including those forked meanwhile. `command`
    /// is one of them until it has been reaped, even if /proc does not show it.
    pub fn signal(&self, signal: i32, command: Option<Pid>) -> Signalled {
        self.signal_but(&[], signal, command)
    }

    /// Sends TERM, and CONT because a stopped process cannot end, to every process that
    /// has not had it.
    pub fn ask_to_end(&mut self, command: Option<Pid>) -> Signalled {
        let signalled = self.signal_but(&self.asked, libc::SIGTERM, command);
        self.signal_but(&self.asked, libc::SIGCONT, command);
        self.asked.extend(&signalled.reached);
        self.has_more_to_ask = signalled.is_partial;
        signalled
    }

    /// Whether there are processes to ask as soon as they are our children.
    pub fn has_more_to_ask(&self) -> bool {
        self.has_more_to_ask
    }

    fn signal_but(&self, except: &[i32], signal: i32, command: Option<Pid>) -> Signalled {
        let mut result = Signalled::default();
        let mut seen = except.to_vec();
        if let Some(command) = command.filter(|pid| !except.contains(&pid.as_raw_nonzero().get())) {
            // Our own child, not yet reaped: the id is still its own.
            result.count(command.as_raw_nonzero().get(), sys::send(command, signal));
            seen.push(command.as_raw_nonzero().get());
        }
        loop {
            let mut found_new = false;
            for (pid, parent) in self.members() {
                if seen.contains(&pid) {
                    continue;
                }
                seen.push(pid);
                found_new = true;
                result.count(pid, self.signal_one(pid, parent, signal));
            }
            if !found_new {
                return result;
            }
        }
    }

    fn signal_one(&self, pid: i32, parent: i32, signal: i32) -> rustix::io::Result<()> {
        let id = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        // Any other error, such as a sandbox's EPERM, is not about the process.
        let process = pidfd_open(id, PidfdFlags::empty())
            .map_err(|error| if error == Errno::SRCH { error } else { Errno::NOSYS });
        // Checks the parent again: the id may have been reused since. An orphan has
        // become our child.
        let now = process::parent(pid).filter(|now| *now == parent || *now == self.root).ok_or(Errno::SRCH)?;
        match process.and_then(|process| sys::send_by_pidfd(&process, signal)) {
            // Only we can reap this child.
            Err(error) if error != Errno::SRCH && now == self.root => sys::send(id, signal),
            // Not another user's; a sandbox refuses it.
            Err(Errno::PERM) if test_kill_process(id).is_ok() => Err(Errno::NOSYS),
            sent => sent,
        }
    }

    /// Every process of the tree, with its parent.
    fn members(&self) -> Vec<(i32, i32)> {
        if !process::proc_is_ours() {
            return Vec::new();
        }
        let belongs = |pid: i32| !self.spared.contains(&pid) && !(self.is_token_keeper)(pid);
        below(self.root, belongs).filter(|(pid, _)| !process::is_zombie(*pid)).collect()
    }
}

impl Signalled {
    fn count(&mut self, pid: i32, sent: rustix::io::Result<()>) {
        match sent {
            Ok(()) => self.reached.push(pid),
            // It has ended meanwhile.
            Err(Errno::SRCH) => {}
            Err(Errno::PERM) => self.refused.push(pid),
            Err(_) => self.is_partial = true,
        }
    }
}

fn has_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, look), Err(Errno::CHILD))
}

/// All descendants of a process, each with its parent. Where `goes_on` is false, the
/// process and everything below it is left out.
fn below(root: i32, goes_on: impl Fn(i32) -> bool) -> impl Iterator<Item = (i32, i32)> {
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for pid in process::children(parent).into_iter().filter(|pid| goes_on(*pid)) {
            found.push((pid, parent));
            parents.push(pid);
        }
    }
    found.into_iter()
}
