//! Several holders at once: do the places stay filled?

use crate::Bench;
use crate::contenders::Queue;
use crate::peers::{Lock, SLOTS, Tool, Way};
use crate::report::{Goals, Section, Table, spread};
use crate::samples::Samples;
use crate::stamps::{self, Stamps};

/// How long each command runs, so that places overlap.
const COMMAND_MICROSECONDS: u32 = 10_000;

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut table =
        Table::new(&["contender", "hand-over median ms", "middle half", "drained in, ms", "÷ commands alone"]);
    let mut remarks = Vec::new();
    match bench.peers.get(Way::Lockrun) {
        Some(whole) => {
            let pool = bench.peers.get(Way::LockrunSlots);
            if pool.is_none() {
                remarks.push(format!("{}: not measured.", Way::LockrunSlots.name()));
            }
            for (tool, places) in [(Some(whole), 1), (pool, SLOTS)] {
                if let Some(tool) = tool {
                    table.row(fill_places(bench, whole, tool, places)?);
                }
            }
        }
        None => remarks.push("Not measured.".into()),
    }
    Ok(Section {
        title: "Slots",
        method: format!(
            "{} contenders with commands of {} ms; the first starts when all wait. A hand-over \
             reaches from a command's end to the start of the one that takes its place. The last \
             column is 1.00 if all places are filled all the time and the tool costs nothing.",
            bench.effort.contenders,
            COMMAND_MICROSECONDS / 1000,
        ),
        tables: vec![table],
        remarks,
        goals: Goals::default(),
    })
}

/// One table row: a queue of `tool` behind `whole`, which holds every place.
fn fill_places(bench: &Bench, whole: &Tool, tool: &Tool, places: usize) -> anyhow::Result<Vec<String>> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock { directory: &directory };
    let stamps = Stamps::new(&bench.yardstick, &directory)?;
    let count = bench.effort.contenders;
    let command = |id| stamps.command_that_takes(id, COMMAND_MICROSECONDS);
    let drained = Queue::form(bench, &lock, whole, tool, count, command)?.release()?;

    let stamps = stamps.read()?;
    let mut gaps = Samples::default();
    for gap in stamps::hand_overs(&stamps, places)? {
        gaps.push(gap as f64 / 1e6);
    }
    let commands: i64 = stamps.iter().map(|stamp| stamp.ended - stamp.began).sum();
    let ideal = commands as f64 / 1e6 / places as f64;
    let drained = drained.as_secs_f64() * 1e3;
    let [median, middle_half] = spread(&gaps, 3);
    Ok(vec![tool.way.name().into(), median, middle_half, format!("{drained:.0}"), format!("{:.2}", drained / ideal)])
}
