//! Everything that COMMAND started: our descendants, also those that
//! double-forked or called setsid(2).
//!
//! As a subreaper (prctl(2)) we become the parent of every descendant whose
//! own parent ends, so none can leave the tree. Children that we had before,
//! from whoever executed us, are not COMMAND's and are spared.

use std::collections::HashSet;
use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, set_child_subreaper, waitid};

use crate::sys;

/// The processes that descend from us.
pub struct Tree {
    root: i32,
    spared: HashSet<i32>,
}

/// What became of a signal to the tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signalled {
    /// So many processes got it.
    pub reached: usize,
    /// These may not be signalled by us: another user's.
    pub refused: Vec<i32>,
}

impl Tree {
    /// The tree of what will be started from now on.
    pub fn of_what_follows() -> Self {
        // Without it, only those that stay in the tree by themselves are
        // reached; it does not fail on any Linux that has it.
        let _ = set_child_subreaper(Some(getpid()));
        let root = getpid().as_raw_nonzero().get();
        let nobody = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
        let spared =
            if matches!(nobody, Err(Errno::CHILD)) { HashSet::new() } else { children(root).into_iter().collect() };
        Self { root, spared }
    }

    /// A child of ours was reaped: its id may soon be somebody else's.
    pub fn forget(&mut self, pid: Pid) {
        self.spared.remove(&pid.as_raw_nonzero().get());
    }

    /// Whether nobody is left.
    pub fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    /// Signals everybody in the tree who has not been, until nobody new is
    /// found: what was forked meanwhile gets it as well.
    pub fn signal(&self, signal: i32) -> Signalled {
        let mut result = Signalled::default();
        let mut seen = HashSet::new();
        loop {
            let mut found_new = false;
            for (pid, parent) in self.members() {
                if !seen.insert(pid) {
                    continue;
                }
                found_new = true;
                match self.signal_one(pid, parent, signal) {
                    Ok(()) => result.reached += 1,
                    Err(Errno::PERM) => result.refused.push(pid),
                    // It has ended meanwhile.
                    Err(_) => {}
                }
            }
            if !found_new {
                return result;
            }
        }
    }

    /// Through a descriptor of the process, after another look at its
    /// parent: its id may have gone to a stranger since we read it.
    fn signal_one(&self, pid: i32, parent: i32, signal: i32) -> rustix::io::Result<()> {
        let process = pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
        // Orphaned meanwhile, it is our own child.
        if parent_of(pid).is_none_or(|now| now != parent && now != self.root) {
            return Err(Errno::SRCH);
        }
        sys::send_by_pidfd(&process, signal)
    }

    /// Every process of the tree with its parent.
    fn members(&self) -> Vec<(i32, i32)> {
        let mut members = Vec::new();
        let mut parents = vec![self.root];
        while let Some(parent) = parents.pop() {
            for pid in children(parent) {
                if parent == self.root && self.spared.contains(&pid) || is_token_holder(pid) {
                    continue;
                }
                if state_of(pid) != Some('Z') {
                    members.push((pid, parent));
                }
                parents.push(pid);
            }
        }
        members
    }
}

/// Whether this is the process behind a token: it belongs to whoever has the
/// token, wherever it was acquired.
fn is_token_holder(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == sys::HOLDER_NAME)
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|children| children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    stat_fields(pid)?.split(' ').nth(1)?.parse().ok()
}

fn state_of(pid: i32) -> Option<char> {
    stat_fields(pid)?.chars().next()
}

/// `/proc/PID/stat` from the state on, behind a name that may contain
/// anything.
fn stat_fields(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}
