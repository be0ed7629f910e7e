//! What /proc tells about the processes of a tool: which they are, whether they
//! wait for a lock, what memory is theirs alone.

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid as Process, PidfdFlags, pidfd_open};

/// A process id.
pub type Pid = u32;

/// How long anything may take that the bench waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// `root` and all its living descendants.
pub fn tree(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut seen = 0;
    while let Some(&pid) = found.get(seen) {
        // A process that ends meanwhile has no children to count.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(children.split_ascii_whitespace().flat_map(str::parse::<Pid>));
        seen += 1;
    }
    found
}

/// Does a process of the tree sleep in a call that locks? That is flock(2), and
/// fcntl(2) for s6-setlock.
pub fn waits_for_a_lock(root: Pid) -> bool {
    tree(root).iter().any(|pid| {
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        let number = call.split(' ').next().and_then(|number| number.parse().ok());
        number.is_some_and(|number| [libc::SYS_flock, libc::SYS_fcntl].contains(&number))
    })
}

/// Does every process of the tree sleep?
pub fn sleeps(root: Pid) -> bool {
    tree(root).iter().all(|pid| {
        // "PID (NAME) STATE ...", where NAME may hold anything but is the last
        // thing in parentheses.
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")))
    })
}

/// Returns once `condition` has held twice in a row, a moment apart: a passing
/// lock or nap does not count.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut held_before = false;
    loop {
        let holds = condition();
        if holds && held_before {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("after {}s still not: {what}", PATIENCE.as_secs());
        }
        held_before = holds;
        thread::sleep(Duration::from_millis(10));
    }
}

/// How `child` ended; an error, and no wait for ever, if it does not.
pub fn wait_for(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let process = Process::from_child(child);
    let pidfd = pidfd_open(process, PidfdFlags::empty()).context("opening a pidfd")?;
    let patience = Timespec::try_from(PATIENCE)?;
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience))?;
    ensure!(ended > 0, "process {process} has not ended after {}s", PATIENCE.as_secs());
    Ok(child.wait()?)
}

/// Memory of some processes, in kB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    pub processes: usize,
    /// Pages that one process has for itself (Private_Clean + Private_Dirty).
    pub private: u64,
    /// Those of them that were written to (Private_Dirty); the others can be
    /// read again from the program's file.
    pub dirty: u64,
    /// Pages of no file, those shared by several processes counted by halves,
    /// thirds and so on (Pss_Anon): what a fork shares shows up here.
    pub anonymous: u64,
}

impl Memory {
    /// Of the tree at `root`, except for processes that run `command`. What
    /// several processes live in together counts once.
    pub fn of_tree(root: Pid, command: &Path) -> anyhow::Result<Memory> {
        let mut sum = Memory::default();
        let mut counted: Vec<Pid> = Vec::new();
        for pid in tree(root) {
            if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == command) {
                continue;
            }
            if counted.iter().any(|other| live_in_one_memory(*other, pid)) {
                sum.processes += 1;
                continue;
            }
            counted.push(pid);
            let path = format!("/proc/{pid}/smaps_rollup");
            let rollup = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            let field = |name| kilobytes(&rollup, name);
            sum.processes += 1;
            sum.dirty += field("Private_Dirty:");
            sum.private += field("Private_Clean:") + field("Private_Dirty:");
            sum.anonymous += field("Pss_Anon:");
        }
        Ok(sum)
    }
}

/// kcmp(2). Where that is not allowed, each counts for itself.
fn live_in_one_memory(one: Pid, other: Pid) -> bool {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: a question about two process ids without side effects.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}

fn kilobytes(rollup: &str, field: &str) -> u64 {
    rollup
        .lines()
        .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
