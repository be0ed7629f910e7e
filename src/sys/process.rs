//! Making processes: fork, a vfork that is safe in Rust, exec.

use std::ffi::{CStr, CString, c_void};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getppid, set_parent_process_death_signal, waitid};

use super::send::send;
use super::signal::{Mask, block_all, do_not_stop_before_exec, restore, set_action};

/// Which of the two processes we are after [`fork`].
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// Splits the process in two. Sound because lockrun has one thread, and a process that
/// lives in its memory sleeps while we run.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: with one thread, the child's copy of every lock and buffer of the runtime
    // is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).map(Forked::Parent).ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// As [`fork`], but a supervisor's wait(2) for any child passes over the new process,
/// and its end sends no SIGCHLD; [`reap_apart`] reaps it. Its own children are
/// ordinary ones, and so is it once we have ended.
#[cfg(feature = "net")]
pub fn fork_apart() -> io::Result<Forked> {
    // SAFETY: as in `fork`. All arguments are zero, on every architecture; the zero
    // flags mean no signal at its end. The C library does not learn the new thread id,
    // which only musl's raise(3) and abort(3) need.
    match unsafe { libc::syscall(libc::SYS_clone, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .map(Forked::Parent)
            .ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Reaps a child of [`fork_apart`] if it has ended. Returns whether it is gone.
#[cfg(feature = "net")]
pub fn reap_apart(child: Pid) -> bool {
    // SAFETY: no memory is passed.
    let pid =
        unsafe { libc::waitpid(child.as_raw_nonzero().get(), std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
    pid != 0
}

/// In a child: dies with `parent`, even if that has ended already.
pub fn end_with(parent: Pid) {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // In a pid namespace of its own it sees no parent.
    if getppid().is_some_and(|now| now != parent) {
        exit_now(125);
    }
}

/// Whether a child of ours has ended, or was reaped before. Does not reap it.
pub fn has_ended(child: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(child), look), Ok(Some(_)) | Err(Errno::CHILD))
}

/// A killed process that does not wait for a processor has ended by then, or hangs in
/// the kernel.
const KILLED: Duration = Duration::from_millis(30);
const KILLED_AT_LAST: Duration = Duration::from_secs(5);

/// Kills a child of ours unless it has ended. Returns whether it has ended; `false`: it
/// sleeps in the kernel, perhaps for a disk or a server, and ends when it wakes. Does
/// not reap it. Allocates nothing.
pub fn end_child(child: Pid) -> bool {
    if has_ended(child) {
        return true;
    }
    let _ = send(child, libc::SIGKILL);
    let killed = Instant::now();
    let mut pause = Duration::from_micros(20);
    while !has_ended(child) {
        let waited = killed.elapsed();
        if waited > KILLED && !wants_to_run(child) || waited > KILLED_AT_LAST {
            return false;
        }
        nap(pause);
        pause = (2 * pause).min(Duration::from_millis(1));
    }
    true
}

/// Whether a process runs or waits for a processor; `false` if /proc does not show it.
fn wants_to_run(pid: Pid) -> bool {
    stat_field(pid, 0, |state| Some(state == b"R")) == Some(true)
}

/// Whether a child of ours has executed a program, even if it has ended since; `None` if
/// it was reaped or /proc does not show it.
pub fn has_executed(child: Pid) -> Option<bool> {
    // PF_FORKNOEXEC in the kernel's sched.h.
    const NOT_YET: u32 = 0x40;
    stat_field(child, 6, |flags| Some(str::from_utf8(flags).ok()?.parse::<u32>().ok()? & NOT_YET == 0))
}

/// Reads a field of /proc/PID/stat, counted from the state (proc_pid_stat(5)). Allocates
/// nothing.
fn stat_field<T>(pid: Pid, nth: usize, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
    let mut path = [0; 32];
    write!(&mut path[..], "/proc/{}/stat", pid.as_raw_nonzero()).ok()?;
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()).ok()?;
    let mut stat = [0; 256];
    let length = rustix::io::read(&file, &mut stat).ok()?;
    // The fields follow a name that may contain anything.
    let end_of_name = stat[..length].iter().rposition(|byte| *byte == b')')?;
    read(stat.get(end_of_name + 2..length)?.split(|byte| *byte == b' ').nth(nth)?)
}

/// Sleeps without the C library, and without a panic where the kernel refuses.
pub fn nap(time: Duration) {
    let tv_sec = time.as_secs().try_into().unwrap_or(i64::MAX);
    let _ = rustix::thread::nanosleep(&rustix::thread::Timespec { tv_sec, tv_nsec: time.subsec_nanos().into() });
}

/// Ends the process without exit handlers: a child must not run its parent's.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no memory effects and does not return.
    unsafe { libc::_exit(code) }
}

/// Runs `f` with an empty umask, so that a file has the given mode from the moment it
/// exists.
pub fn without_umask<T>(f: impl FnOnce() -> T) -> T {
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let result = f();
    rustix::process::umask(before);
    result
}

/// A prepared command. Nothing has to be allocated between the grant and its start.
pub struct Exec {
    _argv: Vec<CString>,
    /// Our variables, each with its NUL; inherited ones stay where the kernel put them.
    added: Vec<Vec<u8>>,
    argv_raw: Vec<*const libc::c_char>,
    environment_raw: Vec<*const libc::c_char>,
    inherit: Vec<RawFd>,
    mask: Mask,
    ignore_child_death: bool,
}

/// Lowest numbers for inherited lock descriptors: above those that shell scripts name
/// and shells use themselves, and below the one at which the kernel has to enlarge a
/// process's table.
const FIRST_INHERITED: [RawFd; 2] = [48, 10];

/// Most calls take one lock; for those, nothing has to grow after the grant.
const ROOM_TO_INHERIT: usize = 4;

impl Exec {
    /// `argv[0]` is searched in `PATH` as execvp(3) does. The command gets our
    /// environment without the variables `unset`, and `mask` and `ignore_child_death`
    /// as its signal state.
    pub fn new(argv: Vec<CString>, unset: &[&str], mask: Mask, ignore_child_death: bool) -> Self {
        let argv_raw = argv.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
        let environment_raw = inherited_environment(unset);
        Self {
            _argv: argv,
            added: Vec::new(),
            argv_raw,
            environment_raw,
            inherit: Vec::with_capacity(ROOM_TO_INHERIT),
            mask,
            ignore_child_death,
        }
    }

    /// Lets the command inherit these descriptors, under numbers that scripts do not
    /// use.
    pub fn inherit(&mut self, descriptors: impl IntoIterator<Item = RawFd>) {
        self.inherit.extend(descriptors);
    }

    /// Adds a variable, `NAME=value`.
    pub fn add_variable(&mut self, variable: CString) {
        let end = self.environment_raw.len() - 1;
        let variable = variable.into_bytes_with_nul();
        self.environment_raw.insert(end, variable.as_ptr().cast());
        self.added.push(variable);
    }

    /// Changes the value of an added variable in place. Returns what `change` returns,
    /// or `false` if there is no such variable.
    pub fn change_variable(&mut self, name: &str, change: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let inherited = self.environment_raw.len() - 1 - self.added.len();
        for (variable, raw) in self.added.iter_mut().zip(&mut self.environment_raw[inherited..]) {
            if let Some(value) = variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) {
                let (start, end) = (variable.len() - value.len(), variable.len() - 1);
                let changed = change(&mut variable[start..end]);
                *raw = variable.as_ptr().cast();
                return changed;
            }
        }
        false
    }

    /// Removes the added variables.
    pub fn clear_variables(&mut self) {
        let inherited = self.environment_raw.len() - 1 - self.added.len();
        self.environment_raw.drain(inherited..inherited + self.added.len());
        self.added.clear();
    }

    /// Stack in bytes that [`exec`](Self::exec) may need beyond the usual: for a script
    /// without a #! line the C library copies the argument list.
    pub fn room(&self) -> usize {
        self.argv_raw.len() * size_of::<u128>()
    }

    /// As [`exec`](Self::exec), for a child in our memory: Ctrl-Z does not stop it
    /// before, see [`take_missed_stop`](super::take_missed_stop).
    pub fn exec_without_a_stop(&self) -> i32 {
        do_not_stop_before_exec();
        self.exec()
    }

    /// Becomes the command. Returns only on failure, with `errno`.
    pub fn exec(&self) -> i32 {
        for &fd in &self.inherit {
            // SAFETY: fcntl on a number; the copy is meant to leak into the command. If
            // no high number is free, a lower one, or the original.
            unsafe {
                let copied = FIRST_INHERITED.iter().any(|first| libc::fcntl(fd, libc::F_DUPFD, *first) != -1);
                if !copied {
                    libc::fcntl(fd, libc::F_SETFD, 0);
                }
            }
        }
        if self.ignore_child_death {
            set_action(libc::SIGCHLD, libc::SIG_IGN);
        }
        restore(&self.mask);
        // SAFETY: both arrays end in null and point to strings that `self` owns or that
        // the kernel gave this process.
        unsafe { libc::execvpe(self.argv_raw[0], self.argv_raw.as_ptr(), self.environment_raw.as_ptr()) };
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        block_all();
        errno
    }
}

