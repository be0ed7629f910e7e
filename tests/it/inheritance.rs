//! What COMMAND inherits is what it would have without lockrun: signals,
//! descriptors. What the caller did to its signals changes nothing.

use crate::support::{Invocation, Running, Sandbox};
use std::fs;

/// Every way to come to COMMAND: options, and whether the lock has to be waited
/// for.
const WAYS: [(&[&str], bool); 6] = [
    (&[], false),
    (&["--exec"], false),
    (&[], true),
    (&["-t", "100"], true),
    (&["--exec"], true),
    (&["--exec", "-t", "100"], true),
];

/// Says its mask and dispositions.
const SIGNALS: [&str; 3] = ["grep", "^Sig[BIC]", "/proc/self/status"];

/// Says what is behind its first ten descriptors.
const DESCRIPTORS: &str = "for n in 0 1 2 3 4 5 6 7 8 9; do readlink /proc/$$/fd/$n >>seen || echo none >>seen; done";

/// Runs lockrun in one of the [`WAYS`].
fn by_way(sandbox: &Sandbox, (options, waits): (&[&str], bool), run: impl FnOnce(&[&str]) -> Invocation) -> Running {
    let holder = waits.then(|| sandbox.hold(&["-l", "calc"]));
    let invocation = run(&[options, &["-l", "calc", "--"]].concat());
    let Some(holder) = holder else {
        return invocation.start();
    };
    let running = invocation.start().until_waiting();
    holder.release();
    running
}

#[test]
fn the_command_gets_the_callers_signal_mask_and_dispositions() {
    let prepared: [(&str, fn()); 5] = [
        ("nothing", || {}),
        ("SIGCHLD ignored", || ignore(libc::SIGCHLD)),
        ("SIGALRM blocked", || block([libc::SIGALRM])),
        ("everything blocked", || block(1..=libc::SIGRTMAX())),
        ("everything ignored", || (1..=libc::SIGRTMAX()).for_each(ignore)),
    ];
    for (what, prepare) in prepared {
        let sandbox = Sandbox::new();
        let expected = sandbox.command(SIGNALS[0], &SIGNALS[1..]).before_exec(prepare).run();
        for way in WAYS {
            let run = |args: &[&str]| sandbox.lockrun(&[args, &SIGNALS].concat()).before_exec(prepare);
            let outcome = by_way(&sandbox, way, run).wait();
            outcome.assert_code(0).assert_silent();
            assert_eq!(outcome.stdout, expected.stdout, "{what}, {way:?}");
        }
    }
}

#[test]
fn what_the_caller_blocks_or_ignores_changes_no_outcome() {
    let prepared: [fn(); 3] =
        [|| ignore(libc::SIGCHLD), || block([libc::SIGALRM, libc::SIGCHLD]), || block(1..=libc::SIGRTMAX())];
    for prepare in prepared {
        let sandbox = Sandbox::new();
        let run = |args: &[&str]| sandbox.lockrun(args).before_exec(prepare).run();
        run(&["-l", "calc", "-c", "exit 7"]).assert_code(7).assert_silent();
        run(&["-l", "calc", "-c", "kill -KILL $$"]).assert_signal(libc::SIGKILL);
        run(&["-l", "calc", "--expires", "0.05", "--kill-after", "0.05", "--", "sleep", "1000"]).assert_code(123);
        let _holder = sandbox.hold(&["-l", "calc"]);
        run(&["-l", "calc", "-t", "0.05", "--", "true"]).assert_code(124);
        run(&["-l", "calc", "--exec", "-t", "0.05", "--", "true"]).assert_code(124);
    }
}

#[test]
fn the_command_sees_the_descriptors_of_the_caller() {
    for redirections in ["", "<&-", ">&-", "<&- >&-", "<&- >&- 2>&-", "3</dev/null 9</dev/zero", "2>&- 5<&0"] {
        for way in WAYS {
            let sandbox = Sandbox::new();
            sandbox.write("work/look", DESCRIPTORS);
            let shell = |command: &str| sandbox.sh(&format!("{command} sh ./look {redirections}"));
            by_way(&sandbox, way, |args| shell(&format!("lockrun {}", args.join(" ")))).wait().assert_code(0);
            let seen = seen(&sandbox);
            // Once more in the same place, for the same names of output files.
            let number = |text: &str| text.replace(char::is_numeric, "");
            shell("").run().assert_code(0);
            assert_eq!(number(&seen), number(&self::seen(&sandbox)), "{redirections}, {way:?}");
        }
    }
}

fn seen(sandbox: &Sandbox) -> String {
    let path = sandbox.path("work/seen");
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(path).unwrap();
    text
}

#[test]
fn no_message_is_written_into_a_lock_file() {
    for (redirections, options) in [("2>&-", "-v"), ("<&- >&- 2>&-", "-v"), ("<&- >&-", "-q"), ("2>&-", "--exec")] {
        let sandbox = Sandbox::new();
        let script = format!("lockrun {options} -l calc -- /no/such/command {redirections}");
        sandbox.sh(&script).run().assert_code(127);
        let text = fs::read_to_string(sandbox.lock_file("calc")).unwrap();
        assert!(!text.contains("lockrun: "), "{script}: {text}");
    }
}

#[test]
fn the_locks_descriptor_is_none_that_scripts_use() {
    for limit in ["", "ulimit -n 40;"] {
        for way in WAYS {
            let sandbox = Sandbox::new();
            sandbox.write("work/look", DESCRIPTORS);
            let run = |args: &[&str]| sandbox.sh(&format!("{limit} exec lockrun {} sh ./look", args.join(" ")));
            by_way(&sandbox, way, run).wait().assert_code(0);
            let seen = seen(&sandbox);
            assert!(!seen.contains(".lock"), "{limit} {way:?}: {seen}");
        }
    }
}

fn ignore(signal: i32) {
    // SAFETY: async-signal-safe; without effect for signals that cannot be ignored.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

fn block(signals: impl IntoIterator<Item = i32>) {
    // SAFETY: async-signal-safe calls on a local set, which is initialised first.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
