//! The scripts with a descriptor in README.md, docs/ and the manual (those with a
//! `recipe` key): in every shell, several at once, and killed.

use crate::support::{Example, Invocation, Running, SHELLS, Sandbox, Shell, eventually, is_held};
use std::fs;

const TEXTS: [&str; 4] = ["README.md", "docs/recipes.md", "docs/coming-from.md", "man/lockrun-acquire.1"];

/// Work that a test steers: it says that it began, and ends as the first line
/// of its input says, or when it has no input any more.
const WORK: &str = "#!/bin/sh\necho $$ >pid; echo working; read -r code; exit ${code:-0}\n";

/// The recipe in each text, in each shell that it is for.
fn in_shells(name: &str) -> Vec<(Shell, Example)> {
    let examples: Vec<_> = TEXTS.iter().flat_map(|text| Example::all_in(text)).collect();
    let examples: Vec<_> = examples.into_iter().filter(|example| example.one("recipe") == Some(name)).collect();
    assert!(examples.len() >= 3, "{name} stands in {} texts only", examples.len());
    let shells = SHELLS.into_iter().filter(|shell| name == "any shell" || shell.passes_on_what_exec_opens());
    shells.flat_map(|shell| examples.iter().map(move |example| (shell, example.clone()))).collect()
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("bin/work.sh", WORK);
    sandbox.sh("chmod +x ../bin/work.sh").run().assert_code(0);
    sandbox
}

/// Started, and in the middle of its work, under the lock.
#[track_caller]
fn working(sandbox: &Sandbox, start: &dyn Fn() -> Invocation) -> Running {
    let running = start().input("").start().until_says("working");
    assert!(is_held(&sandbox.lock_file("nightly")));
    running
}

#[test]
fn one_at_a_time_and_the_code_of_the_work_is_passed_on() {
    for (shell, example) in ["own descriptor", "any shell"].into_iter().flat_map(in_shells) {
        let sandbox = sandbox();
        let start = || sandbox.shell(shell, &example.text);
        let first = working(&sandbox, &start);
        start().run().assert_code(75).assert_stdout("").assert_one_line(&["nightly", "busy", "held by pid"]);
        first.wait().assert_code(0).assert_silent();
        for code in [0, 3] {
            start().input(&format!("{code}\n")).run().assert_code(code).assert_stdout("working\n").assert_silent();
        }
        sandbox.assert_free("nightly");
    }
}

#[test]
fn a_script_killed_with_sigkill_leaves_the_lock_to_its_work() {
    for (shell, example) in ["own descriptor", "any shell"].into_iter().flat_map(in_shells) {
        let sandbox = sandbox();
        let mut running = working(&sandbox, &|| sandbox.shell(shell, &example.text));
        // Some shells become the last command of a script.
        let work: i32 = fs::read_to_string(sandbox.path("work/pid")).unwrap().trim().parse().unwrap();
        let goes_on = work != running.pid();
        running.signal(libc::SIGKILL);
        eventually("the script has ended", || running.has_ended());
        assert_eq!(is_held(&sandbox.lock_file("nightly")), goes_on, "{shell:?} {}", example.place);
        running.close_stdin();
        eventually("it is free", || !is_held(&sandbox.lock_file("nightly")));
    }
}

#[test]
fn nothing_is_done_without_a_lock_file() {
    for (shell, example) in ["own descriptor", "any shell"].into_iter().flat_map(in_shells) {
        let sandbox = sandbox();
        fs::create_dir(sandbox.lock_file("nightly")).unwrap();
        let outcome = sandbox.shell(shell, &example.text).run();
        assert!(outcome.code != Some(0) && outcome.stdout.is_empty(), "{shell:?} {}: {outcome:?}", example.place);
    }
}
