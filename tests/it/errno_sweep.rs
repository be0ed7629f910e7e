//! Each system call of each command fails once, with each of these errors: COMMAND never
//! runs without the lock, nothing hangs, crashes or gives a wrong answer, and the lock is
//! free in the end.
//!
//! By default a sample of the faults, another one in each run; with `LOCKRUN_TEST_FULL=1`,
//! all of them:
//!
//! ```text
//! LOCKRUN_TEST_FULL=1 cargo test --test it errno_sweep:: -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::env::var_os;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Outcome, Random, Running, Sandbox, eventually, is_alive, is_held};

const ERRORS: [&str; 8] = ["ENOSYS", "EPERM", "EINTR", "EAGAIN", "ENOMEM", "EMFILE", "EIO", "ENOSPC"];

/// Number of faults for each command line, by default.
const SAMPLE: usize = 8;

/// The calls of one name in a loop over all processes are much alike.
const MOST: usize = 40;

/// System calls that always succeed, according to their manual pages.
const NEVER_FAIL: [&str; 12] = [
    "exit",
    "exit_group",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "rt_sigreturn",
    "umask",
    "uname",
];

/// Runs under the lock, and tries whether flock(1) gets it.
const WITNESS: &str = "flock -n \"$LOCKRUN_DIR/calc.lock\" true && echo unlocked >>witness; echo ran >>witness";

/// The state of the lock while the command runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Free,
    /// Held until the command waits for it, or has ended.
    HeldUntilWaiting,
    /// Held until the command has started.
    HeldAtFirst,
    /// Held until the command has ended.
    Held,
    /// Held for a token, which is the command's last word.
    Token,
}

/// An error of one system call: of each process of the command, the `nth` of that name.
struct Fault {
    call: String,
    nth: usize,
    error: &'static str,
}

impl Fault {
    fn injection(&self) -> String {
        let Self { call, nth, error } = self;
        match &call[..] {
            // brk(2) itself returns no error, but an end of the heap that is too low.
            "brk" => format!("inject={call}:retval=0:when={nth}"),
            _ => format!("inject={call}:error={error}:when={nth}"),
        }
    }
}

/// A command line and its sandbox.
struct Sweep<'a> {
    sandbox: Sandbox,
    words: &'a [&'a str],
    lock: Lock,
}

