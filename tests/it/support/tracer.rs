//! Interrupting processes between any two system calls, with ptrace(2).

use super::{Invocation, LIMIT, Running, eventually};
use std::fs;
use std::thread::{scope, sleep, yield_now};
use std::time::{Duration, Instant};

/// What happens to a process before a system call.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    /// It is killed.
    Kill,
    /// It continues only when all others have ended or sleep.
    Delay,
    /// It stays stopped, unless it has executed something else before. When all others
    /// sleep, the command gets this signal.
    Hang { signal: Option<i32> },
}

/// Starts a command and interrupts one of its processes before the `nth` system
/// call of that one. `victim` is 0 for the command itself, 1 for the first
/// process that it starts, and so on. Returns whether it came to that.
///
/// Returns when the command is about to end. `when_asleep` is called once, when they all sleep for the first time.
#[track_caller]
pub fn interrupt(
    command: Invocation,
    victim: usize,
    nth: usize,
    how: Interruption,
    when_asleep: impl FnOnce() + Send,
) -> (Running, bool) {
    let command = command.before_exec(|| {
        // SAFETY: PTRACE_TRACEME touches no memory.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    });
    // When this thread ends, its tracees continue untraced.
    let trace = move || {
        let running = command.start();
        let mut tracer = Tracer { processes: vec![running.pid()], victim, left: nth, delayed: None, early: Vec::new() };
        let interrupted = tracer.run(how, when_asleep);
        (running, interrupted)
    };
    scope(|threads| threads.spawn(trace).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

struct Tracer {
    /// In the order in which they were started.
    processes: Vec<i32>,
    victim: usize,
    left: usize,
    /// The victim while it is delayed.
    delayed: Option<i32>,
    /// Children that stopped before their parents reported them.
    early: Vec<i32>,
}

impl Tracer {
    /// Traces until the first process ends. Returns whether the victim was interrupted.
    fn run(&mut self, how: Interruption, when_asleep: impl FnOnce()) -> bool {
        let mut when_asleep = Some(when_asleep);
        let mut signalled = false;
        let started = Instant::now();
        loop {
            let Some((pid, status)) = self.next_stop() else {
                match (when_asleep.take(), self.delayed.take()) {
                    (Some(call), delayed) => {
                        self.delayed = delayed;
                        call();
                    }
                    (None, Some(victim)) => match how {
                        Interruption::Hang { signal } => {
                            self.delayed = Some(victim);
                            assert!(started.elapsed() < LIMIT, "the command hangs with the process {victim}");
                            if let (Some(signal), false) = (signal, std::mem::replace(&mut signalled, true)) {
                                // SAFETY: it is not yet waited for.
                                unsafe { libc::kill(self.processes[0], signal) };
                            }
                        }
                        _ => resume(victim, false, 0),
                    },
                    (None, None) => yield_now(),
                }
                continue;
            };
            if !libc::WIFSTOPPED(status) {
                continue;
            }
            if !self.processes.contains(&pid) {
                self.early.push(pid);
                continue;
            }
            let to_call = self.left > 0 && self.processes.get(self.victim) == Some(&pid);
            match (libc::WSTOPSIG(status), status >> 16) {
                (_, libc::PTRACE_EVENT_EXIT) if pid == self.processes[0] => return self.left == 0,
                (_, libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE) => {
                    self.greet_child_of(pid);
                    resume(pid, to_call, 0);
                }
                (SYSTEM_CALL, _) if to_call && is_entry(pid) => {
                    self.left -= 1;
                    match how {
                        _ if self.left > 0 => resume(pid, true, 0),
                        // SAFETY: it is stopped and not yet waited for.
                        Interruption::Kill => drop(unsafe { libc::kill(pid, libc::SIGKILL) }),
                        Interruption::Delay | Interruption::Hang { .. } => self.delayed = Some(pid),
                    }
                }
                (_, libc::PTRACE_EVENT_EXEC) if to_call && matches!(how, Interruption::Hang { .. }) => {
                    self.victim = usize::MAX;
                    resume(pid, false, 0);
                }
                // The stops that tracing itself makes.
                (SYSTEM_CALL | libc::SIGTRAP | libc::SIGSTOP, _) => {
                    set_options(pid);
                    resume(pid, to_call, 0);
                }
                (signal, _) => resume(pid, to_call, signal),
            }
        }
    }

    /// A new process begins with a stop, which must not outlast our tracing.
    fn greet_child_of(&mut self, parent: i32) {
        let mut child: libc::c_ulong = 0;
        let mut status = 0;
        // SAFETY: both calls write to a live integer of the right type.
        unsafe {
            libc::ptrace(libc::PTRACE_GETEVENTMSG, parent, 0, &raw mut child);
            if !self.early.contains(&(child as i32)) {
                libc::waitpid(child as i32, &raw mut status, libc::__WALL);
            }
        }
        self.processes.push(child as i32);
        resume(child as i32, self.processes.len() == self.victim + 1, 0);
    }

    /// The next process that stopped or ended; `None` if there will be none
    /// because all sleep.
    fn next_stop(&self) -> Option<(i32, i32)> {
        let mut next = None;
        eventually("the next stop of a traced process", || {
            for attempt in 0..30 {
                let mut status = 0;
                let which = libc::WNOHANG | libc::__WALL | libc::__WNOTHREAD;
                // SAFETY: `status` lives; only this thread's children are
                // waited for, which are the traced ones.
                match unsafe { libc::waitpid(-1, &raw mut status, which) } {
                    // Spinning would take processor time from the tracees.
                    0 | -1 if attempt > 3 => sleep(Duration::from_micros(20)),
                    0 | -1 => yield_now(),
                    pid => {
                        next = Some((pid, status));
                        return true;
                    }
                }
            }
            self.all_asleep()
        });
        next
    }

    fn all_asleep(&self) -> bool {
        self.processes.iter().filter(|&&pid| Some(pid) != self.delayed).all(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            matches!(state, None | Some('S' | 'Z' | 'X'))
        })
    }
}

/// How a stop at a system call is marked (PTRACE_O_TRACESYSGOOD).
const SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;

fn set_options(pid: i32) {
    let forks = libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE;
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACEEXIT | forks;
    // SAFETY: touches no memory of ours.
    unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options) };
}

fn resume(pid: i32, to_system_call: bool, signal: i32) {
    let request = if to_system_call { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
    // SAFETY: touches no memory of ours.
    unsafe { libc::ptrace(request, pid, 0, signal) };
}

fn is_entry(pid: i32) -> bool {
    // SAFETY: plain data, and the kernel is told its size.
    unsafe {
        let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
        let size = size_of_val(&info);
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, &raw mut info);
        info.op == libc::PTRACE_SYSCALL_INFO_ENTRY
    }
}
