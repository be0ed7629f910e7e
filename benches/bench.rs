//! What lockrun costs beside its peers, as one Markdown report.
//!
//!     cargo bench --bench bench [-- [--quick] [SECTION]...]
//!
//! `LOCKRUN_BENCH_BEFORE=PROGRAM` compares with another lockrun, such as the one of
//! the commit before. `--quick` takes few samples, for work on the bench itself. SECTIONs choose
//! among those of [`SECTIONS`]. Without cargo's `--bench`, as in
//! `cargo test --all-targets`, the run is a quick one.
//!
//! Nothing here asserts on time: a figure is a ratio to what another program
//! needed in the same run, by turns, and a goal is met or missed in the report.
//! What does end the run is a tool that lets two commands in at once, because
//! then its figures mean nothing.
//!
//! Every lock lies in a temporary directory; no lock directory of the machine
//! is touched.

mod contenders;
mod etcd;
mod greedy;
mod hand_over;
mod machine;
mod memory;
mod peers;
mod processes;
mod report;
mod samples;
mod scratch;
mod slots;
mod stamps;
mod system_calls;
mod waiters;
mod whole_process;
mod yardstick;

use std::env;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::peers::Peers;
use crate::report::{Goals, Section};
use crate::scratch::Scratch;
use crate::yardstick::Yardstick;

/// The name on the command line and the measurement behind it, in the order of
/// the report.
const SECTIONS: [(&str, Measurement); 8] = [
    ("whole-process", whole_process::measure),
    ("hand-over", hand_over::measure),
    ("greedy", greedy::measure),
    ("memory", memory::measure),
    ("waiters", waiters::measure),
    ("slots", slots::measure),
    ("system-calls", system_calls::measure),
    ("etcd", etcd::measure),
];

type Measurement = fn(&Bench) -> anyhow::Result<Section>;

/// What every measurement works with.
struct Bench {
    peers: Peers,
    yardstick: Yardstick,
    scratch: Scratch,
    effort: Effort,
}

/// How much is measured.
struct Effort {
    /// Whole runs of each command.
    runs: usize,
    /// Queues that each tool hands its lock through.
    queues: usize,
    /// Contenders in one such queue.
    contenders: usize,
    /// How long the greedy loops run.
    greedy: Duration,
    /// Processes of each kind whose memory is looked at.
    memory_samples: usize,
    /// Waiters in the long queue.
    waiters: usize,
    /// Long queues of each tool.
    long_queues: usize,
}

impl Effort {
    /// What the goals ask for: medians of at least 500.
    const FULL: Effort = Effort {
        runs: 1000,
        queues: 10,
        contenders: 100,
        greedy: Duration::from_secs(3),
        memory_samples: 7,
        waiters: 1000,
        long_queues: 7,
    };

    const QUICK: Effort = Effort {
        runs: 100,
        queues: 2,
        contenders: 100,
        greedy: Duration::from_secs(1),
        memory_samples: 1,
        waiters: 200,
        long_queues: 1,
    };
}

struct Arguments {
    quick: bool,
    sections: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = parse(env::args().skip(1))?;
    let scratch = Scratch::new()?;
    let yardstick = Yardstick::build()?;
    let bench = Bench {
        peers: Peers::find(&yardstick, &scratch)?,
        yardstick,
        scratch,
        effort: if arguments.quick { Effort::QUICK } else { Effort::FULL },
    };

    print!("{}", machine::heading(&bench, arguments.quick)?);
    let mut goals = Goals::default();
    for (name, measure) in SECTIONS {
        if arguments.sections.is_empty() || arguments.sections.iter().any(|s| s == name) {
            eprintln!("measuring {name} ...");
            let section = measure(&bench).with_context(|| format!("measuring {name}"))?;
            print!("\n{section}");
            goals.extend(section.goals);
        }
    }
    print!("\n{}", goals.verdict());
    Ok(())
}

fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut parsed = Arguments { quick: false, sections: Vec::new() };
    let mut called_as_bench = false;
    for argument in arguments {
        match argument.as_str() {
            "--bench" => called_as_bench = true,
            "--quick" => parsed.quick = true,
            section if SECTIONS.iter().any(|(name, _)| *name == section) => {
                parsed.sections.push(argument);
            }
            other => {
                let names = SECTIONS.map(|(name, _)| name).join(", ");
                bail!("{other}: neither --quick nor one of {names}");
            }
        }
    }
    parsed.quick |= !called_as_bench;
    Ok(parsed)
}
