//! Every example of README.md, of docs/ and of the manual is run.
//!
//! The comment before an example (see `support/example.rs`) has these keys, each
//! of which may be left out and may come several times:
//!
//! | key | meaning |
//! |---|---|
//! | `language` | in roff, where no fence tells it; `sh` |
//! | `stubs` | programs that the example calls: each prints its name and its arguments |
//! | `file` | the example is a file of this name, there for those that follow |
//! | `setup` | a line of shell that runs before it, in the same shell |
//! | `run` | what runs it, where the example is a file: `make all` |
//! | `code` | the exit code; 0 |
//! | `stdout`, `stderr` | a line that is printed; without any, nothing is |
//! | `hosts` | hosts in the example for which an etcd server of the test stands |
//! | `needs` | `root` |
//! | `recipe` | the name by which `token_recipes.rs` or `descriptor_recipes.rs` finds it, to kill it |
//!
//! What runs: of `sh` and `bash` all of it, up to the first command that fails;
//! of `make` a Makefile; of `crontab` the commands, in an environment as small as
//! cron's; of `yaml` the items of lists, and of `ini` what is behind `ExecStart=`,
//! a line each. `text` and `json` are for looking at.

#[cfg(feature = "net")]
use crate::support::Etcd;
use crate::support::{Example, Outcome, Sandbox, may_act_as_root};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn examples_of_the_readme() {
    run_all("README.md");
}

#[test]
fn examples_of_the_recipes() {
    run_all("docs/recipes.md");
}

#[test]
fn examples_with_json() {
    run_all("docs/json.md");
}

#[test]
fn examples_for_users_of_other_tools() {
    run_all("docs/coming-from.md");
}

#[test]
fn examples_of_how_locks_are_broken() {
    run_all("docs/testing.md");
}

#[test]
fn examples_of_the_manual() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("man")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".1") || name.ends_with(".7") {
            run_all(&format!("man/{name}"));
        }
    }
}

fn run_all(file: &str) {
    let mut files = Vec::new();
    for example in Example::all_in(file) {
        if let Some(name) = example.one("file") {
            files.push((name.to_owned(), example.text));
            continue;
        }
        if example.one("needs") == Some("root") && !may_act_as_root(&example.place) {
            continue;
        }
        #[cfg(feature = "net")]
        let (_server, example) = on_a_server(example);
        #[cfg(not(feature = "net"))]
        if example.one("hosts").is_some() {
            continue;
        }
        run(&example, &files);
    }
}

/// With a server of the test's own for the hosts that it names.
#[cfg(feature = "net")]
fn on_a_server(mut example: Example) -> (Option<Etcd>, Example) {
    let server = example.one("hosts").map(|hosts| (Etcd::start(), hosts.to_owned()));
    let server = server.map(|(server, hosts)| {
        assert!(example.text.contains(&hosts), "{}: {hosts}", example.place);
        example.text = example.text.replace(&hosts, server.address());
        server
    });
    (server, example)
}

fn run(example: &Example, files: &[(String, String)]) {
    let place = &example.place;
    let sandbox = Sandbox::new();
    for (name, text) in files {
        sandbox.write(&format!("work/{name}"), text);
    }
    for stub in example.all("stubs").iter().flat_map(|stubs| stubs.split(' ')) {
        let path = sandbox.write(&format!("bin/{stub}"), "#!/bin/sh\necho \"${0##*/}${*:+ }$*\"\n");
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let setup = example.all("setup").join("\n");
    let lines =
        |start| example.behind(start).iter().map(|line| sandbox.sh(&format!("{setup}\n{line}")).run()).collect();
    let outcomes: Vec<Outcome> = match example.language.as_str() {
        shell @ ("sh" | "bash") => {
            let script = format!("set -e\n{setup}\n{}", example.text);
            vec![sandbox.command(shell, &["-c", &script]).run()]
        }
        "make" => {
            sandbox.write("work/Makefile", &example.text);
            let target = example.one("run").unwrap_or("make");
            vec![sandbox.sh(&format!("{setup}\n{target}")).run()]
        }
        "crontab" => crontab(&sandbox, &setup, &example.text),
        "yaml" => lines("- "),
        "ini" => lines("ExecStart="),
        "text" | "json" => return,
        other => panic!("{place}: nobody knows how to run {other:?}"),
    };
    assert!(!outcomes.is_empty(), "{place}: nothing in it can be run");
    let code = example.one("code").map_or(0, |code| code.parse().unwrap());
    for outcome in &outcomes {
        assert_eq!(outcome.code, Some(code), "{place}: {outcome:?}");
    }
    check(example, "stdout", outcomes.iter().map(|outcome| outcome.stdout.as_str()).collect());
    check(example, "stderr", outcomes.iter().map(|outcome| outcome.stderr.as_str()).collect());
}

/// Each of the key's lines is in the output; without any, there is none.
fn check(example: &Example, key: &str, output: String) {
    let (place, expected) = (&example.place, example.all(key));
    assert!(!expected.is_empty() || output.is_empty(), "{place}: unexpected {key}: {output}");
    for text in expected {
        assert!(output.lines().any(|line| line.contains(text.as_str())), "{place}: no {text:?} in {key}: {output}");
    }
}

/// Runs each line as cron does.
fn crontab(sandbox: &Sandbox, setup: &str, text: &str) -> Vec<Outcome> {
    let mut environment = vec![
        "LOGNAME=root".to_owned(),
        format!("HOME={}", sandbox.path("home").display()),
        "SHELL=/bin/sh".into(),
        format!("PATH={}:/usr/bin:/bin", sandbox.path("bin").display()),
        format!("LOCKRUN_DIR={}", sandbox.locks().display()),
    ];
    let mut outcomes = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some((name, _)) = line.split_once('=').filter(|(name, _)| !name.contains([' ', '*'])) {
            environment.retain(|variable| !variable.starts_with(&format!("{name}=")));
            environment.push(line.to_owned());
            continue;
        }
        let fields = if line.starts_with('@') { 1 } else { 5 };
        let command = line.splitn(fields + 1, ' ').nth(fields).expect("a command behind the times");
        assert!(!command.contains('%'), "cron makes a new line of %: {line}");
        let script = format!("{setup}\n{command}");
        let words = environment.iter().map(String::as_str).chain(["/bin/sh", "-c", &script]);
        outcomes.push(sandbox.command("env", &["-i"].into_iter().chain(words).collect::<Vec<_>>()).run());
    }
    outcomes
}
