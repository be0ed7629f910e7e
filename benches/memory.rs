//! What a tool keeps in memory while its command runs, and while it waits.

use crate::Bench;
use crate::contenders::Queue;
use crate::peers::{Lock, Tool, Way};
use crate::processes::{self, Memory};
use crate::report::{Goals, Section, Table, share_cell};
use crate::samples::Samples;

const WAYS: [Way; 6] = [
    Way::Lockrun,
    Way::LockrunExec,
    Way::Flock,
    Way::FlockNoFork,
    Way::Setlock,
    Way::S6Setlock,
];

/// One tool's memory in one state, in kB.
#[derive(Default)]
struct Footprint {
    processes: usize,
    private: Samples,
    anonymous: Samples,
}

impl Footprint {
    fn add(&mut self, memory: Memory) {
        self.processes = memory.processes;
        self.private.push(memory.private as f64);
        self.anonymous.push(memory.anonymous as f64);
    }

    fn cells(&self, peer: Option<&Footprint>) -> [String; 4] {
        [
            self.processes.to_string(),
            format!("{:.0}", self.private.median()),
            share_cell(Some(&self.private), peer.map(|peer| &peer.private)),
            format!("{:.0}", self.anonymous.median()),
        ]
    }
}

/// One tool's memory in both states.
#[derive(Default)]
struct Footprints {
    holder: Footprint,
    waiter: Footprint,
}

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

    const FIGURES: [&str; 4] = ["processes", "private kB", "÷ flock(1)", "anonymous Pss, kB"];
    let mut holders = Table::new(&[&["while COMMAND runs"], &FIGURES[..]].concat());
    let mut waiters = Table::new(&[&["a waiter"], &FIGURES[..]].concat());
    for (tool, each) in tools.iter().zip(&footprints) {
        let name = || std::iter::once(tool.way.name().to_string());
        holders.row(name().chain(each.holder.cells(flock.map(|peer| &peer.holder))));
        waiters.row(name().chain(each.waiter.cells(flock.map(|peer| &peer.waiter))));
    }

    let mut goals = Goals::default();
    for (what, state) in [
        (
            "private memory, holding",
            (|both| &both.holder) as fn(&Footprints) -> &Footprint,
        ),
        ("private memory, waiting", |both| &both.waiter),
    ] {
        goals.ratio(
            format!("{what}, lockrun ÷ flock(1)"),
            ours.map(|both| &state(both).private),
            flock.map(|both| &state(both).private),
            1.0,
        );
    }
    Ok(Section {
        title: "Memory",
        method: "Private_Clean + Private_Dirty of all processes of the tool, not of COMMAND. \
                 A pair that forked shares pages that are private to neither; the last column \
                 counts those too (of no file, shared ones divided by their users)."
            .into(),
        tables: vec![holders, waiters],
        remarks: Vec::new(),
        goals,
    })
}

/// A holder with one waiter behind it.
fn look_at(bench: &Bench, tool: &Tool, footprints: &mut Footprints) -> anyhow::Result<()> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock {
        directory: &directory,
    };
    let command = &bench.yardstick.truth;
    let queue = Queue::form(bench, &lock, tool, tool, 1, |_| vec![command.into()])?;
    let everybody = || queue.waiters().chain([queue.holder()]);
    processes::wait_until("everybody sleeps", || everybody().all(processes::sleeps))?;
    let hold = &bench.yardstick.hold;
    footprints
        .holder
        .add(Memory::of_tree(queue.holder(), hold)?);
    for waiter in queue.waiters() {
        footprints.waiter.add(Memory::of_tree(waiter, hold)?);
    }
    queue.release()?;
    Ok(())
}
