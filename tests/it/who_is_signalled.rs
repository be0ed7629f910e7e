//! Which processes `break`, `--replace` and `--expires` signal: by the locks that the
//! kernel shows, never by a name or a parent. COMMAND is only ended by TERM.

use crate::support::{
    Form, Running, Sandbox, children, end_of_stubborn, eventually, holder_of, is_alive, is_held, status_field,
    stubborn_holder,
};
use std::fs;

/// A process that calls itself `name`, does `setup` to the file of `calc`, and
/// says `ready`.
fn impostor(name: &str, setup: &str, file: &str) -> String {
    format!(
        "python3 -c 'import fcntl, signal, struct, sys
open(\"/proc/self/comm\", \"w\").write(\"{name}\")
file = open(\"{file}\", \"r+\"); {setup}
print(\"ready\", flush=True); signal.pause()'"
    )
}

/// Shell text that records each signal that it gets, until its children end.
const RECORDS_SIGNALS: &str = "for signal in TERM INT HUP USR1 40 50 58 59 60 61 62 63; do
    trap \"echo $signal >>signalled\" $signal; done";

/// strace(1) that holds a process up in this system call, which it makes because
/// of `what`, until it gets TERM.
#[track_caller]
fn held_up_in(sandbox: &Sandbox, pid: i32, call: &str, what: impl FnOnce()) -> Running {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:delay_enter=100s:when=1"));
    let words = ["-o", "trace", "-e", &trace, "-e", &inject, "-p", &pid.to_string()];
    let tracer = sandbox.command("strace", &words).start();
    eventually("strace is there", || tracer.stderr().contains("attached"));
    what();
    eventually(&format!("it is held up in {call}"), || {
        fs::read_to_string(sandbox.path("work/trace")).unwrap_or_default().contains(call)
    });
    tracer
}

#[test]
fn a_waiter_that_has_become_the_command_gets_term() {
    let script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    for form in [&["--exec"] as &[&str], &[]] {
        let sandbox = Sandbox::new();
        let holder = stubborn_holder(&sandbox, &["-l", "calc"]);
        let waiter = sandbox.lockrun(&[form, &["--replace", "-l", "calc", "-c", script]].concat()).start();
        let waiter = waiter.until_waiting();
        let script = "kill -STOP $$; exec lockrun --replace -l calc -- true";
        let newer = sandbox.sh(script).start();
        eventually("it is stopped", || status_field(newer.pid(), "State").starts_with('T'));
        // It has found the older one waiting when it is held up.
        let tracer = held_up_in(&sandbox, newer.pid(), "pidfd_send_signal", || newer.signal(libc::SIGCONT));
        end_of_stubborn(holder).assert_code(123);
        let waiter = waiter.until_says("ready");
        tracer.signal(libc::SIGTERM);
        let outcome = waiter.wait();
        outcome.assert_stdout("ready\nterm\n");
        match form {
            [] => outcome.assert_code(123).assert_stderr_has(&["calc", "replaced by pid"]),
            _ => outcome.assert_code(3),
        };
        newer.wait().assert_code(0);
        tracer.wait();
    }
}

/// Neither for its name nor for that of its child.
#[test]
fn the_parent_of_a_holder_is_left_alone_whatever_its_name() {
    for name in ["lockrun-waiter", "lockrun-keeper", "lockrun"] {
        let sandbox = Sandbox::new();
        sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
        let file = sandbox.lock_file("calc").display().to_string();
        let child = impostor(name, "fcntl.flock(file, fcntl.LOCK_EX)", &file);
        let script = format!("{RECORDS_SIGNALS}; {child} & while wait; [ $? -gt 128 ] && kill -0 $!; do :; done");
        let parent = sandbox.sh(&script).start().until_says("ready");
        sandbox.lockrun(&["break", "calc"]).run().assert_code(0);
        parent.wait();
        assert!(!sandbox.path("work/signalled").exists(), "{name}");
    }
}

/// The lockrun around `inner` is killed in the moment in which its child becomes
/// COMMAND; that has another lockrun for its parent then.
#[test]
fn a_lockrun_that_adopted_another_child_is_left_alone() {
    let sandbox = Sandbox::new();
    let inner = sandbox.hold(&["-l", "inner"]);
    let script = "lockrun -l inner -- sleep 1000 & echo started; wait; read line";
    let outer = sandbox.lockrun(&["-l", "outer", "-c", script]).input("").start().until_says("started").until_waiting();
    let shell = children(outer.pid())[0];
    let wrapper = children(shell)[0];
    let waiter = children(wrapper)[0];
    let tracer = held_up_in(&sandbox, waiter, "execve", || drop(inner.release()));
    // SAFETY: kill has no memory effects; a descendant of ours.
    unsafe { libc::kill(wrapper, libc::SIGKILL) };
    eventually("the outer lockrun has its child", || status_field(waiter, "PPid") == outer.pid().to_string());
    let breaker = sandbox.lockrun(&["break", "inner"]).start();
    eventually("it was asked", || {
        let pending = |field| u64::from_str_radix(&status_field(waiter, field), 16).unwrap_or(0);
        (pending("SigPnd") | pending("ShdPnd")) >> (libc::SIGTERM - 1) & 1 == 1
    });
    tracer.signal(libc::SIGTERM);
    breaker.wait().assert_code(0);
    assert!(!is_alive(waiter));
    outer.wait().assert_code(1).assert_silent();
}

#[test]
fn a_false_token_holder_is_ended_with_the_tree() {
    let setup = "fcntl.flock(file, fcntl.LOCK_EX)";
    for hold in ["command", "tree"] {
        let sandbox = Sandbox::new();
        let other = sandbox.write("work/other", "").display().to_string();
        let script = format!("{} & echo $! >pid; wait", impostor("lockrun-keeper", setup, &other));
        let words = ["-l", "calc", "--expires", "0.5", "--hold", hold, "-c", &script];
        sandbox.lockrun(&words).run().assert_code(123);
        let impostor = fs::read_to_string(sandbox.path("work/pid")).unwrap().trim().parse().unwrap();
        assert!(!is_alive(impostor), "{hold}");
    }
}

#[test]
fn a_tokens_holder_is_spared() {
    let sandbox = Sandbox::new();
    let script = "lockrun acquire -l other --expires 1000 >token; exec sleep 1000";
    sandbox.lockrun(&["-l", "calc", "--expires", "1", "-c", script]).run().assert_code(123);
    let token = fs::read_to_string(sandbox.path("work/token")).unwrap();
    sandbox.check(token.trim()).assert_code(0);
    assert!(is_alive(holder_of(&sandbox.lock_file("other"))));
    sandbox.release(token.trim()).assert_code(0);
}

/// Anybody can put a mark for any process on the queue.
#[test]
fn a_false_claim_of_replace_does_not_end_a_waiter() {
    let sandbox = Sandbox::new();
    let holder = Form::Run.hold(&sandbox, &["-l", "calc"]);
    let patient = sandbox.lockrun(&["-l", "calc", "-c", "echo got it"]).start().until_waiting();
    // The mark of the first ticket, as a wrapper would make it for itself.
    let mark = format!("fcntl.fcntl(file, 37, struct.pack(\"hhqqi4x\", 1, 0, 4 << 59, {} + 2, 0))", patient.pid());
    let forger = impostor("python3", &mark, &sandbox.lock_file("calc").display().to_string());
    let forger = sandbox.sh(&forger).start().until_says("ready");
    let replacer = sandbox.lockrun(&["--replace", "-l", "calc", "--", "true"]).start();
    holder.end().assert_code(123);
    patient.wait().assert_code(0).assert_stdout("got it\n");
    replacer.wait().assert_code(0);
    drop(forger);
}

/// It shares the lock, and its child waits for a slot: but it holds what it has.
#[test]
fn the_parent_of_a_waiter_can_be_a_holder() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    let file = sandbox.lock_file("calc").display().to_string();
    let script = "import fcntl, subprocess, sys
file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH)
child = subprocess.Popen(['lockrun', '-t', '50', '-l', 'calc', '--', 'true']); print('ready', flush=True)
child.wait()";
    let holder = sandbox.command("python3", &["-c", script, &file]).start().until_says("ready").until_waiting();
    assert_eq!(sandbox.list(&["calc"])[0]["holders"].as_array().unwrap().len(), 1);
    sandbox.lockrun(&["break", "calc", "--kill-after", "1"]).run().assert_code(0);
    holder.wait().assert_signal(libc::SIGTERM);
    assert!(!is_held(&sandbox.lock_file("calc")));
}

/// Its program was replaced by another version meanwhile.
#[test]
fn a_lockrun_is_recognised_after_an_upgrade() {
    let sandbox = Sandbox::new();
    let program = sandbox.make_dir("work/installed", 0o755).join("lockrun");
    let install = || {
        let new = program.with_extension("new");
        fs::copy(sandbox.path("bin/lockrun"), &new).unwrap();
        fs::rename(&new, &program).unwrap();
    };
    install();
    // TERM comes from its own lockrun alone, so once.
    let script = "trap 'echo term' TERM; echo holding; until [ -e go ]; do sleep 0.01; done";
    let words = ["--kill-after", "1000", "-l", "calc", "-c", script];
    let holder = sandbox.command(&program, &words).start().until_says("holding");
    install();
    let breaker = sandbox.command(&program, &["break", "--kill-after", "1000", "calc"]).start();
    let holder = holder.until_says("term");
    sandbox.write("work/go", "");
    holder.wait().assert_code(123).assert_stdout("holding\nterm\n").assert_stderr_has(&["broken by pid"]);
    breaker.wait().assert_code(0).assert_silent();
}

/// A signal that says so could reach COMMAND.
#[test]
fn the_parent_learns_of_the_grant_without_a_signal() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let lockrun = sandbox.path("bin/lockrun").display().to_string();
    let trace = ["-f", "-o", "trace", "-e", "trace=kill,tgkill,tkill,rt_sigqueueinfo,pidfd_send_signal,execve"];
    let words = [&trace as &[&str], &[&lockrun, "-v", "-l", "calc", "--expires", "100", "--", "true"]].concat();
    let waiter: Running = sandbox.command("strace", &words).start().until_waiting();
    holder.release();
    waiter.wait().assert_code(0);
    let trace = fs::read_to_string(sandbox.path("work/trace")).unwrap();
    assert!(trace.contains("execve("), "{trace}");
    assert!(!trace.lines().any(|line| line.contains("kill(") || line.contains("sig")), "{trace}");
}
