//! A record prepared while waiting, because work done after the grant delays the whole
//! queue.
//!
//! At the grant only the digits of the fencing token and the time are filled in.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{BEGINNING, Claim, Record, SIZE, latest_fence, without_padding};

/// The text of a record, but for its fencing token and time.
pub struct PreparedRecord {
    text: Vec<u8>,
    /// The date in the text, in days since 1970.
    day: u64,
    time_of_day: Range<usize>,
}

/// Follows [`BEGINNING`], before the fencing token.
const FENCE: &[u8] = br#""fence":"#;
const SINCE: &[u8] = br#""since":""#;
/// In the record of a released token, whose end the next record repeats. Inside a
/// string its quotes would be escaped.
const ENDED: &[u8] = br#""ended":"#;
/// The shape of the date in a timestamp.
const DATE: &str = "2026-11-22T";

const DAY: u64 = 24 * 60 * 60;

impl PreparedRecord {
    /// `record` was made at `now` for `claim`. `None`: other values of it depend on the
    /// time of the grant.
    pub fn new(record: &Record, claim: &Claim, now: SystemTime) -> Option<Self> {
        if claim.expires.is_some() || record.previous.is_some() {
            return None;
        }
        let text = record.to_text();
        let since = text.windows(SINCE.len()).position(|at| at == SINCE)? + SINCE.len();
        let time = since + DATE.len();
        let day = now.duration_since(UNIX_EPOCH).ok()?.as_secs() / DAY;
        Some(Self { text, day, time_of_day: time..time + "00:00:00.000".len() })
    }

    /// The fencing token and the text of a grant at `now`, after the text `before`;
    /// `None`: `before` must be parsed.
    pub fn fill(&mut self, before: &[u8], now: SystemTime) -> Option<(u64, &[u8])> {
        let is_whole = before.len() == SIZE;
        let before = without_padding(before);
        if !is_whole || !before.ends_with(b"}") || before.windows(ENDED.len()).any(|at| at == ENDED) {
            return None;
        }
        let last = &before[fence_in(before)?];
        let last =
            last.iter().fold(0_u64, |number, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
        if last > latest_fence(now) {
            return None;
        }
        let clock = now.duration_since(UNIX_EPOCH).ok()?;
        let fence = last.checked_add(1)?.max(clock.as_micros().try_into().ok()?);
        if clock.as_secs() / DAY != self.day {
            return None;
        }
        let seconds = clock.as_secs() % DAY;
        let times = [
            (0, 2, seconds / 3600),
            (3, 2, seconds / 60 % 60),
            (6, 2, seconds % 60),
            (9, 3, clock.subsec_millis().into()),
        ];
        for (at, width, number) in times {
            let at = self.time_of_day.start + at;
            put_digits(&mut self.text[at..at + width], number);
        }
        let digits = fence_in(&self.text)?;
        put_number(&mut self.text[digits], fence).then_some((fence, &self.text))
    }
}

/// The digits of the fencing token in a record's text.
fn fence_in(text: &[u8]) -> Option<Range<usize>> {
    let start = BEGINNING.len() + FENCE.len();
    let digits = text.strip_prefix(BEGINNING)?.strip_prefix(FENCE)?;
    // Nineteen digits always fit into 64 bits.
    let length = digits.iter().take(20).position(|digit| !digit.is_ascii_digit())?;
    (length > 0).then_some(start..start + length)
}

/// Overwrites the digits of a number. `false`: the new one has fewer or more.
pub fn put_number(field: &mut [u8], number: u64) -> bool {
    put_digits(field, number) && !field.starts_with(b"0")
}

/// Writes a number into a field. `false`: it does not fit.
fn put_digits(field: &mut [u8], mut number: u64) -> bool {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    number == 0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Text, parse};
    use super::*;

    fn claim() -> Claim {
        let command = br#"x "since":"y" "ended":"#.to_vec();
        Claim { user: "ann".into(), host: "box".into(), command, ..Claim::default() }
    }

    fn record(fence: u64, now: SystemTime) -> Record {
        Record::new(&claim(), b"calc", fence, 42, now)
    }

    fn at(day: u64, milliseconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis((day * DAY) * 1000 + milliseconds)
    }

    #[test]
    fn a_draft_that_is_filled_is_what_the_record_would_have_been() {
        let (then, now) = (at(20_000, 1), at(20_000, 86_399_999));
        let micros = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        for last in [1, micros(then), micros(now) - 1, micros(now), micros(now) + 77] {
            let mut draft = PreparedRecord::new(&record(micros(then), then), &claim(), then).unwrap();
            let (fence, text) = draft.fill(&record(last, then).to_text(), now).unwrap();
            assert_eq!(fence, micros(now).max(last + 1));
            assert_eq!(parse(text), Text::Record(Box::new(record(fence, now))));
        }
    }

    #[test]
    fn what_takes_a_closer_look_is_not_filled() {
        let now = at(20_000, 5);
        let mut draft = PreparedRecord::new(&record(7, now), &claim(), now).unwrap();
        let whole = record(7, now).to_text();
        let ended = Record { ended: Some("released".into()), ..record(7, now) }.to_text();
        let foreign = vec![b' '; SIZE];
        for before in [&whole[..20], b"", &[0; SIZE], &foreign, &ended] {
            assert!(draft.fill(before, now).is_none(), "{before:?}");
        }
        assert!(draft.fill(&whole, at(20_001, 0)).is_none());
        for no_clock in [u64::MAX, 9_999_999_999_999_999_999, latest_fence(now) + 1] {
            assert!(draft.fill(&record(no_clock, now).to_text(), now).is_none());
        }
        let expires = Some(Duration::from_secs(1));
        assert!(PreparedRecord::new(&record(7, now), &Claim { expires, ..claim() }, now).is_none());
    }
}
