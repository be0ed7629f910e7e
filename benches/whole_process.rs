//! What one uncontended run costs, from spawn to wait.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::Bench;
use crate::peers::{Lock, Tool, Way};
use crate::report::{Goals, Section, Table, share_cell, spread};
use crate::samples::Samples;

const WAYS: [Way; 9] = [
    Way::LockSpawn,
    Way::LockExec,
    Way::Lockrun,
    Way::LockrunBefore,
    Way::LockrunExec,
    Way::Flock,
    Way::FlockNoFork,
    Way::Setlock,
    Way::S6Setlock,
];

/// What a command's runs came to.
struct Cost {
    name: String,
    milliseconds: Samples,
    page_faults: Samples,
}

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let tools = bench.peers.among(&WAYS);
    let costs = run_in_turn(bench, &tools)?;
    let time = |way: Way| costs.iter().find(|cost| cost.name == way.name()).map(|cost| &cost.milliseconds);

    let mut table =
        Table::new(&["COMMAND is a static C `true`", "median ms", "middle half", "÷ flock(1)", "page faults"]);
    for cost in &costs {
        let [median, middle_half] = spread(&cost.milliseconds, 3);
        table.row([
            cost.name.clone(),
            median,
            middle_half,
            share_cell(Some(&cost.milliseconds), time(Way::Flock)),
            format!("{:.0}", cost.page_faults.median()),
        ]);
    }

    let mut goals = Goals::default();
    for (ours, theirs, at_most) in
        [(Way::Lockrun, Way::Flock, 0.75), (Way::Lockrun, Way::LockSpawn, 1.06), (Way::LockrunExec, Way::Setlock, 0.97)]
    {
        goals.ratio(format!("{} ÷ {}", ours.name(), theirs.name()), time(ours), time(theirs), at_most);
    }
    Ok(Section {
        title: "A whole run, uncontended",
        method: format!(
            "From before the spawn to after the wait, {} runs of each, by turns in one run of \
             the bench; page faults of the process and its children.",
            bench.effort.runs
        ),
        tables: vec![table],
        remarks: Vec::new(),
        goals,
    })
}

/// Lets `stopwatch` run each tool once a round, beside `true` without a lock.
fn run_in_turn(bench: &Bench, tools: &[&Tool]) -> anyhow::Result<Vec<Cost>> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock { directory: &directory };
    let truth = bench.yardstick.truth.clone().into_os_string();
    let mut lines: Vec<(String, Vec<OsString>)> = vec![("`true` alone".into(), vec![truth.clone()])];
    let bin_true = PathBuf::from("/bin/true");
    if bin_true.exists() {
        lines.push(("/bin/true alone".into(), vec![bin_true.into()]));
    }
    for tool in tools {
        let line = tool.command_line(&lock, std::slice::from_ref(&truth));
        lines.push((tool.way.name().into(), line));
    }

    let mut stopwatch = Command::new(&bench.yardstick.stopwatch);
    stopwatch.arg(bench.effort.runs.to_string());
    for (index, (_, line)) in lines.iter().enumerate() {
        if index > 0 {
            stopwatch.arg(";");
        }
        stopwatch.args(line);
    }
    lock.environment(&mut stopwatch);
    let output = stopwatch.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("running the stopwatch")?;
    ensure!(output.status.success(), "the stopwatch failed");

    let mut costs: Vec<Cost> = lines
        .into_iter()
        .map(|(name, _)| Cost { name, milliseconds: Samples::default(), page_faults: Samples::default() })
        .collect();
    for line in String::from_utf8(output.stdout)?.lines() {
        let [index, nanoseconds, page_faults] = line
            .split(' ')
            .map(str::parse)
            .collect::<Result<Vec<f64>, _>>()?
            .try_into()
            .map_err(|_| anyhow::anyhow!("not the stopwatch's line: {line}"))?;
        let cost = &mut costs[index as usize];
        cost.milliseconds.push(nanoseconds / 1e6);
        cost.page_faults.push(page_faults);
    }
    Ok(costs)
}
