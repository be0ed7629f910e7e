//! Which system calls stand between start and exec, by strace.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::Bench;
use crate::peers::{Lock, Tool, Way, in_path};
use crate::report::{Goals, Section, Table};

const WAYS: [Way; 8] = [
    Way::LockSpawn,
    Way::LockExec,
    Way::Lockrun,
    Way::LockrunExec,
    Way::Flock,
    Way::FlockNoFork,
    Way::Setlock,
    Way::S6Setlock,
];

/// The names of one run's system calls, in order.
#[derive(Default)]
struct Calls {
    /// Of all processes, up to and including the exec of COMMAND.
    to_exec: Vec<String>,
    /// Of the tool after that.
    after: Vec<String>,
}

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut table = Table::new(&["tool", "to exec", "of these start-up", "own", "after"]);
    let mut remarks = Vec::new();
    if in_path("strace").is_none() {
        remarks.push("Not measured: apt install strace".into());
    } else {
        let start_up = libc_start_up(bench)?;
        for tool in bench.peers.among(&WAYS) {
            let calls = trace_run(bench, tool)?;
            let common = common_prefix(&start_up, &calls.to_exec);
            // A program with another libc, or a dynamic one, starts otherwise; what of it
            // is start-up cannot be told apart by this.
            let static_start = common == start_up.len();
            let told = |count: usize| {
                if static_start { count.to_string() } else { "-".into() }
            };
            table.row([
                tool.way.name().into(),
                calls.to_exec.len().to_string(),
                told(common),
                told(calls.to_exec.len() - common),
                calls.after.len().to_string(),
            ]);
            if matches!(tool.way, Way::Lockrun | Way::LockrunExec) {
                let own = if static_start { common } else { 0 };
                remarks.push(listing(tool, &calls, own));
            }
        }
    }
    Ok(Section {
        title: "System calls, uncontended",
        method: "From the tool's start to the exec of COMMAND, that one included. Start-up are \
                 the leading calls that a static C `true` makes too. After: what the tool still \
                 does once COMMAND runs, its exit included."
            .into(),
        tables: vec![table],
        remarks,
        goals: Goals::default(),
    })
}

/// What libc does before `main` in a static program.
fn libc_start_up(bench: &Bench) -> anyhow::Result<Vec<String>> {
    let directory = bench.scratch.locks_directory()?;
    let lines = traced(&Lock { directory: &directory }, [&bench.yardstick.truth])?;
    let mut names: Vec<String> = lines.iter().filter_map(|line| Some(line.name()?.into())).collect();
    names.remove(0); // strace's own exec of `true`
    names.pop(); // its exit
    // What it protects after relocation, a program without relocations lacks.
    names.retain(|name| name != "mprotect");
    Ok(names)
}

fn trace_run(bench: &Bench, tool: &Tool) -> anyhow::Result<Calls> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock { directory: &directory };
    let truth = &bench.yardstick.truth;
    let line = tool.command_line(&lock, &[truth.into()]);
    // The second run is the usual one: the first makes the files.
    traced(&lock, &line)?;
    let lines = traced(&lock, &line)?;

    let mut calls = Calls::default();
    let mut command = None;
    let needle = format!("execve(\"{}\"", truth.display());
    for line in &lines[1..] {
        let Some(name) = line.name() else { continue };
        match &command {
            None => {
                calls.to_exec.push(name.into());
                if line.text.starts_with(&needle) {
                    command = Some(line.pid.clone());
                }
            }
            Some(pid) if *pid == line.pid => {}
            Some(_) => calls.after.push(name.into()),
        }
    }
    ensure!(command.is_some(), "{} did not exec `true`", tool.way.name());
    Ok(calls)
}

/// A line of strace's output: `PID TEXT`.
struct Line {
    pid: String,
    text: String,
}

impl Line {
    /// The system call that begins here: not where one resumes, nor a signal
    /// or an exit.
    fn name(&self) -> Option<&str> {
        let (name, _) = self.text.split_once('(')?;
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(name)
    }
}

/// What strace wrote about one run of `line`.
fn traced(lock: &Lock, line: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Vec<Line>> {
    let output = lock.directory.join("strace");
    let mut strace = Command::new("strace");
    lock.environment(&mut strace);
    let status = strace
        .args(["-f", "-s", "4096", "-o"])
        .arg(&output)
        .args(line)
        .stdin(Stdio::null())
        .status()
        .context("running strace")?;
    ensure!(status.success(), "strace ended with {status}");
    let text = fs::read_to_string(&output).context("reading strace's output")?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (pid, text) = line.split_once(' ')?;
            Some(Line { pid: pid.into(), text: text.trim_start().into() })
        })
        .collect())
}

fn common_prefix(one: &[String], other: &[String]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// The calls after start-up, in order and by number.
fn listing(tool: &Tool, calls: &Calls, start_up: usize) -> String {
    let own = &calls.to_exec[start_up..];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in own {
        *counts.entry(name).or_default() += 1;
    }
    let mut by_number: Vec<_> = counts.into_iter().collect();
    by_number.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counted: Vec<String> = by_number.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let after = match calls.after.as_slice() {
        [] => String::new(),
        after => format!("\n- after the exec: {}", after.join(" ")),
    };
    format!(
        "{} after start-up:\n\n- in order: {}\n- counted: {}{after}",
        tool.way.name(),
        own.join(" "),
        counted.join(", ")
    )
}
