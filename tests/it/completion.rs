//! The completions, tried in the shells that they are for.

use crate::support::Sandbox;
use std::path::{Path, PathBuf};

/// What a shell offers for the last of these words of a command line.
type Ask = fn(&Sandbox, &[&str]) -> Vec<String>;

const SHELLS: [(&str, Ask); 3] = [("bash", in_bash), ("zsh", in_zsh), ("fish", in_fish)];

/// Asserts that every shell offers `expected`, and nothing else unless `among`.
#[track_caller]
fn offers(sandbox: &Sandbox, words: &[&str], expected: &[&str], among: bool) {
    for (shell, ask) in SHELLS {
        let mut offered = ask(sandbox, words);
        offered.sort();
        offered.dedup();
        match among {
            true => {
                let missing = expected.iter().find(|word| !offered.iter().any(|offer| offer == *word));
                assert!(missing.is_none(), "{shell} offers {offered:?} for {words:?}, not {missing:?}");
            }
            false => assert_eq!(offered, expected, "{shell}, {words:?}"),
        }
    }
}

#[test]
fn options() {
    let sandbox = Sandbox::new();
    offers(&sandbox, &["lockrun", "--ti"], &["--timeout"], false);
    offers(&sandbox, &["lockrun", "-n", "--"], &["--name", "--file", "--exec", "--expires"], true);
}

#[test]
fn subcommands() {
    let sandbox = Sandbox::new();
    offers(&sandbox, &["lockrun", "acq"], &["acquire"], false);
    offers(&sandbox, &["lockrun", "acquire", "--ow"], &["--owner"], false);
    let of_check = with_store(&["--fd", "--help", "--json", "--store"]);
    offers(&sandbox, &["lockrun", "check", "--"], &of_check, false);
}

#[test]
fn run_help_and_version() {
    let sandbox = Sandbox::new();
    offers(&sandbox, &["lockrun", "--vers"], &["--version"], false);
    offers(&sandbox, &["lockrun", "vers"], &["version"], false);
    offers(&sandbox, &["lockrun", "he"], &["help"], false);
    offers(&sandbox, &["lockrun", "help", "acq"], &["acquire"], false);
    offers(&sandbox, &["lockrun", "help", ""], &["acquire", "flock", "list", "run"], true);
    offers(&sandbox, &["lockrun", "run", "--ti"], &["--timeout"], false);
}

#[cfg(feature = "net")]
#[test]
fn stores() {
    let sandbox = Sandbox::new();
    offers(&sandbox, &["lockrun", "--store", "p"], &["postgres://"], false);
    offers(&sandbox, &["lockrun", "list", "--store", "f"], &["file:"], false);
    offers(&sandbox, &["lockrun", "--store", "redis"], &["redis://", "rediss://"], false);
}

#[test]
fn commands_come_first() {
    let sandbox = Sandbox::new();
    for (shell, ask) in SHELLS {
        let offered = ask(&sandbox, &["lockrun", ""]);
        assert!(offered.iter().any(|word| word == "acquire"), "{shell}: {offered:?}");
        assert!(!offered.iter().any(|word| word.starts_with('-')), "{shell}: {offered:?}");
    }
}

#[test]
fn options_of_subcommands() {
    let sandbox = Sandbox::new();
    for (command, beginning, option) in [
        ("list", "--j", "--json"),
        ("status", "--di", "--dir"),
        ("wait", "--ti", "--timeout"),
        ("break", "--k", "--kill-after"),
        ("prune", "--dr", "--dry-run"),
        ("completions", "--h", "--help"),
    ] {
        offers(&sandbox, &["lockrun", command, beginning], &[option], false);
    }
    let of_break = with_store(&["--dir", "--file", "--help", "--kill-after", "--name", "--store"]);
    offers(&sandbox, &["lockrun", "break", "--"], &of_break, false);
    offers(&sandbox, &["lockrun", "completions", ""], &["bash", "zsh", "fish"], true);
}

#[test]
fn values() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    // A time, and not a lock.
    offers(&sandbox, &["lockrun", "break", "--kill-after", ""], &[], false);
    for words in [&["lockrun", "wait", "--timeout"] as &[&str], &["lockrun", "-t"], &["lockrun", "acquire", "-t"]] {
        offers(&sandbox, &[words, &["f"]].concat(), &["forever"], false);
        offers(&sandbox, &[words, &[""]].concat(), &["0", "10s", "forever"], true);
    }
    offers(&sandbox, &["lockrun", "--hold", ""], &["command", "tree"], false);
    offers(&sandbox, &["lockrun", "--hold", "t"], &["tree"], false);
}

#[test]
fn names_of_locks() {
    let sandbox = Sandbox::new();
    for name in ["calc", "calendar", "backup", "a/b c"] {
        sandbox.lockrun(&["-l", name, "--", "true"]).run().assert_code(0);
    }
    offers(&sandbox, &["lockrun", "--name", "cal"], &["calc", "calendar"], false);
    offers(&sandbox, &["lockrun", "-n", "-l", "b"], &["backup"], false);
    for command in ["list", "status", "wait", "break"] {
        offers(&sandbox, &["lockrun", command, "cal"], &["calc", "calendar"], false);
    }
    offers(&sandbox, &["lockrun", "wait", "calc", "ba"], &["backup"], false);
    offers(&sandbox, &["lockrun", "break", "--kill-after", "5", "ba"], &["backup"], false);
    offers(&sandbox, &["lockrun", "--name", "a"], &["a/b\\ c"], false);
    let directory = sandbox.path("other").display().to_string();
    sandbox.lockrun(&["-d", &directory, "-l", "cafe", "--", "true"]).run().assert_code(0);
    offers(&sandbox, &["lockrun", "-d", &directory, "-l", "ca"], &["cafe"], false);
    for command in ["list", "break"] {
        offers(&sandbox, &["lockrun", command, "-d", &directory, "ca"], &["cafe"], false);
    }
}

