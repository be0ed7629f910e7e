//! Everything that COMMAND started: our descendants, also those that
//! double-forked or called setsid(2).
//!
//! As a subreaper (prctl(2)) we become the parent of every descendant whose
//! own parent ends, so none can leave the tree. Children that we had before,
//! from whoever executed us, are not COMMAND's and are spared.
//!
//! A process is signalled through a descriptor (pidfd_open(2), Linux 5.3), or
//! another one could have got its id meanwhile. Where there is none, our own
//! children are signalled by their ids, which they keep until we have waited for
//! them; all others have become our children when their parents have ended.

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, set_child_subreaper, test_kill_process, waitid,
};

use crate::process;
use crate::sys;

/// The processes that descend from us.
pub struct Tree {
    root: i32,
    spared: Vec<i32>,
    /// What has got TERM already, and whether there is more that is to have it
    /// when it is our child.
    asked: Vec<i32>,
    has_more_to_ask: bool,
    /// Whether a process is behind a token: it belongs to whoever has the token,
    /// wherever it was acquired.
    is_token_keeper: fn(i32) -> bool,
}

/// What became of a signal to the tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signalled {
    /// These processes got it.
    pub reached: Vec<i32>,
    /// These may not be signalled by us: another user's.
    pub refused: Vec<i32>,
    /// There are others, which can be signalled once they are our children.
    pub is_partial: bool,
}

impl Tree {
    /// The tree of what will be started from now on, without the processes of
    /// which `is_token_keeper` is true.
    pub fn of_what_follows(is_token_keeper: fn(i32) -> bool) -> Self {
        // Without it, only those that stay in the tree by themselves are
        // reached; it does not fail on any Linux that has it.
        let _ = set_child_subreaper(Some(getpid()));
        let root = getpid().as_raw_nonzero().get();
        let spared = if has_children() { below(root, |_| true).map(|(pid, _)| pid).collect() } else { Vec::new() };
        Self { root, spared, asked: Vec::new(), has_more_to_ask: false, is_token_keeper }
    }

    /// A child of ours was reaped: its id may soon be somebody else's.
    pub fn forget(&mut self, pid: Pid) {
        let pid = pid.as_raw_nonzero().get();
        self.spared.retain(|spared| *spared != pid);
        self.asked.retain(|asked| *asked != pid);
    }

    /// Whether nobody is left.
    pub fn is_empty(&self) -> bool {
        if process::proc_is_ours() { self.members().is_empty() } else { !has_children() }
    }

    /// Signals every process of the tree, until no new one is found: what was
    /// forked meanwhile gets it as well. `command` is among them, also where
    /// /proc does not show it, until it has been reaped.
    pub fn signal(&self, signal: i32, command: Option<Pid>) -> Signalled {
        self.signal_but(&[], signal, command)
    }

    /// TERM, and CONT, because what is stopped cannot end, for every process of the
    /// tree that has not had it.
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
            // Our own child, not yet waited for: nobody else has its id.
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
        // What else it fails with, EPERM of a sandbox as well, is not about the process.
        let process = pidfd_open(id, PidfdFlags::empty())
            .map_err(|error| if error == Errno::SRCH { error } else { Errno::NOSYS });
        // Another look: the id may have gone to a stranger since we read it.
        // Orphaned meanwhile, it is our own child.
        let now = process::parent(pid).filter(|now| *now == parent || *now == self.root).ok_or(Errno::SRCH)?;
        match process.and_then(|process| sys::send_by_pidfd(&process, signal)) {
            // A child that nobody else can wait for.
            Err(error) if error != Errno::SRCH && now == self.root => sys::send(id, signal),
            // Not another user's: a sandbox does not let us.
            Err(Errno::PERM) if test_kill_process(id).is_ok() => Err(Errno::NOSYS),
            sent => sent,
        }
    }

    /// Every process of the tree with its parent.
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

/// Everybody below a process, with the parent; those of whom `goes_on` is
/// false are left out with all below them.
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
