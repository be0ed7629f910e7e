//! Each system call of each command fails once, with each of these errors: COMMAND never
//! runs without the lock, nothing hangs, crashes or gives a wrong answer, and the lock is
//! free in the end. `kill_points` does the same with kill -9 instead of an error.
//!
//! By default a sample of the faults, another one in each run; with `LOCKRUN_TEST_FULL=1`,
//! all of them: `make sweep`.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::campaign::size;
use crate::support::{Outcome, Random, Running, Sandbox, eventually, is_alive, is_held};

const ERRORS: [&str; 8] = ["ENOSYS", "EPERM", "EINTR", "EAGAIN", "ENOMEM", "EMFILE", "EIO", "ENOSPC"];

/// Number of errors and of kills for each command line, by default.
const SAMPLE: [usize; 2] = [8, 2];

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
pub const WITNESS: &str = "flock -n \"$LOCKRUN_DIR/calc.lock\" true && echo unlocked >>witness; echo ran >>witness";

/// The state of the lock while the command runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lock {
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

/// What happens at a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    Error,
    Kill,
}

/// A fault at one system call: of each process of the command, the `nth` of that name.
struct Fault {
    call: String,
    nth: usize,
    /// None: kill -9.
    error: Option<&'static str>,
}

impl Fault {
    fn injection(&self) -> String {
        let Self { call, nth, error } = self;
        match (&call[..], error) {
            (_, None) => format!("inject={call}:signal=KILL:when={nth}"),
            // brk(2) itself returns no error, but an end of the heap that is too low.
            ("brk", _) => format!("inject={call}:retval=0:when={nth}"),
            (_, Some(error)) => format!("inject={call}:error={error}:when={nth}"),
        }
    }
}

/// A command line and its sandbox.
struct Sweep<'a> {
    sandbox: Sandbox,
    words: &'a [&'a str],
    lock: Lock,
    harm: Harm,
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
        let starts_held = matches!(self.lock, Lock::HeldUntilWaiting | Lock::HeldAtFirst | Lock::Held);
        let holder = starts_held.then(|| self.sandbox.hold(&["-q", "-l", "calc"]));
        let inject = fault.map(Fault::injection);
        let inject: Vec<_> = inject.iter().flat_map(|inject| ["-e", inject]).collect();
        let only = fault.map(|fault| format!("trace=execve,{}", fault.call));
        let how = match &only {
            // Faster; but COMMAND could not go on without strace, and strace sends no signals.
            Some(only) if !self.is_run() && self.harm == Harm::Error => ["--seccomp-bpf", "-e", only],
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
        if let Some(token) = token {
            self.sandbox.release(&token);
        }
        let file = self.sandbox.lock_file("calc");
        eventually("the lock is free", || !file.exists() || !is_held(&file));
        // A COMMAND that outlived its lockrun has ended by now.
        let result = right.and(self.check_end(&outcome)).and(self.check_next(fault));
        if result.is_err() {
            println!("{outcome:?}");
        }
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
            // The keeper may be dead by now.
            Some(0) if self.harm == Harm::Kill => Ok(()),
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
        if self.is_killed(outcome) {
            return Ok(());
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

    fn is_killed(&self, outcome: &Outcome) -> bool {
        self.harm == Harm::Kill && outcome.signal == Some(libc::SIGKILL)
    }

    /// After a kill, the next call gets the lock at once.
    fn check_next(&self, fault: Option<&Fault>) -> Result<(), &'static str> {
        let next = || self.sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run();
        if self.harm == Harm::Kill && fault.is_some() && next().code != Some(0) {
            return Err("the next call does not get the lock");
        }
        Ok(())
    }

    /// Whether the fault of the last run came to pass.
    fn has_hit(&self) -> bool {
        let mark = if self.harm == Harm::Kill { "killed by SIGKILL" } else { "INJECTED" };
        self.trace().contains(mark)
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

    /// All possible faults, except for errors before `main`.
    fn faults(&self) -> Vec<Fault> {
        let version = Sweep { sandbox: Sandbox::new(), words: &["--version"], lock: Lock::Free, harm: Harm::Error };
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
        for (call, (start, end)) in numbers {
            match self.harm {
                Harm::Kill => {
                    // The first execve is strace's.
                    let first = 1 + usize::from(call == "execve");
                    faults.extend((first..=end).map(|nth| Fault { call: call.clone(), nth, error: None }));
                }
                Harm::Error if NEVER_FAIL.contains(&call.as_str()) => {}
                Harm::Error => {
                    for nth in start + 1..=end.min(start + MOST) {
                        faults.extend(ERRORS.map(|error| Fault { call: call.clone(), nth, error: Some(error) }));
                    }
                }
            }
        }
        faults
    }
}

pub fn sweep(words: &[&str], lock: Lock, harm: Harm) {
    let sweep = Sweep { sandbox: Sandbox::new(), words, lock, harm };
    let mut faults = sweep.faults();
    assert!(faults.len() > 10, "only {} faults of {words:?}", faults.len());
    let sample = size(SAMPLE[harm as usize], faults.len());
    if sample < faults.len() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut random = Random(now.subsec_nanos());
        faults = (0..sample).map(|_| faults.swap_remove(random.below(faults.len()))).collect();
    }
    let (mut wrong, mut hits) = (Vec::new(), 0);
    for fault in &faults {
        // What hangs makes the test panic.
        let result = catch_unwind(AssertUnwindSafe(|| sweep.run(Some(fault))));
        hits += usize::from(sweep.has_hit());
        if let Err(what) = result.unwrap_or(Err("it hangs")) {
            let Fault { call, nth, error } = fault;
            let what = format!("{call} {nth} {}: {what}", error.unwrap_or("KILL"));
            println!("{what}");
            wrong.push(what);
        }
    }
    let kind = ["errors", "kills"][harm as usize];
    let line = words.join(" ").replace(WITNESS, "COMMAND");
    println!("summary: lockrun {line}: {hits} {kind}, {} missed, {} wrong", faults.len() - hits, wrong.len());
    assert!(hits > faults.len() / 3, "{words:?}: only {hits} of {} {kind} were hit", faults.len());
    assert!(wrong.is_empty(), "{words:?}: {} of {} {kind}\n{}", wrong.len(), faults.len(), wrong.join("\n"));
}

