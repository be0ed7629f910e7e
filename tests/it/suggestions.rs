//! Lines that cannot be understood: what was probably meant is shown, as a line
//! that can be copied, and that never executes a lock file.

use crate::support::{Outcome, Sandbox};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// What people type, and the line that is shown. Everything stands in `work`,
/// where `F` is a file.
const MEANT: &str = r"
    lockrun                            => lockrun -- COMMAND
    lockrun --                         => lockrun -- COMMAND
    lockrun run                        => lockrun -- COMMAND
    lockrun -l calc                    => lockrun -l calc -- COMMAND
    lockrun -l calc --                 => lockrun -l calc -- COMMAND

    lockrun -n F touch ran             => lockrun -n --file F -- touch ran
    lockrun ./new.lock touch ran       => lockrun --file ./new.lock -- touch ran
    lockrun new.lock touch ran         => lockrun --file new.lock -- touch ran
    lockrun -w 5 F touch ran           => lockrun -w 5 --file F -- touch ran
    lockrun -w5 F touch ran            => lockrun -w 5 --file F -- touch ran
    lockrun --wait=5 -eo F touch ran   => lockrun --wait 5 -eo --file F -- touch ran
    lockrun F -n touch ran             => lockrun --file F -n -- touch ran
    lockrun F -c 'touch ran'           => lockrun --file F -c 'touch ran'
    lockrun -nx F -c 'touch ran'       => lockrun -nx --file F -c 'touch ran'
    lockrun F                          => lockrun --file F -- COMMAND
    lockrun -n F -- touch ran          => lockrun -n --file F -- touch ran
    lockrun . touch ran                => lockrun --file . -- touch ran
    lockrun ./self true                => lockrun --file ./self -- true
    lockrun ./self ./self              => lockrun --file ./self -- ./self
    lockrun -l calc ./new.lock         => lockrun -l calc --file ./new.lock -- COMMAND
    lockrun ./held.lock touch ran      => lockrun --file ./held.lock -- touch ran
    lockrun ./held.lock                => lockrun --file ./held.lock -- COMMAND
    lockrun -l calc ./held.lock true   => lockrun -l calc --file ./held.lock -- true

    lockrun NAME touch ran             => lockrun --name NAME -- touch ran
    lockrun -n NAME --                 => lockrun -n --name NAME -- COMMAND
    lockrun NAME -- touch ran          => lockrun --name NAME -- touch ran
    lockrun --name -- touch ran        => lockrun --name NAME -- touch ran
    lockrun -l                         => lockrun -l NAME -- COMMAND
    lockrun -t -- touch ran            => lockrun -t DUR -- touch ran
    lockrun -l calc -c                 => lockrun -l calc -c STRING

    lockrun touch ran                  => lockrun -- touch ran
    lockrun touch -c ran               => lockrun -- touch -c ran
    lockrun -l calc touch ran          => lockrun -l calc -- touch ran
    lockrun -l calc touch -- ran       => lockrun -l calc -- touch ran
    lockrun nice touch ran             => lockrun -- nice touch ran
    lockrun touch 'a b' 'it'\''s'      => lockrun -- touch 'a b' 'it'\''s'
    lockrun -c echo hi                 => lockrun -c 'echo hi'
    lockrun -l calc -c echo 'a b'      => lockrun -l calc -c 'echo '\''a b'\'''

    lockrun 9                          => lockrun acquire --fd 9
    lockrun -n 9                       => lockrun acquire --fd 9 -n
    lockrun -x -w 10 200               => lockrun acquire --fd 200 -x -w 10
    lockrun --fd 9 -n                  => lockrun acquire --fd 9 -n
    lockrun -u 9                       => lockrun release --fd 9
    lockrun --unlock 9                 => lockrun release --fd 9

    lockrun --timeuot 3 -l c -- true   => lockrun --timeout 3 -l c -- true
    lockrun -timeout 3 -l c -- true    => lockrun --timeout 3 -l c -- true
    lockrun --lock c -- true           => lockrun --name c -- true
    lockrun -t abc -l c -- true        => lockrun -t DUR -l c -- true
    lockrun -E 256 -l c -- true        => lockrun -E N -l c -- true
    lockrun -q list                    => lockrun list
    lockrun lits                       => lockrun list
    lockrun aquire -l calc             => lockrun acquire -l calc
    lockrun list --jsn                 => lockrun list --json
    lockrun wait --timout=3 calc       => lockrun wait --timeout 3 calc
    lockrun help lst                   => lockrun help list; see 'lockrun --help'
    lockrun status                     => lockrun status LOCK (or --file PATH); see 'lockrun status --help'
    lockrun check a b                  => lockrun check [OPTIONS] [TOKEN]; see 'lockrun check --help'
    lockrun --frobnicate -- true       => lockrun [OPTIONS] -- COMMAND [ARG]...; see 'lockrun --help'

    lockrun --lockfile=F -- touch ran              => lockrun --nonblock --file F -- touch ran
    lockrun -L F -- touch 'a b'                    => lockrun --nonblock --file F -- touch 'a b'
    lockrun -L=F -q -- touch ran                   => lockrun --nonblock -E 0 --quiet --file F -- touch ran
    lockrun -I --lockfile F -- touch ran           => lockrun --nonblock -E 0 --quiet --file F -- touch ran
    lockrun -Q -L F -- touch ran                   => lockrun --nonblock -E 0 --quiet --file F -- touch ran
    lockrun --lockfile=F --wait -- touch ran       => lockrun --file F -- touch ran
    lockrun -L=F -W --maxtime=60 -- touch ran      => lockrun --timeout 60 --file F -- touch ran
    lockrun -L=F -W -R 3 --sleep=5 -- touch ran    => lockrun --timeout 15 --file F -- touch ran
    lockrun -L F -W --retries=3 -V -- touch ran    => lockrun --timeout 30 --verbose --file F -- touch ran
    lockrun -L                                     => lockrun --nonblock --file FILE -- COMMAND
