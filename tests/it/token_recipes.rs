//! The scripts with tokens that docs/recipes.md and the manual show, each with its
//! `recipe` key, as they stand there: run to their end, beside themselves, and
//! killed.

use crate::support::{Example, Invocation, Running, Sandbox, eventually, holder_of, is_alive, is_held};
use std::collections::BTreeSet;

const TEXTS: [&str; 2] = ["docs/recipes.md", "man/lockrun-acquire.1"];

/// Those that hold the lock `nightly` until they end.
const SCRIPTS: [&str; 5] = ["one line", "bash trap", "posix sh", "makefile", "cron"];

/// Work that a test steers: it says that it began, and ends as the first line
/// of its input says, or when it has no input any more.
const WORK: &str = "#!/bin/sh\necho working; read -r code; exit ${code:-0}\n";

struct Recipe {
    sandbox: Sandbox,
    example: Example,
    /// What runs it, and with which words.
    command: Vec<String>,
}

/// The recipe of this name, from each of the texts and in each of its shells.
#[track_caller]
fn recipes(name: &str) -> Vec<Recipe> {
    let examples = TEXTS.iter().flat_map(|text| Example::all_in(text));
    let recipes: Vec<_> = examples.filter(|example| example.one("recipe") == Some(name)).flat_map(in_shells).collect();
    let texts: BTreeSet<_> = recipes.iter().filter_map(|recipe| recipe.example.place.split(':').next()).collect();
    assert_eq!(texts.len(), TEXTS.len(), "{name} stands in {texts:?} only");
    recipes
}

fn in_shells(example: Example) -> Vec<Recipe> {
    let commands: &[&[&str]] = match example.language.as_str() {
        "sh" => &[&["dash", "script"], &["bash", "script"]],
        "bash" => &[&["bash", "script"]],
        "make" => &[&["make", "-sf", "script"]],
        // As cron starts it.
        "crontab" => &[&["/bin/sh", "-c"]],
        "yaml" => &[&["/bin/sh", "-ec"]],
        other => panic!("{}: nobody runs {other:?}", example.place),
    };
    commands.iter().map(|command| Recipe::new(example.clone(), command)).collect()
}

impl Recipe {
    fn new(example: Example, command: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("work/script", &example.text);
        for stub in example.all("stubs").iter().flat_map(|stubs| stubs.split(' ')) {
            sandbox.write(&format!("bin/{stub}"), WORK);
            sandbox.sh(&format!("chmod +x ../bin/{stub}")).run().assert_code(0);
        }
        let mut command: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
        if example.language == "crontab" {
            command.extend(example.behind("*/5 * * * * ").iter().map(|&line| line.to_owned()));
        }
        Self { sandbox, example, command }
    }

    fn invocation(&self) -> Invocation {
        self.sandbox.command(&self.command[0], &self.command[1..])
    }

    /// Started, and in the middle of its work, under the lock.
    fn working(&self) -> Running {
        let running = self.invocation().input("").start().until_says("working");
        assert!(is_held(&self.sandbox.lock_file("nightly")), "{}", self.example.place);
        running
    }

    #[track_caller]
    fn assert_free(&self) {
        self.sandbox.assert_free("nightly");
    }

    #[track_caller]
    fn eventually_free(&self) {
        let place = &self.example.place;
        eventually(&format!("the lock of {place} is free"), || !is_held(&self.sandbox.lock_file("nightly")));
    }
}

#[test]
fn a_script_passes_on_the_code_of_its_work() {
    for name in SCRIPTS {
        for recipe in recipes(name) {
            for (input, code) in [("0\n", 0), ("3\n", 3)] {
                // make has a code of its own for a recipe that failed.
                let code = if name == "makefile" && code != 0 { 2 } else { code };
                recipe.invocation().input(input).run().assert_code(code).assert_stdout("working\n");
                recipe.eventually_free();
            }
        }
    }
}

