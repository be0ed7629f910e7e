//! Every example of README.md and of the manual is run.
//!
//! An example is a fenced block of Markdown, or what stands between `.EX` and
//! `.EE` in a page. A comment right before it says what it needs and what comes
//! of it; in Markdown
//!
//! ```text
//! <!-- example
//! stubs: backup.sh
//! code: 75
//! -->
//! ```
//!
//! and in roff `.\" stubs: backup.sh`, a line each. The keys, each of which may
//! be left out and may come several times:
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
//! | `needs` | `root` |
//!
//! What runs: of `sh` and `bash` all of it, up to the first command that fails;
//! of `make` a Makefile; of `crontab` the commands, in an environment as small as
//! cron's; of `yaml` the items of lists, and of `ini` what is behind `ExecStart=`,
//! a line each. `text` and `json` are for looking at.

use crate::support::{Outcome, Sandbox, may_act_as_root};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn of_the_readme() {
    run_all("README.md", markdown);
}

#[test]
fn of_the_manual() {
    for entry in fs::read_dir(root().join("man")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".1") {
            run_all(&format!("man/{name}"), roff);
        }
    }
}

/// An example, and the line it begins on.
struct Example {
    line: usize,
    keys: BTreeMap<String, Vec<String>>,
    language: String,
    text: String,
}

impl Example {
    fn all(&self, key: &str) -> &[String] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    fn one(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }
}

fn run_all(file: &str, examples: fn(&str) -> Vec<Example>) {
    let examples = examples(&fs::read_to_string(root().join(file)).unwrap());
    assert!(!examples.is_empty(), "{file} has no examples");
    let mut files = Vec::new();
    for example in examples {
        if let Some(name) = example.one("file") {
            files.push((name.to_owned(), example.text));
            continue;
        }
        let place = format!("{file}:{}", example.line);
        if example.one("needs") == Some("root") && !may_act_as_root(&place) {
            continue;
        }
        run(&place, &example, &files);
    }
}

fn run(place: &str, example: &Example, files: &[(String, String)]) {
    let sandbox = Sandbox::new();
    for (name, text) in files {
        sandbox.write(&format!("work/{name}"), text);
    }
    for stub in example.all("stubs").iter().flat_map(|stubs| stubs.split(' ')) {
        let path = sandbox.write(&format!("bin/{stub}"), "#!/bin/sh\necho \"${0##*/}${*:+ }$*\"\n");
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let setup = example.all("setup").join("\n");
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
        "yaml" => {
            behind(&example.text, "- ").iter().map(|line| sandbox.sh(&format!("{setup}\n{line}")).run()).collect()
        }
        "ini" => behind(&example.text, "ExecStart=")
            .iter()
            .map(|line| sandbox.sh(&format!("{setup}\n{line}")).run())
            .collect(),
        "text" | "json" => return,
        other => panic!("{place}: nobody knows how to run {other:?}"),
    };
    assert!(!outcomes.is_empty(), "{place}: nothing in it can be run");
    let code = example.one("code").map_or(0, |code| code.parse().unwrap());
    for outcome in &outcomes {
        assert_eq!(outcome.code, Some(code), "{place}: {outcome:?}");
    }
    check(place, example, "stdout", outcomes.iter().map(|outcome| outcome.stdout.as_str()).collect());
    check(place, example, "stderr", outcomes.iter().map(|outcome| outcome.stderr.as_str()).collect());
}

/// Each of the key's lines is in the output; without any, there is none.
fn check(place: &str, example: &Example, key: &str, output: String) {
    let expected = example.all(key);
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

fn behind<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(start)).collect()
}

fn markdown(text: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut keys = BTreeMap::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line == "<!-- example" {
            let comment = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "-->");
            keys = read_keys(comment);
        } else if let Some(language) = line.strip_prefix("```") {
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text = block.map(|line| format!("{line}\n")).collect();
            let language = language.to_owned();
            examples.push(Example { line: number + 1, keys: std::mem::take(&mut keys), language, text });
        } else if !line.is_empty() {
            assert!(keys.is_empty(), "line {}: no example follows the comment", number + 1);
        }
    }
    examples
}

fn roff(page: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut comment = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(key) = line.strip_prefix(".\\\" ") {
            comment.push(key);
        } else if line == ".EX" {
            let keys = read_keys(comment.drain(..));
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != ".EE");
            let text = block.map(|line| format!("{}\n", as_shown(line))).collect();
            let language = keys.get("language").map_or("sh", |language| &language[0]).to_owned();
            examples.push(Example { line: number + 1, keys, language, text });
        } else {
            comment.clear();
        }
    }
    examples
}

/// A line of roff as a reader sees it.
fn as_shown(line: &str) -> String {
    let codes = [("\\-", "-"), ("\\(aq", "'"), ("\\(dq", "\""), ("\\&", ""), ("\\e", "\\")];
    codes.iter().fold(line.to_owned(), |line, (code, shown)| line.replace(code, shown))
}

fn read_keys<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, Vec<String>> {
    const KNOWN: [&str; 9] = ["language", "file", "stubs", "setup", "run", "code", "stdout", "stderr", "needs"];
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("no key and value: {line}"));
        assert!(KNOWN.contains(&key), "unknown key: {line}");
        keys.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    keys
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