impl Sweep<'_> {
    /// One run, under strace(1) until the execve of COMMAND.
    fn run(&self, fault: Option<&Fault>) -> Result<(), &'static str> {
        for file in ["work/witness", "work/trace"] {
            let _ = fs::remove_file(self.sandbox.path(file));
        }
        let mut words = self.words.to_vec();
        let token = (self.lock == Lock::Token).then(|| self.sandbox.acquire(&["-l", "calc", "--expires", "1000"]));
        words.extend(token.as_deref());
        let is_held = matches!(self.lock, Lock::HeldUntilWaiting | Lock::HeldAtFirst | Lock::Held);
        let holder = is_held.then(|| self.sandbox.hold(&["-q", "-l", "calc"]));
        let inject = fault.map(Fault::injection);
        let inject: Vec<_> = inject.iter().flat_map(|inject| ["-e", inject]).collect();
        let only = fault.map(|fault| format!("trace=execve,{}", fault.call));
        let how = match &only {
            // Faster; but COMMAND could not go on without strace.
            Some(only) if !self.is_run() => ["--seccomp-bpf", "-e", only],
            _ => ["-q", "-b", "execve"],
        };
        let strace = [&how[..], &["-f", "-q", "-o", "trace"], &inject, &["lockrun"], &words].concat();
        let mut traced = self.sandbox.command("strace", &strace).start();
        if self.lock == Lock::HeldUntilWaiting {
            eventually("it waits or has ended", || traced.has_ended() || traced.is_waiting());
        }
        let (outcome, right) = if self.lock == Lock::Held {
            let outcome = traced.wait();
            let right = self.check_answer(&outcome);
            drop(holder);
            (outcome, right)
        } else {
            drop(holder);
            if self.words[0] == "acquire" { self.use_token(traced) } else { self.finish(traced) }
        };
        let ended = self.check_end(&outcome);
        if let Some(token) = token {
            self.sandbox.release(&token);
        }
        let result = right.and(ended);
        if result.is_err() {
            println!("{outcome:?}");
        }
        let file = self.sandbox.lock_file("calc");
        eventually("the lock is free", || !file.exists() || !crate::support::is_held(&file));
        result
    }

    fn trace(&self) -> String {
        fs::read_to_string(self.sandbox.path("work/trace")).unwrap_or_default()
    }

    fn is_run(&self) -> bool {
        self.words.ends_with(&["-c", WITNESS]) || self.words.ends_with(&["--", "true"])
    }

    fn finish(&self, traced: Running) -> (Outcome, Result<(), &'static str>) {
        let outcome = traced.wait();
        let right = self.check_answer(&outcome);
        (outcome, right)
    }

    /// The keeper of a token is traced as well: strace ends after the release.
    fn use_token(&self, mut traced: Running) -> (Outcome, Result<(), &'static str>) {
        let mut acquire_has_ended = || {
            let trace = self.trace();
            let pid = trace.split(' ').next().and_then(|pid| pid.parse().ok());
            traced.has_ended() || pid.is_some_and(|pid| !is_alive(pid))
        };
        eventually("acquire has ended", &mut acquire_has_ended);
        let token = traced.stdout();
        let checked = self.sandbox.check(token.trim()).code;
        let release = || self.sandbox.release(token.trim()).code;
        // The fault may be the keeper's, in an answer.
        let released = Some(release()).filter(|code| *code != Some(125)).unwrap_or_else(release);
        let outcome = traced.wait();
        let right = match outcome.code {
            // An answer to a release that was lost cannot be repeated.
            Some(0) if checked != Some(0) && released != Some(0) => Err("a token that holds nothing"),
            Some(1..) if released == Some(0) => Err("it failed, and left a token behind"),
            _ => Ok(()),
        };
        (outcome, right)
    }

    /// Whether what it said was true.
    fn check_answer(&self, outcome: &Outcome) -> Result<(), &'static str> {
        let is_held = || is_held(&self.sandbox.lock_file("calc"));
        match (self.words[0], outcome.code) {
            ("release" | "break", Some(0)) if is_held() => Err("the lock is held still"),
            ("release" | "check" | "renew", Some(123)) => Err("the token was good"),
            ("status", Some(0)) => Err("it said that the lock is free"),
            ("list", Some(0)) if outcome.stdout.contains("\"free\"") => Err("it said that the lock is free"),
            ("wait", Some(0)) if is_held() => Err("it did not wait"),
            _ => Ok(()),
        }
    }

    fn check_end(&self, outcome: &Outcome) -> Result<(), &'static str> {
        let trace = self.trace();
        let crashes = ["SEGV", "ABRT", "BUS", "ILL", "FPE", "TRAP", "SYS"];
        if crashes.iter().any(|signal| trace.contains(&format!("killed by SIG{signal}"))) {
            return Err("a process crashed");
        }
        if outcome.stderr.contains("panicked") {
            return Err("it panicked");
        }
        let witness = fs::read_to_string(self.sandbox.path("work/witness")).unwrap_or_default();
        if witness.contains("unlocked") {
            return Err("the command ran without the lock");
        }
        if self.words.ends_with(&["-c", WITNESS]) && outcome.code == Some(0) && witness != "ran\n" {
            return Err("success without the command");
        }
        let is_code = match outcome.code {
            Some(64..=73) => self.words[0] == "flock",
            code => matches!(code, Some(0 | 1 | 75 | 121..=127)),
        };
        if !is_code {
            return Err("an exit code without a meaning");
        }
        Ok(())
    }

    /// The names of the system calls of the last run, for each process.
    fn calls(&self) -> Vec<Vec<String>> {
        let trace = self.trace();
        let mut processes = BTreeMap::<&str, Vec<String>>::new();
        for line in trace.lines() {
            let Some((pid, call)) = line.split_once(' ') else { continue };
            let Some((name, _)) = call.trim_start().split_once('(') else { continue };
            if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                processes.entry(pid).or_default().push(name.to_owned());
            }
        }
        processes.into_values().collect()
    }

    /// All possible faults, except before `main`.
    fn faults(&self) -> Vec<Fault> {
        let version = Sweep { sandbox: Sandbox::new(), words: &["--version"], lock: Lock::Free };
        version.run(None).unwrap();
        let version = version.calls();
        self.run(None).unwrap();
        let mut numbers = BTreeMap::<String, (usize, usize)>::new();
        for calls in self.calls() {
            let is_first = calls.first().is_some_and(|call| call == "execve");
            let common = calls.iter().zip(&version[0]).take_while(|(one, other)| is_first && one == other).count();
            let mut counts = BTreeMap::<&String, usize>::new();
            for (at, call) in calls.iter().enumerate() {
                let count = counts.entry(call).or_default();
                *count += 1;
                let (start, end) = numbers.entry(call.clone()).or_default();
                *start = if at < common { (*start).max(*count) } else { *start };
                *end = (*end).max(*count);
            }
        }
        let mut faults = Vec::new();
        for (call, (start, end)) in numbers.iter().filter(|(call, _)| !NEVER_FAIL.contains(&call.as_str())) {
            for nth in start + 1..=*end.min(&(start + MOST)) {
                faults.extend(ERRORS.map(|error| Fault { call: call.clone(), nth, error }));
            }
        }
        faults
    }
}

