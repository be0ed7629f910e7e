//! From the end of one command to the start of the next, in a queue.

use crate::Bench;
use crate::contenders::Queue;
use crate::peers::{Lock, Tool, Way};
use crate::report::{Goals, Section, Table, share_cell, spread};
use crate::samples::Samples;
use crate::stamps::{self, Stamps};

const WAYS: [Way; 9] = [
    Way::LockExec,
    Way::LockSpawn,
    Way::Lockrun,
    Way::LockrunBefore,
    Way::LockrunExec,
    Way::Flock,
    Way::FlockNoFork,
    Way::Setlock,
    Way::S6Setlock,
];

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let tools = bench.peers.among(&WAYS);
    let mut gaps = vec![Samples::default(); tools.len()];
    for turn in 0..bench.effort.queues {
        // Each queue round starts with another tool.
        for place in 0..tools.len() {
            let index = (place + turn) % tools.len();
            hand_through(bench, tools[index], &mut gaps[index])?;
        }
    }
    let of = |way: Way| {
        let index = tools.iter().position(|tool| tool.way == way)?;
        Some(&gaps[index])
    };

    let mut table =
        Table::new(&["contender", "median ms", "middle half", "÷ flock(1)", "÷ C: lock, exec", "hand-overs"]);
    for (tool, gaps) in tools.iter().zip(&gaps) {
        let [median, middle_half] = spread(gaps, 3);
        table.row([
            tool.way.name().into(),
            median,
            middle_half,
            share_cell(Some(gaps), of(Way::Flock)),
            share_cell(Some(gaps), of(Way::LockExec)),
            gaps.len().to_string(),
        ]);
    }

    let mut goals = Goals::default();
    let mut peers = vec![(Way::Flock, 0.75), (Way::Setlock, 1.03)];
    peers.extend(of(Way::LockrunBefore).map(|_| (Way::LockrunBefore, 1.12)));
    for (theirs, at_most) in peers {
        goals.ratio(format!("hand-over, lockrun ÷ {}", theirs.name()), of(Way::Lockrun), of(theirs), at_most);
    }
    Ok(Section {
        title: "Hand-over in a queue",
        method: format!(
            "{} contenders; the first starts when all sleep. From the last act of \
             one command to the first of the next; {} queues of each tool, by turns.",
            bench.effort.contenders, bench.effort.queues
        ),
        tables: vec![table],
        remarks: Vec::new(),
        goals,
    })
}

/// One queue: adds its hand-overs, in milliseconds, to `gaps`.
fn hand_through(bench: &Bench, tool: &Tool, gaps: &mut Samples) -> anyhow::Result<()> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock { directory: &directory };
    let stamps = Stamps::new(&bench.yardstick, &directory)?;
    let count = bench.effort.contenders;
    Queue::form(bench, &lock, tool, tool, count, |id| stamps.command(id))?.release()?;
    for gap in stamps::hand_overs(&stamps.read()?, 1)? {
        gaps.push(gap as f64 / 1e6);
    }
    Ok(())
}