";

fn pairs() -> Vec<(&'static str, &'static str)> {
    let lines = MEANT.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.split_once("=>").map(|(typed, meant)| (typed.trim(), meant.trim())).unwrap()).collect()
}

/// With the files that the table names. Two of them can be executed.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("work/F", "");
    sandbox.make_dir("work/dir", 0o700);
    for program in ["work/self", "work/held.lock"] {
        let path = sandbox.write(program, "#!/bin/sh\ntouch executed\n");
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    sandbox
}

#[track_caller]
fn proposed(outcome: &Outcome) -> &str {
    outcome.assert_usage_error(&[]).assert_stdout("");
    let (_, line) = outcome.stderr.split_once("\nlockrun: try: ").unwrap();
    line.trim_end()
}

#[test]
fn the_line_that_was_meant_is_shown_and_nothing_is_run_or_made() {
    let sandbox = sandbox();
    let files = || fs::read_dir(sandbox.path("work")).unwrap().count();
    let before = files();
    for (typed, meant) in pairs() {
        let outcome = sandbox.sh(typed).run();
        assert_eq!(proposed(&outcome), meant, "for {typed}: {outcome:?}");
        assert!(sandbox.files_in_locks().is_empty() && files() == before, "something was made by {typed}");
    }
}

#[test]
fn a_line_that_is_shown_whole_works_and_executes_no_lock_file() {
    let complete = |line: &str| {
        let words = ["COMMAND", "NAME", "DUR", "STRING", "FILE", " N ", "see ", "--fd", "PATH"];
        !words.iter().any(|word| line.contains(word)) || line.contains("--name NAME -- touch")
    };
    let (mut run, mut locks) = (0, 0);
    for (typed, meant) in pairs().into_iter().filter(|(_, meant)| complete(meant)) {
        let sandbox = sandbox();
        let outcome = sandbox.sh(meant).run();
        assert_ne!(outcome.code, Some(125), "{typed}: {outcome:?}");
        run += 1;
        if typed.contains(".lock") || typed.ends_with("self true") {
            assert!(!sandbox.path("work/executed").exists(), "{typed}: {meant} executes the lock file");
            locks += 1;
        }
    }
    assert!(run > 40 && locks > 4, "{run} {locks}");
}

#[test]
fn the_line_for_a_descriptor_locks_it() {
    let sandbox = sandbox();
    for (typed, number) in [("lockrun -n 9", 9), ("lockrun -s 7", 7)] {
        let line = proposed(&sandbox.sh(typed).run()).to_owned();
        let script = format!("exec {number}<>F; {line}; echo $?; flock -n F true; echo $?");
        sandbox.sh(&script).run().assert_code(0).assert_stdout("0\n1\n");
    }
}

#[test]
fn no_token_is_shown() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    for words in [
        &["relase", &token] as &[&str],
        &["release", "--fd", "x", &token],
        &["check", "--jsn", &token],
        &["renew", &token, &token],
        &["acquire", &token],
        &["-l", "calc", &token],
        &[&token],
        &["--fd", &token],
        &["-t", &token, "--", "true"],
        &["list", &format!("--{token}")],
    ] {
        let outcome = sandbox.lockrun(words).run();
        assert_eq!(outcome.code, Some(125), "{outcome:?}");
        assert!(!outcome.stderr.contains(&token), "{outcome:?}");
    }
    sandbox.release(&token).assert_code(0);
}

#[test]
fn errors_are_in_plain_words() {
    let sandbox = sandbox();
    let said = [
        ("lockrun -n F touch ran", "'F' is not an option: the lock file goes after --file, the command after '--'"),
        (
            "lockrun NAME touch ran",
            "'NAME' is not an option: the lock's name goes after --name, the command after '--'",
        ),
        ("lockrun -l calc touch ran", "the command goes after '--'"),
        ("lockrun", "the command is missing"),
        ("lockrun --name -- x", "'--name' has no value: '--' ends the options"),
        ("lockrun -c echo hi", "'-c' takes the command line as one word: quote it"),
        ("lockrun -L F -- true", "'-L' is an option of Stephen Friedl's lockrun, which is another program"),
        ("lockrun -E 256 -- true", "not an exit code; write a whole number from 0 to 255"),
        ("lockrun -E x -- true", "not an exit code; write a whole number from 0 to 255"),
        ("lockrun --slots 0 -- true", "write a whole number from 1 to 1048576"),
        ("lockrun --max-waiters x -- true", "write a whole number, 0 or more"),
        ("lockrun acquire -l x --owner x", "not a process id"),
        ("lockrun acquire --fd -1", "not a descriptor"),
        ("lockrun -t abc -- true", "not a time; write seconds (10, 0.5)"),
        ("lockrun lits", "'lits' is not a command of lockrun"),
        ("lockrun -Z -- true", "unknown option '-Z'"),
    ];
    for (typed, what) in said {
        let outcome = sandbox.sh(typed).run();
        let rust = ["invalid digit", "..=", "out of range", "cannot parse", "ParseInt", "unexpected argument"];
        assert!(!rust.iter().any(|word| outcome.stderr.contains(word)), "{outcome:?}");
        outcome.assert_usage_error(&[what]);
    }
}