#[test]
fn command_after_the_dashes() {
    let sandbox = Sandbox::new();
    let script = sandbox.write("bin/zz-a-command", "#!/bin/sh\n");
    std::process::Command::new("chmod").arg("+x").arg(script).status().unwrap();
    offers(&sandbox, &["lockrun", "-l", "calc", "--", "zz-a"], &["zz-a-command"], false);
}

/// bash alone knows nothing of a command's words and leaves them to readline, which
/// completes files; with the package bash-completion it knows more.
#[test]
fn the_commands_own_words() {
    let sandbox = Sandbox::new();
    sandbox.write("work/some-file", "");
    let words = ["lockrun", "-l", "calc", "--", "cat", "some-"];
    for ask in [in_zsh, in_fish] {
        assert_eq!(ask(&sandbox, &words), ["some-file"]);
    }
    assert_eq!(in_bash(&sandbox, &words), [""; 0]);
    for ask in [in_bash_with_its_completions, in_zsh, in_fish] {
        assert_eq!(ask(&sandbox, &["lockrun", "--", "ls", "--rev"]), ["--reverse"]);
        assert_eq!(ask(&sandbox, &["lockrun", "-n", "-l", "calc", "--", "ls", "--rev"]), ["--reverse"]);
    }
}

/// Calls what is registered, with the words as readline splits them. What it
/// leaves empty, readline completes as file names.
fn in_bash(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    ask_bash(sandbox, "", words)
}

fn in_bash_with_its_completions(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    ask_bash(sandbox, "source /usr/share/bash-completion/bash_completion || exit", words)
}

fn ask_bash(sandbox: &Sandbox, set_up: &str, words: &[&str]) -> Vec<String> {
    let script = r#"
        source "$1"; shift
        [[ $(complete -p lockrun) == *"-F _lockrun_line"*"-o default"* ||
           $(complete -p lockrun) == *"-o default"*"-F _lockrun_line"* ]] || exit 1
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        _lockrun_line lockrun "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let file = completions().join("lockrun.bash");
    let script = format!("{set_up}\n{script}");
    let args = [&["--norc", "-c", &script, "bash", file.to_str().unwrap()], words].concat();
    offered(sandbox, "bash", &args)
}

/// Types the words and a tab into an interactive zsh, and notes all that it
/// adds to the matches.
fn in_zsh(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let set_up = format!(
        r#"
        PS1= PS2= fpath=({} $fpath)
        autoload -Uz compinit; compinit -u -D
        compadd() {{
            if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
            local -a matches
            builtin compadd -O matches "$@"
            (( $#matches )) && print -rl -- ${{(q)matches}} >>matches
            builtin compadd "$@"
        }}
        finish() {{ print FINISHED; exit }}
        comppostfuncs=(finish)
        print READY
        "#,
        completions().display()
    );
    let set_up = sandbox.write("work/.set-up", &set_up);
    let script = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "stty rows 200 cols 200; . $1"
        zpty -r shell seen '*READY*'
        shift
        zpty -w -n shell "$*"$'\t'
        zpty -r shell seen '*FINISHED*'
        cat matches
    "#;
    let args = [&["-f", "-c", script, "zsh", set_up.to_str().unwrap()], words].concat();
    let _ = std::fs::remove_file(sandbox.path("work/matches"));
    sandbox.write("work/matches", "");
    offered(sandbox, "zsh", &args)
}

fn in_fish(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let script = "source $argv[1]; complete -C (string join ' ' -- $argv[2..])";
    let file = completions().join("lockrun.fish");
    let args = [&["-c", script, file.to_str().unwrap()], words].concat();
    let offered = offered(sandbox, "fish", &args);
    // Behind a tab stands what it means.
    offered.iter().map(|line| line.split('\t').next().unwrap_or_default().replace(' ', "\\ ")).collect()
}

#[track_caller]
fn offered(sandbox: &Sandbox, shell: &str, args: &[&str]) -> Vec<String> {
    let outcome = sandbox.command(shell, args).env("TERM", "xterm").run();
    outcome.assert_code(0);
    outcome.stdout.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn completions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("completions")
}

#[test]
fn the_program_prints_them() {
    let sandbox = Sandbox::new();
    for (shell, file) in [("bash", "lockrun.bash"), ("zsh", "_lockrun"), ("fish", "lockrun.fish")] {
        let script = std::fs::read_to_string(completions().join(file)).unwrap();
        sandbox.lockrun(&["completions", shell]).run().assert_code(0).assert_stdout(&script);
    }
    sandbox.lockrun(&["completions", "tcsh"]).run().assert_usage_error(&["tcsh"]);
}

/// What is offered where lockrun knows servers, and without `--store` elsewhere.
fn with_store<'a>(options: &[&'a str]) -> Vec<&'a str> {
    options.iter().copied().filter(|option| *option != "--store" || cfg!(feature = "net")).collect()
}