#[test]
fn a_second_script_that_does_not_wait_ends_at_once() {
    for recipe in recipes("one line") {
        let _first = recipe.working();
        recipe.invocation().run().assert_code(75).assert_stdout("").assert_one_line(&["nightly", "busy"]);
    }
    for recipe in recipes("cron") {
        let _first = recipe.working();
        recipe.invocation().run().assert_code(0).assert_stdout("").assert_silent();
    }
}

#[test]
fn a_second_script_waits_if_it_says_so() {
    for recipe in ["bash trap", "posix sh", "makefile"].into_iter().flat_map(recipes) {
        let first = recipe.working();
        let second = recipe.invocation().start().until_waiting();
        first.wait().assert_code(0);
        second.wait().assert_code(0).assert_stdout("working\n");
        recipe.assert_free();
    }
}

#[test]
fn a_script_killed_by_kill_9_keeps_no_lock() {
    for recipe in ["one line", "bash trap", "posix sh", "cron"].into_iter().flat_map(recipes) {
        let running = recipe.working();
        running.signal(libc::SIGKILL);
        recipe.eventually_free();
    }
}

/// make has no way to end its shell then.
#[test]
fn make_killed_by_kill_9_leaves_a_lock_that_ends_with_the_work() {
    for recipe in recipes("makefile") {
        let mut running = recipe.working();
        running.signal(libc::SIGKILL);
        eventually("make has ended", || running.has_ended());
        assert!(is_held(&recipe.sandbox.lock_file("nightly")), "{}", recipe.example.place);
        running.close_stdin();
        recipe.eventually_free();
    }
}

#[test]
fn a_script_ended_by_a_signal_keeps_no_lock() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        for recipe in SCRIPTS.into_iter().flat_map(recipes) {
            let running = recipe.working();
            running.signal_group(signal);
            let outcome = running.wait();
            assert_ne!(outcome.code, Some(0), "{}: {outcome:?}", recipe.example.place);
            recipe.eventually_free();
        }
    }
}

#[test]
fn a_trap_does_not_hide_that_the_lock_was_lost() {
    for recipe in ["bash trap", "posix sh"].into_iter().flat_map(recipes) {
        let running = recipe.working();
        let holder = holder_of(&recipe.sandbox.lock_file("nightly"));
        // SAFETY: kill has no memory effects; the holder lives.
        unsafe { libc::kill(holder, libc::SIGKILL) };
        eventually("the holder ends", || !is_alive(holder));
        running.wait().assert_code(123).assert_one_line(&["nightly", "lost"]);
    }
}

#[test]
fn the_steps_of_a_job_hold_one_lock() {
    for recipe in recipes("ci job") {
        let step = |line: &str| recipe.sandbox.sh(line).run();
        let steps = recipe.example.behind("- ");
        let (release, others) = steps.split_last().unwrap();
        for line in others {
            step(line).assert_code(0);
            assert!(is_held(&recipe.sandbox.lock_file("nightly")), "after {line}");
        }
        step(release).assert_code(0).assert_silent();
        recipe.assert_free();
        step(release).assert_code(123);
    }
}

/// As a runner does it: it finds the holder by its variable.
#[test]
fn a_cancelled_job_is_cleaned_up() {
    for recipe in recipes("ci job") {
        let acquire = recipe.sandbox.sh(recipe.example.behind("- ")[0]).env("RUNNER_TRACKING_ID", "github_1");
        acquire.run().assert_code(0);
        let holder = holder_of(&recipe.sandbox.lock_file("nightly"));
        let environment = std::fs::read_to_string(format!("/proc/{holder}/environ")).unwrap();
        assert!(environment.split('\0').any(|variable| variable == "RUNNER_TRACKING_ID=github_1"), "{environment}");
        // SAFETY: kill has no memory effects; the holder lives.
        unsafe { libc::kill(holder, libc::SIGTERM) };
        recipe.eventually_free();
    }
}