fn sweep(words: &[&str], lock: Lock) {
    let sweep = Sweep { sandbox: Sandbox::new(), words, lock };
    let mut faults = sweep.faults();
    assert!(faults.len() > 40, "only {} faults of {words:?}", faults.len());
    if var_os("LOCKRUN_TEST_FULL").is_none() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut random = Random(now.subsec_nanos());
        faults = (0..SAMPLE.min(faults.len())).map(|_| faults.swap_remove(random.below(faults.len()))).collect();
    }
    let (mut wrong, mut hits) = (Vec::new(), 0);
    for fault in &faults {
        // What hangs makes the test panic.
        let result = catch_unwind(AssertUnwindSafe(|| sweep.run(Some(fault))));
        hits += usize::from(sweep.trace().contains("INJECTED"));
        if let Err(what) = result.unwrap_or(Err("it hangs")) {
            let Fault { call, nth, error } = fault;
            let what = format!("{call} {nth} {error}: {what}");
            println!("{what}");
            wrong.push(what);
        }
    }
    println!("{words:?}: {hits} of {} faults", faults.len());
    assert!(hits > faults.len() / 2, "{words:?}: only {hits} of {} faults were hit", faults.len());
    assert!(wrong.is_empty(), "{words:?}: {} of {} faults\n{}", wrong.len(), faults.len(), wrong.join("\n"));
}

#[test]
fn of_a_run() {
    sweep(&["-l", "calc", "-c", WITNESS], Lock::Free);
}

/// COMMAND may end before lockrun looks after it.
#[test]
fn of_a_short_run() {
    sweep(&["-l", "calc", "--", "true"], Lock::Free);
}

#[test]
fn of_a_short_run_that_waits() {
    sweep(&["-l", "calc", "--", "true"], Lock::HeldUntilWaiting);
}

#[test]
fn of_a_run_that_waits() {
    sweep(&["-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting);
}

#[test]
fn of_a_run_that_waits_and_shares() {
    sweep(&["-s", "--expires", "100", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting);
}

#[test]
fn of_a_run_of_a_tree() {
    sweep(&["--hold", "tree", "--expires", "100", "-l", "calc", "-c", WITNESS], Lock::Free);
}

#[test]
fn of_a_run_that_waits_for_a_slot() {
    sweep(&["--slots", "2", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting);
}

#[test]
fn of_a_run_that_waits_for_a_set() {
    sweep(&["-v", "-l", "other", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting);
}

#[test]
fn of_a_run_that_replaces() {
    sweep(&["--replace", "-t", "9", "-l", "calc", "-c", WITNESS], Lock::Held);
}

#[test]
fn of_a_file() {
    sweep(&["--file", "../locks/calc.lock", "-c", WITNESS], Lock::Free);
}

#[test]
fn of_flock() {
    sweep(&["flock", "../locks/calc.lock", "-c", WITNESS], Lock::HeldUntilWaiting);
}

#[test]
fn of_an_exec() {
    sweep(&["--exec", "-l", "calc", "-c", WITNESS], Lock::Free);
}

#[test]
fn of_an_exec_that_waits() {
    sweep(&["--exec", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting);
}

#[test]
fn of_acquire() {
    sweep(&["acquire", "-l", "calc", "--expires", "100"], Lock::Free);
}

#[test]
fn of_an_acquire_that_waits() {
    sweep(&["acquire", "-l", "calc", "--expires", "100"], Lock::HeldUntilWaiting);
}

#[test]
fn of_release() {
    sweep(&["release"], Lock::Token);
}

#[test]
fn of_check() {
    sweep(&["check", "--json"], Lock::Token);
}

#[test]
fn of_renew() {
    sweep(&["renew", "--expires", "200"], Lock::Token);
}

#[test]
fn of_list() {
    sweep(&["list", "--json"], Lock::Held);
}

#[test]
fn of_status() {
    sweep(&["status", "calc"], Lock::Held);
}

#[test]
fn of_wait() {
    sweep(&["wait", "calc"], Lock::HeldAtFirst);
}

#[test]
fn of_break() {
    sweep(&["break", "calc"], Lock::Held);
}

#[test]
fn of_prune() {
    sweep(&["prune"], Lock::Free);
}
