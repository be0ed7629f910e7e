//! Scripts to copy. Each is run to its end, beside itself, and killed.

use crate::support::{Invocation, Outcome, Running, Sandbox, eventually, holder_of, is_alive, is_held};

/// A script that locks itself in one line, instead of `exec 9>f; flock -n 9 ||
/// exit`. Killed, also with -9: the lock is free at once.
const LOCKS_ITSELF: &str = r#"#!/bin/sh
lockrun acquire --name nightly --timeout 0 --owner $$ >/dev/null || exit $?

work
"#;

/// bash: gives back at every end of the script, and does not swallow 123.
/// Killed with TERM or INT: the trap gives back. With -9: --owner does.
const BASH_TRAP: &str = r#"#!/bin/bash
token=$(lockrun acquire --name nightly --timeout 10 --owner $$) || exit $?
trap 'code=$?; lockrun release "$token" || code=$?; exit $code' EXIT

work
"#;

/// POSIX sh: EXIT traps of some shells (dash) do not run when a signal ends
/// them, so signals are made an exit. Killed with -9: --owner gives back.
const POSIX_SH: &str = r#"#!/bin/sh
token=$(lockrun acquire --name nightly --timeout 10 --owner $$) || exit $?
trap 'code=$?; trap - EXIT; lockrun release "$token" || code=$?; exit $code' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

work
"#;

/// Work that a test steers: it says that it began, and ends as the first line
/// of its input says, or when it has no input any more.
const WORK: &str = "#!/bin/sh\necho working; read -r code; exit ${code:-0}\n";

struct Recipe {
    sandbox: Sandbox,
    interpreter: &'static str,
}

impl Recipe {
    fn new(interpreter: &'static str, script: &str) -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("work/script", script);
        sandbox.write("bin/work", WORK);
        sandbox.sh("chmod +x ../bin/work").run().assert_code(0);
        Self { sandbox, interpreter }
    }

    fn invocation(&self) -> Invocation {
        self.sandbox.command(self.interpreter, &["script"])
    }

    /// Started, and in the middle of its work.
    fn working(&self) -> Running {
        self.invocation().input("").start().until_says("working")
    }

    fn assert_held(&self) {
        assert!(is_held(&self.sandbox.lock_file("nightly")));
    }

    #[track_caller]
    fn assert_free(&self) {
        self.sandbox.assert_free("nightly");
    }

    #[track_caller]
    fn eventually_free(&self) {
        eventually("the lock is free", || !is_held(&self.sandbox.lock_file("nightly")));
    }
}

fn all() -> [Recipe; 4] {
    [("dash", LOCKS_ITSELF), ("bash", BASH_TRAP), ("dash", POSIX_SH), ("bash", POSIX_SH)]
        .map(|(interpreter, script)| Recipe::new(interpreter, script))
}

#[test]
fn a_script_holds_the_lock_while_it_works_and_passes_the_code_on() {
    for recipe in all() {
        for (input, code) in [("0\n", 0), ("3\n", 3)] {
            let running = recipe.working();
            recipe.assert_held();
            drop(running);
            recipe.eventually_free();
            recipe.invocation().input(input).run().assert_code(code).assert_stdout("working\n");
            recipe.eventually_free();
        }
    }
}

#[test]
fn a_second_one_does_not_run_beside_it() {
    let recipe = Recipe::new("dash", LOCKS_ITSELF);
    let _first = recipe.working();
    let second: Outcome = recipe.invocation().run();
    second.assert_code(75).assert_stdout("").assert_one_line(&["nightly", "busy"]);
}

#[test]
fn a_second_one_waits_as_long_as_it_says() {
    for (interpreter, script) in [("bash", BASH_TRAP), ("dash", POSIX_SH)] {
        let recipe = Recipe::new(interpreter, script);
        let first = recipe.working();
        let second = recipe.invocation().start().until_waiting();
        first.wait().assert_code(0);
        second.wait().assert_code(0).assert_stdout("working\n");
        recipe.assert_free();
    }
}

#[test]
fn killed_with_9_the_script_keeps_no_lock() {
    for recipe in all() {
        let running = recipe.working();
        running.signal(libc::SIGKILL);
        recipe.eventually_free();
    }
}

