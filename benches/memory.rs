//! What a tool keeps in memory while its command runs, and while it waits.

use crate::Bench;
use crate::contenders::Queue;
use crate::peers::{Lock, Tool, Way};
use crate::processes::{self, Memory};
use crate::report::{Goals, Section, Table, share_cell};
use crate::samples::Samples;

const WAYS: [Way; 6] = [Way::Lockrun, Way::LockrunExec, Way::Flock, Way::FlockNoFork, Way::Setlock, Way::S6Setlock];

/// One tool's memory in one state, in kB.
#[derive(Default)]
struct Footprint {
    processes: usize,
    private: Samples,
    dirty: Samples,
    anonymous: Samples,
}

impl Footprint {
    fn add(&mut self, memory: Memory) {
        self.processes = memory.processes;
        self.private.push(memory.private as f64);
        self.dirty.push(memory.dirty as f64);
        self.anonymous.push(memory.anonymous as f64);
    }

    fn cells(&self, peer: Option<&Footprint>) -> [String; 5] {
        [
            self.processes.to_string(),
            format!("{:.0}", self.private.median()),
            format!("{:.0}", self.dirty.median()),
            format!("{:.0}", self.anonymous.median()),
            share_cell(Some(&self.anonymous), peer.map(|peer| &peer.anonymous)),
        ]
    }
}

/// One tool's memory in each state.
#[derive(Default)]
struct Footprints {
    alone: Footprint,
    holder: Footprint,
    waiter: Footprint,
}

type State = fn(&Footprints) -> &Footprint;

const STATES: [(&str, State); 3] = [
    ("while COMMAND runs", |each| &each.alone),
    ("the same, one waiting", |each| &each.holder),
    ("the one who waits", |each| &each.waiter),
];

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let tools = bench.peers.among(&WAYS);
    let mut footprints: Vec<Footprints> = tools.iter().map(|_| Footprints::default()).collect();
    for _ in 0..bench.effort.memory_samples {
        for (tool, footprints) in tools.iter().zip(&mut footprints) {
            look_at(bench, tool, footprints)?;
        }
    }
    let of = |way: Way| {
        let index = tools.iter().position(|tool| tool.way == way)?;
        Some(&footprints[index])
    };
    let (ours, flock) = (of(Way::Lockrun), of(Way::Flock));

    const FIGURES: [&str; 5] = ["processes", "private kB", "dirty of these", "anonymous Pss, kB", "÷ flock(1)"];
    let mut tables = Vec::new();
    for (title, state) in STATES {
        let mut table = Table::new(&[&[title], &FIGURES[..]].concat());
        for (tool, each) in tools.iter().zip(&footprints) {
            let cells = state(each).cells(flock.map(state));
            table.row([tool.way.name().to_string()].into_iter().chain(cells));
        }
        tables.push(table);
    }

    let mut goals = Goals::default();
    for (what, state) in [STATES[0], STATES[2]] {
        goals.ratio(
            format!("anonymous memory, {what}, lockrun ÷ flock(1)"),
            ours.map(|each| &state(each).anonymous),
            flock.map(|each| &state(each).anonymous),
            1.0,
        );
    }
    Ok(Section {
        title: "Memory",
        method: "Private_Clean + Private_Dirty of all processes of the tool, not of COMMAND. \
                 Pages of a program's file are private as long as only one process runs it: so a \
                 holder with a waiter has less of its own than one alone, and a pair that forked \
                 less than a single process. The goal is about the column that is free of that: pages of \
                 no file, shared ones divided by their users. Two processes that live in one memory \
                 (lockrun's, when it waits) count once."
            .into(),
        tables,
        remarks: Vec::new(),
        goals,
    })
}

/// A holder, first alone, then with one waiter behind it.
fn look_at(bench: &Bench, tool: &Tool, footprints: &mut Footprints) -> anyhow::Result<()> {
    let hold = &bench.yardstick.hold;
    let alone = line_up(bench, tool, 0)?;
    footprints.alone.add(Memory::of_tree(alone.holder(), hold)?);
    alone.release()?;

    let queue = line_up(bench, tool, 1)?;
    footprints.holder.add(Memory::of_tree(queue.holder(), hold)?);
    for waiter in queue.waiters() {
        footprints.waiter.add(Memory::of_tree(waiter, hold)?);
    }
    queue.release()?;
    Ok(())
}

/// A holder and `waiters`, all of them asleep.
fn line_up(bench: &Bench, tool: &Tool, waiters: usize) -> anyhow::Result<Queue> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock { directory: &directory };
    let command = &bench.yardstick.truth;
    let queue = Queue::form(bench, &lock, tool, tool, waiters, |_| vec![command.into()])?;
    let everybody = || queue.waiters().chain([queue.holder()]);
    processes::wait_until("everybody sleeps", || everybody().all(processes::sleeps))?;
    Ok(queue)
}
