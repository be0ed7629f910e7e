//! A long queue: what each waiter keeps, and how fast all get through.

use std::iter;

use crate::Bench;
use crate::contenders::Queue;
use crate::peers::{Lock, Tool, Way};
use crate::processes::Memory;
use crate::report::{Goals, Section, Table, share_cell};
use crate::samples::Samples;

/// The queues of one tool.
#[derive(Default)]
struct Queues {
    processes: Samples,
    private: Samples,
    anonymous: Samples,
    formed: Samples,
    drained: Samples,
}

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let tools = bench.peers.among(&[Way::Lockrun, Way::LockrunExec, Way::Flock]);
    let mut queues: Vec<Queues> = tools.iter().map(|_| Queues::default()).collect();
    for _ in 0..bench.effort.long_queues {
        for (tool, queues) in tools.iter().zip(&mut queues) {
            drain(bench, tool, queues)?;
        }
    }
    let of = |way: Way| {
        let index = tools.iter().position(|tool| tool.way == way)?;
        Some(&queues[index])
    };
    let drained = |way: Way| of(way).map(|queues| &queues.drained);

    let mut table = Table::new(&[
        "all waiting",
        "processes each",
        "private kB each",
        "anonymous Pss, kB each",
        "all asleep after, s",
        "drained in, s",
        "÷ flock(1)",
    ]);
    for (tool, queues) in tools.iter().zip(&queues) {
        let memory = [&queues.processes, &queues.private, &queues.anonymous];
        let seconds = [&queues.formed, &queues.drained];
        table.row(
            iter::once(tool.way.name().to_string())
                .chain(memory.map(|samples| format!("{:.0}", samples.median())))
                .chain(seconds.map(|samples| format!("{:.2}", samples.median() / 1e3)))
                .chain([share_cell(Some(&queues.drained), drained(Way::Flock))]),
        );
    }

    let mut goals = Goals::default();
    goals.ratio(
        format!("{} waiters drained, lockrun ÷ flock(1)", bench.effort.waiters),
        drained(Way::Lockrun),
        drained(Way::Flock),
        0.8,
    );
    Ok(Section {
        title: "A long queue",
        method: format!(
            "{} waiters for one lock, COMMAND a static C `true`; {} such queues of each tool, by \
             turns. Drained: from the release until the last process is gone.",
            bench.effort.waiters, bench.effort.long_queues
        ),
        tables: vec![table],
        remarks: Vec::new(),
        goals,
    })
}

fn drain(bench: &Bench, tool: &Tool, queues: &mut Queues) -> anyhow::Result<()> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock { directory: &directory };
    let (count, command) = (bench.effort.waiters, &bench.yardstick.truth);
    let queue = Queue::form(bench, &lock, tool, tool, count, |_| vec![command.into()])?;
    let mut all = Memory::default();
    for waiter in queue.waiters() {
        let each = Memory::of_tree(waiter, command)?;
        all.processes += each.processes;
        all.private += each.private;
        all.anonymous += each.anonymous;
    }
    queues.processes.push(all.processes as f64 / count as f64);
    queues.private.push(all.private as f64 / count as f64);
    queues.anonymous.push(all.anonymous as f64 / count as f64);
    queues.formed.push_time(queue.formed_in);
    queues.drained.push_time(queue.release()?);
    Ok(())
}