#[test]
fn ended_by_a_signal_the_script_keeps_no_lock() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        for recipe in all() {
            let running = recipe.working();
            running.signal_group(signal);
            let outcome = running.wait();
            assert_ne!(outcome.code, Some(0), "{outcome:?}");
            recipe.eventually_free();
        }
    }
}

#[test]
fn a_trap_does_not_swallow_that_the_lock_was_lost() {
    for (interpreter, script) in [("bash", BASH_TRAP), ("dash", POSIX_SH), ("bash", POSIX_SH)] {
        let recipe = Recipe::new(interpreter, script);
        let running = recipe.working();
        let holder = holder_of(&recipe.sandbox.lock_file("nightly"));
        // SAFETY: kill has no memory effects; the holder lives.
        unsafe { libc::kill(holder, libc::SIGKILL) };
        eventually("the holder ends", || !is_alive(holder));
        running.wait().assert_code(123).assert_one_line(&["nightly", "lost"]);
    }
}

/// A recipe line runs in a shell of its own, and the lock ends with it; for
/// several lines, `.ONESHELL:` or `\`. Killed: make ends the shell, and the
/// lock ends with it. (For one command, `lockrun -l deploy -- command`.)
const MAKEFILE: &str = r#"
deploy:
	@token=$$(lockrun acquire --name nightly --timeout 10 --owner $$$$) || exit $$?; \
	work && \
	lockrun release "$$token"
"#;

#[test]
fn a_makefile_holds_the_lock_over_a_recipe() {
    let recipe = Recipe::new("make", "");
    recipe.sandbox.write("work/Makefile", MAKEFILE);
    let make = || recipe.sandbox.command("make", &["-s", "deploy"]).input("").start().until_says("working");
    let running = make();
    recipe.assert_held();
    running.wait().assert_code(0).assert_silent();
    recipe.assert_free();
    let killed = make();
    killed.signal_group(libc::SIGTERM);
    killed.wait();
    recipe.eventually_free();
}

/// A CI job of several steps, each a shell of its own. The token goes through
/// the file that the system passes on to later steps ($GITHUB_ENV). Cancelled:
/// the runner finds the holder by RUNNER_TRACKING_ID and kills it; if even
/// that does not happen, the lock ends with --expires.
const CI_STEPS: [&str; 3] = [
    r#"token=$(lockrun acquire --name nightly --timeout 10m --expires 1h) || exit $?
       echo "LOCKRUN_TOKEN=$token" >>"$GITHUB_ENV""#,
    "lockrun renew --expires 1h && work",
    // if: always()
    "lockrun release",
];

#[test]
fn a_ci_job_holds_the_lock_over_several_steps() {
    let recipe = Recipe::new("sh", "");
    let file = recipe.sandbox.write("work/github_env", "");
    let step = |number: usize| {
        let environment = std::fs::read_to_string(&file).unwrap();
        let mut step = recipe.sandbox.sh(CI_STEPS[number]).env("GITHUB_ENV", &file).env("RUNNER_TRACKING_ID", "x");
        for line in environment.lines() {
            let (name, value) = line.split_once('=').unwrap();
            step = step.env(name, value);
        }
        step.run()
    };
    step(0).assert_code(0).assert_silent();
    recipe.assert_held();
    step(1).assert_code(0).assert_stdout("working\n");
    recipe.assert_held();
    step(2).assert_code(0).assert_silent();
    recipe.assert_free();
    step(2).assert_code(123);
}

/// In a crontab. Nothing is said when it still runs; what went wrong otherwise
/// is in cron's mail. Killed: the lock ends with the shell.
const CRON: &str = "lockrun acquire -n -q -E 1 -l nightly --owner $$ >/dev/null || exit 0; work";

#[test]
fn a_cron_job_skips_its_turn_quietly() {
    let recipe = Recipe::new("sh", CRON);
    let running = recipe.working();
    // As cron starts it: no environment to speak of, no terminal.
    let dir = recipe.sandbox.locks();
    let cron = format!("cd /; exec env -i PATH=\"$PATH\" LOCKRUN_DIR={} /bin/sh -c '{CRON}'", dir.display());
    recipe.sandbox.sh(&cron).run().assert_code(0).assert_stdout("").assert_silent();
    running.signal(libc::SIGKILL);
    recipe.eventually_free();
    recipe.sandbox.sh(&cron).run().assert_code(0).assert_stdout("working\n").assert_silent();
}
