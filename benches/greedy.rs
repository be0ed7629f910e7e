//! Loops that release and ask again at once: who gets the turns?

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::Bench;
use crate::peers::{Lock, Tool, Way};
use crate::report::{Goals, Section, Table, two_places};
use crate::stamps::{self, Nanoseconds, Stamps};

const LOOPS: usize = 8;

/// How the turns were shared out.
struct Shares {
    turns_of_each: Vec<usize>,
    longest_wait: Duration,
    /// Most turns of others that began during one wait: what a queue can be
    /// judged by, whatever else keeps a processor busy meanwhile.
    most_turns: usize,
    one_turn: Duration,
}

impl Shares {
    fn most_to_fewest(&self) -> f64 {
        let turns = || self.turns_of_each.iter().copied();
        turns().max().unwrap_or(0) as f64 / turns().min().unwrap_or(0) as f64
    }

    /// The longest wait, in turns of other loops, as a share of two rounds.
    fn turns_in_two_rounds(&self) -> f64 {
        self.most_turns as f64 / (2 * LOOPS) as f64
    }
}

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut table =
        Table::new(&["eight loops", "turns of each", "most : fewest", "one turn, ms", "longest wait, ms", "in turns"]);
    let mut ours = None;
    for tool in bench.peers.among(&[Way::Lockrun, Way::Flock]) {
        let shares = run_loops(bench, tool)?;
        let turns: Vec<String> = shares.turns_of_each.iter().map(usize::to_string).collect();
        table.row([
            tool.way.name().into(),
            turns.join(" "),
            two_places(shares.most_to_fewest()),
            format!("{:.2}", shares.one_turn.as_secs_f64() * 1e3),
            format!("{:.1}", shares.longest_wait.as_secs_f64() * 1e3),
            shares.most_turns.to_string(),
        ]);
        if tool.way == Way::Lockrun {
            ours = Some(shares);
        }
    }

    let mut goals = Goals::default();
    let ours = ours.as_ref();
    goals.figure("greedy loops, most : fewest turns", ours.map(Shares::most_to_fewest), 1.1);
    goals.figure("greedy loops, longest wait in turns ÷ 2 × 8", ours.map(Shares::turns_in_two_rounds), 1.0);
    Ok(Section {
        title: "Greedy loops",
        method: format!(
            "{LOOPS} loops run the tool again and again for {} s. A wait reaches from a loop's \
             spawn to the start of its command, and is also counted in turns of other loops that \
             began meanwhile; one turn is all the time divided by all turns.",
            bench.effort.greedy.as_secs()
        ),
        tables: vec![table],
        remarks: Vec::new(),
        goals,
    })
}

fn run_loops(bench: &Bench, tool: &Tool) -> anyhow::Result<Shares> {
    let directory = bench.scratch.locks_directory()?;
    let lock = Lock { directory: &directory };
    let stamps = Stamps::new(&bench.yardstick, &directory)?;
    let end = Instant::now() + bench.effort.greedy;
    let asked: Vec<Vec<Nanoseconds>> = thread::scope(|scope| {
        let loops: Vec<_> = (0..LOOPS)
            .map(|id| {
                let command = stamps.command(id);
                let lock = &lock;
                scope.spawn(move || {
                    let mut asked = Vec::new();
                    while Instant::now() < end {
                        asked.push(now());
                        let status = tool.command(lock, &command).status()?;
                        ensure!(status.success(), "a turn ended with {status}");
                    }
                    Ok(asked)
                })
            })
            .collect();
        loops.into_iter().map(|each| each.join().expect("a loop does not panic")).collect::<anyhow::Result<_>>()
    })?;

    let stamps = stamps.read()?;
    stamps::hand_overs(&stamps, 1)?; // nobody overlapped
    let waits = asked.iter().enumerate().flat_map(|(id, asked)| {
        let began = stamps.iter().filter(move |stamp| stamp.id == id as i64).map(|stamp| stamp.began);
        asked.iter().copied().zip(began)
    });
    let longest = waits.clone().map(|(asked, began)| began - asked).max().context("no waits at all")?;
    let turns_during = |(asked, began): (Nanoseconds, Nanoseconds)| {
        let first = stamps.partition_point(|stamp| stamp.began < asked);
        stamps.partition_point(|stamp| stamp.began < began) - first
    };
    let (first, last) = stamps.first().zip(stamps.last()).context("no turns at all")?;
    let all = Duration::from_nanos((last.ended - first.began).unsigned_abs());
    Ok(Shares {
        turns_of_each: asked.iter().map(Vec::len).collect(),
        longest_wait: Duration::from_nanos(longest.unsigned_abs()),
        most_turns: waits.map(turns_during).max().unwrap_or(0),
        one_turn: all / u32::try_from(stamps.len())?,
    })
}

/// On the clock of the stamps.
fn now() -> Nanoseconds {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