/// Our environment without some variables, ending in null. Not copied, because that
/// would be most of what a call allocates.
fn inherited_environment(unset: &[&str]) -> Vec<*const libc::c_char> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let is_unset = |variable: &[u8]| {
        unset.iter().any(|name| variable.get(name.len()) == Some(&b'=') && variable.starts_with(name.as_bytes()))
    };
    let mut kept = Vec::with_capacity(64);
    // SAFETY: the C runtime keeps `environ` a null-terminated array of strings. Nobody
    // changes it or them: we set no variables, and only a keeper, which executes
    // nothing, is retitled.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            if !is_unset(CStr::from_ptr(*next).to_bytes()) {
                kept.push(*next);
            }
            next = next.add(1);
        }
    }
    kept.push(std::ptr::null());
    kept
}

/// Starts a command as our child, as posix_spawn(3) does, but without its 140 calls of
/// sigaction(2), because all signals are blocked and we have no handlers. Returns once
/// the command has been executed; the inner error is the `errno` of a failed exec.
pub fn spawn(exec: &Exec) -> io::Result<Result<Pid, i32>> {
    struct Plan<'a> {
        exec: &'a Exec,
        failed: AtomicI32,
    }
    extern "C" fn child(plan: *mut c_void) -> libc::c_int {
        // SAFETY: `plan` is the parent's, which is suspended until we exec or exit.
        let plan = unsafe { &*plan.cast::<Plan>() };
        plan.failed.store(plan.exec.exec_without_a_stop(), Ordering::SeqCst);
        127
    }
    // execvpe builds paths of up to PATH_MAX + NAME_MAX on its stack.
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity((64 * 1024 + exec.room()) / size_of::<u128>());
    let mut plan = Plan { exec, failed: AtomicI32::new(0) };
    let pid = {
        // The stack grows down from one past the end.
        let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
        // SAFETY: CLONE_VM | CLONE_VFORK: the child runs on its own stack in our memory
        // while we are suspended, and writes only there and to `plan.failed`. All
        // signals are blocked until right before the exec, and then its handler only
        // stores an atomic. Descriptors and signal actions are copies.
        unsafe {
            libc::clone(child, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut plan).cast())
        }
    };
    if pid == -1 {
        return Err(io::Error::last_os_error());
    }
    let Some(pid) = Pid::from_raw(pid) else { return Err(io::ErrorKind::Other.into()) };
    match plan.failed.load(Ordering::SeqCst) {
        0 => Ok(Ok(pid)),
        errno => {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Ok(Err(errno))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    fn has_executed_until_it_is_reaped(child: Pid, expected: bool) {
        assert_eq!(has_executed(child), Some(expected));
        assert!(end_child(child));
        assert_eq!(has_executed(child), Some(expected), "after its end");
        waitpid(Some(child), WaitOptions::empty()).unwrap();
        assert_eq!(has_executed(child), None, "reaped");
    }

    #[test]
    fn a_child_that_was_killed_shows_whether_it_had_executed_a_program() {
        let Forked::Parent(child) = super::fork().unwrap() else {
            loop {
                nap(Duration::from_secs(1));
            }
        };
        has_executed_until_it_is_reaped(child, false);
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        has_executed_until_it_is_reaped(Pid::from_raw(cat.id() as i32).unwrap(), true);
        assert!(cat.wait().is_err(), "it was reaped");
    }
}
