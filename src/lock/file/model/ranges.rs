//! What fcntl(2) does with byte-range locks of open file descriptions. Each set of
//! ranges that a description has ever had got a number, so that a state is small.

use crate::sys::Kind;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub start: i64,
    pub end: i64,
    pub kind: Kind,
}

/// The ranges of one description.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct RangeSet(u8);

/// All sets, by their numbers.
pub struct RangeSets(Vec<Vec<Range>>);

impl RangeSets {
    pub fn new() -> Self {
        Self(vec![Vec::new()])
    }

    /// The set after `F_OFD_SETLK` of this range. `None` unlocks it.
    pub fn after(&mut self, set: RangeSet, start: i64, end: i64, kind: Option<Kind>) -> RangeSet {
        let mut ranges = Vec::new();
        for had in self.get(set) {
            ranges.push(Range { end: had.end.min(start), ..*had });
            ranges.push(Range { start: had.start.max(end), ..*had });
        }
        ranges.extend(kind.map(|kind| Range { start, end, kind }));
        ranges.retain(|range| range.start < range.end);
        ranges.sort_by_key(|range| range.start);
        // The kernel joins neighbours of one kind.
        ranges.dedup_by(|next, range| {
            let joins = range.end == next.start && range.kind == next.kind;
            if joins {
                range.end = next.end;
            }
            joins
        });
        let known = self.0.iter().position(|known| *known == ranges);
        RangeSet(known.unwrap_or_else(|| {
            self.0.push(ranges);
            self.0.len() - 1
        }) as u8)
    }

    /// The ranges that keep another description from locking this one.
    pub fn conflicts(&self, set: RangeSet, start: i64, end: i64, kind: Kind) -> impl Iterator<Item = Range> {
        let is_in_the_way =
            move |had: &&Range| had.start < end && start < had.end && (kind == Kind::Write || had.kind == Kind::Write);
        self.get(set).iter().filter(is_in_the_way).copied()
    }

    fn get(&self, set: RangeSet) -> &[Range] {
        &self.0[usize::from(set.0)]
    }
}