/// Every command, with the lock in the state that makes it do the most.
macro_rules! of_every_command {
    ($harm:expr) => {
        #[test]
        fn of_a_run() {
            sweep(&["-l", "calc", "-c", WITNESS], Lock::Free, $harm);
        }

        /// COMMAND may end before lockrun looks after it.
        #[test]
        fn of_a_short_run() {
            sweep(&["-l", "calc", "--", "true"], Lock::Free, $harm);
        }

        #[test]
        fn of_a_short_run_that_waits() {
            sweep(&["-l", "calc", "--", "true"], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_a_run_that_waits() {
            sweep(&["-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_a_run_that_waits_and_shares() {
            sweep(&["-s", "--expires", "100", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_a_run_of_a_tree() {
            sweep(&["--hold", "tree", "--expires", "100", "-l", "calc", "-c", WITNESS], Lock::Free, $harm);
        }

        #[test]
        fn of_a_run_that_waits_for_a_slot() {
            sweep(&["--slots", "2", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_a_run_that_waits_for_a_set() {
            sweep(&["-v", "-l", "other", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_a_run_that_replaces() {
            sweep(&["--replace", "-t", "9", "-l", "calc", "-c", WITNESS], Lock::Held, $harm);
        }

        #[test]
        fn of_a_file() {
            sweep(&["--file", "../locks/calc.lock", "-c", WITNESS], Lock::Free, $harm);
        }

        #[test]
        fn of_flock() {
            sweep(&["flock", "../locks/calc.lock", "-c", WITNESS], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_an_exec() {
            sweep(&["--exec", "-l", "calc", "-c", WITNESS], Lock::Free, $harm);
        }

        #[test]
        fn of_an_exec_that_waits() {
            sweep(&["--exec", "-l", "calc", "-c", WITNESS], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_acquire() {
            sweep(&["acquire", "-l", "calc", "--expires", "100"], Lock::Free, $harm);
        }

        #[test]
        fn of_an_acquire_that_waits() {
            sweep(&["acquire", "-l", "calc", "--expires", "100"], Lock::HeldUntilWaiting, $harm);
        }

        #[test]
        fn of_release() {
            sweep(&["release"], Lock::Token, $harm);
        }

        #[test]
        fn of_check() {
            sweep(&["check", "--json"], Lock::Token, $harm);
        }

        #[test]
        fn of_renew() {
            sweep(&["renew", "--expires", "200"], Lock::Token, $harm);
        }

        #[test]
        fn of_list() {
            sweep(&["list", "--json"], Lock::Held, $harm);
        }

        #[test]
        fn of_status() {
            sweep(&["status", "calc"], Lock::Held, $harm);
        }

        #[test]
        fn of_wait() {
            sweep(&["wait", "calc"], Lock::HeldAtFirst, $harm);
        }

        #[test]
        fn of_break() {
            sweep(&["break", "calc"], Lock::Held, $harm);
        }

        #[test]
        fn of_prune() {
            sweep(&["prune"], Lock::Free, $harm);
        }
    };
}
pub(crate) use of_every_command;

of_every_command!(Harm::Error);
