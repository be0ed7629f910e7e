//! The judge of a campaign on a server. It knows only when commands were seen alive,
//! and each one's fencing token.

use std::time::Duration;

/// What a command had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Had {
    /// The whole lock.
    Everything,
    /// A share of it.
    Share,
    /// One slot.
    Slot(u32),
}

/// A lock under a command that was seen alive, by the clock that runs through
/// suspend.
#[derive(Clone, Debug)]
pub struct Grant {
    pub lock: String,
    pub had: Had,
    pub fence: u64,
    pub first: Duration,
    pub last: Duration,
    /// Who it was: two locks of one set are one.
    pub who: String,
    /// Both processes that watch over the command were stopped or killed, or its lock was
    /// broken while it could not be reached: it may have lived too long.
    pub may_outlive: bool,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Pairs of grants that exclude each other.
    pub pairs: usize,
    /// Alive at the same time, without an excuse.
    pub overlaps: Vec<String>,
    /// Alive at the same time, because the first one was allowed to outlive its lock or
    /// the server took its lease back.
    pub excused: Vec<String>,
    /// The later one has no larger number.
    pub fence_errors: Vec<String>,
}

/// A time in which the server itself may take leases back that were renewed: its
/// leader was frozen for longer than a lease, in a version that does so.
pub type Window = (Duration, Duration);

impl Grant {
    fn excludes(&self, other: &Self) -> bool {
        let shared = self.had == Had::Share && other.had == Had::Share;
        let other_slot = matches!((self.had, other.had), (Had::Slot(one), Had::Slot(other)) if one != other);
        self.lock == other.lock && self.who != other.who && !shared && !other_slot
    }
}

/// Judges all pairs.
pub fn judge(mut grants: Vec<Grant>, windows: &[Window]) -> Verdict {
    grants.sort_by_key(|grant| grant.first);
    let mut verdict = Verdict::default();
    for (place, earlier) in grants.iter().enumerate() {
        for later in grants[place + 1..].iter().filter(|later| earlier.excludes(later)) {
            verdict.pairs += 1;
            // One that outlived its lock may be seen late.
            if later.fence <= earlier.fence && !later.may_outlive {
                verdict.fence_errors.push(format!("{earlier:?} before {later:?}"));
            }
            if later.first <= earlier.last {
                let took = later.first.max(earlier.first)..earlier.last;
                let text = format!("{:?}: {earlier:?} and {later:?}", took.end - took.start);
                let by_server = windows.iter().any(|(from, to)| took.start <= *to && *from <= took.end);
                let is_excused = earlier.may_outlive || by_server;
                if is_excused { &mut verdict.excused } else { &mut verdict.overlaps }.push(text);
            }
        }
    }
    verdict
}

fn grant(who: &str, had: Had, fence: u64, first: u64, last: u64) -> Grant {
    let [first, last] = [first, last].map(Duration::from_millis);
    Grant { lock: "a".into(), had, fence, first, last, who: who.into(), may_outlive: false }
}

fn counts(verdict: &Verdict) -> [usize; 4] {
    [verdict.pairs, verdict.overlaps.len(), verdict.excused.len(), verdict.fence_errors.len()]
}

#[test]
fn commands_one_after_the_other_are_accepted() {
    use Had::{Everything, Share, Slot};
    let grants = vec![
        grant("a", Everything, 1, 0, 10),
        grant("b", Share, 2, 11, 30),
        grant("c", Share, 3, 12, 20),
        grant("d", Slot(0), 5, 31, 50),
        // Not excluded by d, so its number may be smaller.
        grant("e", Slot(1), 4, 32, 40),
    ];
    assert_eq!(counts(&judge(grants, &[])), [8, 0, 0, 0]);
}

#[test]
fn two_commands_at_the_same_time_are_found() {
    use Had::{Everything, Share, Slot};
    for (one, other) in [(Everything, Everything), (Everything, Share), (Share, Slot(1)), (Slot(1), Slot(1))] {
        let grants = vec![grant("a", one, 1, 0, 10), grant("b", other, 2, 10, 20)];
        assert_eq!(counts(&judge(grants, &[])), [1, 1, 0, 0]);
    }
}

#[test]
fn fencing_tokens_that_do_not_rise_are_found() {
    for fence in [1, 2] {
        let grants = vec![grant("b", Had::Share, fence, 20, 30), grant("a", Had::Everything, 2, 0, 10)];
        assert_eq!(counts(&judge(grants, &[])), [1, 0, 0, 1]);
    }
}

#[test]
fn overlaps_that_nobody_could_prevent_are_counted_apart() {
    let mut grants = vec![grant("a", Had::Everything, 1, 0, 30), grant("b", Had::Everything, 2, 20, 40)];
    let window = [20, 25].map(Duration::from_millis);
    assert_eq!(counts(&judge(grants.clone(), &[(window[0], window[1])])), [1, 0, 1, 0]);
    grants[0].may_outlive = true;
    assert_eq!(counts(&judge(grants.clone(), &[])), [1, 0, 1, 0]);
    // Only the first one is excused.
    grants[0].may_outlive = false;
    grants[1].may_outlive = true;
    assert_eq!(counts(&judge(grants, &[])), [1, 1, 0, 0]);
}
