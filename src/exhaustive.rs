//! For tests: looks at every state that a small model can reach, by the shortest way.
//!
//! A model has a step for each system call or atomic operation of its processes, and for
//! each thing that can happen to them. The search takes all steps in all orders, and finds:
//!
//! - a state or a step that the model calls wrong;
//! - a state in which some process is not done and none can go on: *stuck*;
//! - a way in which they could go on for ever: *in circles*.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// What can be searched.
pub trait Model {
    type State: Copy + Eq + Hash + Debug;

    fn start(&self) -> Self::State;

    /// Every step from here.
    fn steps(&mut self, state: &Self::State, steps: &mut Vec<Step<Self::State>>);

    /// What is wrong here.
    fn wrong(&self, state: &Self::State) -> Option<&'static str>;

    /// Whether nothing is left to do.
    fn is_done(&self, state: &Self::State) -> bool;
}

/// One step of one process.
pub struct Step<S> {
    pub label: &'static str,
    /// Whether it happens to the process (a kill, a removed file), which nobody may rely
    /// on.
    pub is_mishap: bool,
    /// The state after it; an error: the step itself is wrong.
    pub to: Result<S, &'static str>,
}

/// What a search found.
pub struct Found {
    pub states: usize,
    pub steps: usize,
    /// What went wrong, each with its shortest history.
    pub wrong: BTreeMap<&'static str, Vec<String>>,
}

pub const STUCK: &str = "stuck";
pub const IN_CIRCLES: &str = "in circles";

/// Goes through every state, or until something is wrong in `stop_at` ways.
pub fn search<M: Model>(model: &mut M, stop_at: usize) -> Found {
    let start = model.start();
    let mut numbers = HashMap::<_, _, BuildHasherDefault<Mixer>>::from_iter([(start, 0_u32)]);
    let mut states = vec![start];
    // How each state was reached first.
    let mut came_from = vec![(0_u32, "start")];
    // Steps that are no mishaps.
    let mut own_steps: Vec<Vec<u32>> = Vec::new();
    let mut wrong: BTreeMap<&'static str, (u32, &'static str)> = BTreeMap::new();
    let (mut steps, mut total) = (Vec::new(), 0);
    let mut at = 0;
    while at < states.len() && wrong.len() < stop_at {
        let state = states[at];
        let number = at as u32;
        at += 1;
        let mut own = Vec::new();
        if let Some(why) = model.wrong(&state) {
            wrong.entry(why).or_insert((number, ""));
            own_steps.push(own);
            continue;
        }
        model.steps(&state, &mut steps);
        total += steps.len();
        let mut is_stuck = !model.is_done(&state);
        for Step { label, is_mishap, to } in steps.drain(..) {
            is_stuck &= is_mishap;
            let to = match to {
                Ok(to) => to,
                Err(why) => {
                    wrong.entry(why).or_insert((number, label));
                    continue;
                }
            };
            let next = *numbers.entry(to).or_insert_with(|| {
                states.push(to);
                came_from.push((number, label));
                states.len() as u32 - 1
            });
            if !is_mishap {
                own.push(next);
            }
        }
        if is_stuck {
            wrong.entry(STUCK).or_insert((number, ""));
        }
        own_steps.push(own);
    }
    if wrong.is_empty()
        && let Some(number) = in_circles(&own_steps)
    {
        wrong.insert(IN_CIRCLES, (number, ""));
    }
    let history = |(last, label): (u32, &'static str)| {
        let mut lines = vec![label.to_owned()];
        let mut number = last;
        while number != 0 {
            let (before, label) = came_from[number as usize];
            lines.push(format!("{label}: {:?}", states[number as usize]));
            number = before;
        }
        lines.reverse();
        lines
    };
    let wrong = wrong.into_iter().map(|(why, at)| (why, history(at))).collect();
    Found { states: states.len(), steps: total, wrong }
}

/// Hashes the small numbers that states consist of. The usual hasher takes half of the
/// time without optimisation.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// A state from which own steps lead back to it.
fn in_circles(own_steps: &[Vec<u32>]) -> Option<u32> {
    let mut before = vec![0_u32; own_steps.len()];
    own_steps.iter().flatten().for_each(|next| before[*next as usize] += 1);
    let numbers = 0..own_steps.len() as u32;
    let mut free: Vec<_> = numbers.clone().filter(|number| before[*number as usize] == 0).collect();
    while let Some(number) = free.pop() {
        for next in &own_steps[number as usize] {
            before[*next as usize] -= 1;
            if before[*next as usize] == 0 {
                free.push(*next);
            }
        }
    }
    numbers.into_iter().find(|number| before[*number as usize] > 0)
}
