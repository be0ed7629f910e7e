//! The text of a lock file: one line of JSON about its holder.
//!
//! It is a hint for people, and remembers the last fencing token. Only the kernel knows
//! whether the lock is held.

mod prepared;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use prepared::{PreparedRecord, put_number};

/// Bytes of a record: constant, so that one write replaces an older text, and within a
/// page, so that a reader sees the old one or the new one.
pub const SIZE: usize = 1024;

/// The beginning of every record. A file that begins otherwise is foreign, and never
/// written to.
const BEGINNING: &[u8] = br#"{"lockrun":1,"#;

/// How [`Record::command`] begins for a token; the command line of its owner follows.
pub const TOKEN_FOR: &str = "token for ";

/// How [`Record::ended`] begins for a token that was released.
pub const RELEASED: &str = "released";

/// A holder. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Record {
    /// Version of the text.
    lockrun: u8,
    pub fence: u64,
    /// The process that called flock(2), as the kernel shows it.
    pub pid: i32,
    /// Login name, or number.
    pub user: String,
    pub host: String,
    /// When the lock was granted.
    pub since: String,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<String>,
    /// The process whose end releases a token's lock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<i32>,
    /// The script whose descriptor was locked, by a process that has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub script: Option<Script>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<u32>,
    /// Size of the pool, as this holder sees it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slots: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub shared: bool,
    /// The fence of the grant before this one, and how and when it ended, for the
    /// bearer of its token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<(u64, String)>,
    /// How and when a token's lock ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<String>,
    /// How the run under this grant ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<RunEnd>,
    /// The lock's name; a file name may end in a hash.
    pub name: String,
    /// The command line; once the grant has ended, the program alone.
    pub command: String,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// Milliseconds from the grant to the end.
    pub took: u64,
    /// Exit code of the command.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<u8>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<i32>,
    /// Whether the lock was lost before: expired, broken or replaced.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub lost: bool,
}

/// A script that holds a lock by a descriptor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    pub pid: i32,
    /// Start time of the process, in ticks since boot.
    pub start: u64,
    /// Its number on pidfs, never reused before the next boot; 0 on older kernels.
    pub id: u64,
}

/// What a holder says about itself: a [`Record`] without what the grant brings.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Login name, or number.
    pub user: String,
    pub host: String,
    /// The command line, perhaps not UTF-8.
    pub command: Vec<u8>,
    /// From the grant on.
    pub expires: Option<Duration>,
    pub is_token: bool,
    pub owner: Option<i32>,
    pub script: Option<Script>,
}

/// What a lock file contains.
#[derive(Debug, PartialEq)]
pub enum Text {
    /// A new file, or one emptied by a power cut.
    Empty,
    Record(Box<Record>),
    /// A record that cannot be parsed, or that no lockrun can have written.
    Damaged,
    /// Text of another program.
    Foreign,
}

impl Record {
    pub fn new(claim: &Claim, name: &[u8], fence: u64, pid: i32, now: SystemTime) -> Self {
        Self {
            lockrun: 1,
            fence,
            pid,
            user: claim.user.clone(),
            host: claim.host.clone(),
            since: timestamp(now),
            expires: claim.expires.and_then(|after| now.checked_add(after)).map(timestamp),
            owner: claim.owner,
            script: claim.script,
            slot: None,
            slots: None,
            shared: false,
            previous: None,
            ended: None,
            run: None,
            name: String::from_utf8_lossy(name).into_owned(),
            command: String::from_utf8_lossy(&claim.command).into_owned(),
        }
    }

    /// [`SIZE`] bytes, padded with blanks. Fields that do not fit are cut.
    pub fn to_text(&self) -> Vec<u8> {
        let mut record = self.clone();
        loop {
            let mut text = serde_json::to_vec(&record).unwrap_or_default();
            if text.len() < SIZE {
                text.resize(SIZE, b' ');
                text[SIZE - 1] = b'\n';
                return text;
            }
            let longest = [&mut record.command, &mut record.name, &mut record.host, &mut record.user]
                .into_iter()
                .max_by_key(|field| field.len());
            if let Some(field) = longest {
                let half = field.floor_char_boundary(field.len() / 2);
                field.truncate(half);
                field.push('…');
            }
        }
    }

    /// Drops the arguments of the command when the grant ends: they may be secrets, and
    /// people look at a holder's arguments only while it runs.
    pub fn drop_arguments(&mut self) {
        let start = if self.command.starts_with(TOKEN_FOR) { TOKEN_FOR.len() } else { 0 };
        let program = self.command[start..].find(' ').map_or(self.command.len(), |end| start + end);
        self.command.truncate(program);
    }

    /// Time since the grant, by the wall clock; zero if that was set back.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let since = humantime::parse_rfc3339(&self.since).ok()?;
        Some(now.duration_since(since).unwrap_or_default())
    }
}

/// A later fencing token is damage: no clock is a hundred years ahead. Believing it
/// would make every later token useless, and the largest ones have no successor.
const AHEAD: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Whether a clock can have made this fencing token.
pub fn is_fence(number: u64) -> bool {
    number <= latest_fence(SystemTime::now())
}

/// The largest valid fencing token at this time.
fn latest_fence(now: SystemTime) -> u64 {
    let clock = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    clock.saturating_add(AHEAD).as_micros().try_into().unwrap_or(u64::MAX - 1)
}

pub fn parse(text: &[u8]) -> Text {
    // After a power cut a file may have its length but no content.
    if text.iter().all(|&b| b == 0) {
        return Text::Empty;
    }
    if !text.starts_with(BEGINNING) {
        return Text::Foreign;
    }
    let line = without_padding(text).split(|&b| b == b'\n').next().unwrap_or_default();
    let Ok(mut record) = serde_json::from_slice::<Record>(line) else { return Text::Damaged };
    if !is_fence(record.fence) {
        return Text::Damaged;
    }
    record.previous = record.previous.filter(|(fence, _)| is_fence(*fence));
    Text::Record(Box::new(record))
}

/// The text before its blanks, which are most of it: the JSON parser would read them one
/// by one.
fn without_padding(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let blanks = text.rchunks_exact(16).take_while(|chunk| **chunk == [b' '; 16]).count() * 16;
    text[..text.len() - blanks].trim_ascii_end()
}

/// Offset of a slot's record, after the one of the last grant.
pub fn offset_of_slot(slot: u32) -> u64 {
    SIZE as u64 * (1 + u64::from(slot))
}

/// The record of the last grant; an unreadable file is [`Text::Empty`].
pub fn read(file: &File) -> Text {
    read_at(file, 0)
}

/// The record at an offset; see [`offset_of_slot`].
pub fn read_at(file: &File, offset: u64) -> Text {
    with_text(file, offset, parse)
}

/// Each shared holder has its own record, too, where the first slots would have theirs.
const SHARED: u32 = 64;

/// Where the record of a shared holder with this pid can be: at the first of these
/// offsets that no other living holder uses.
pub fn offsets_of_sharer(pid: i32) -> impl Iterator<Item = u64> {
    (0..8).map(move |next| offset_of_slot(pid.unsigned_abs().wrapping_add(next) % SHARED))
}

/// The slots whose records are read.
pub const MOST_SLOTS: u32 = 1024;

/// All records of a lock file: the last grant's, and each slot's or shared holder's.
pub fn all(file: &File) -> Vec<(Option<u32>, Record)> {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut text = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min((1 + MOST_SLOTS as usize) * SIZE)];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let records = text[..length].chunks(SIZE).enumerate();
    let slot = |position: usize| position.checked_sub(1).and_then(|slot| u32::try_from(slot).ok());
    let records = records.filter_map(|(position, text)| Some((slot(position), parse(text).record()?)));
    records.map(|(slot, record)| (slot.filter(|_| !record.shared), record)).collect()
}

/// The highest fencing token in a lock file; 0 if there is none.
pub fn highest_fence(file: &File) -> u64 {
    all(file).into_iter().map(|(_, record)| record.fence).max().unwrap_or(0)
}

/// Passes the bytes of a record to `act`; none if they cannot be read.
pub fn with_text<T>(file: &File, offset: u64, act: impl FnOnce(&[u8]) -> T) -> T {
    let mut text = [0; SIZE];
    let length = file.read_at(&mut text, offset).unwrap_or(0);
    act(&text[..length])
}

impl Text {
    pub fn record(self) -> Option<Record> {
        if let Text::Record(record) = self { Some(*record) } else { None }
    }
}

/// RFC 3339 in UTC, with milliseconds.
pub fn timestamp(time: SystemTime) -> String {
    // The last second that RFC 3339 can express.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.min(last)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(command: Vec<u8>) -> Claim {
        Claim { user: "ann".into(), host: "box".into(), command, expires: None, ..Claim::default() }
    }

    #[test]
    fn a_record_is_read_back() {
        let record = Record::new(&claim(b"cmd \x1b\n".to_vec()), b"calc", 7, 42, SystemTime::now());
        let text = record.to_text();
        assert_eq!(text.len(), SIZE);
        assert!(text.starts_with(BEGINNING));
        assert_eq!(text.iter().position(|&b| b == b'\n'), Some(SIZE - 1));
        assert_eq!(parse(&text), Text::Record(Box::new(record)));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_the_rest_stays() {
        let record = Record::new(&claim(vec![b'\x01'; 100_000]), &[b'n'; 4000], 7, 42, SystemTime::now());
        let text = record.to_text();
        assert_eq!(text.len(), SIZE);
        let Text::Record(read) = parse(&text) else { panic!("unreadable") };
        assert_eq!((read.fence, read.pid), (7, 42));
        assert!(read.command.ends_with('…'));
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is_damaged() {
        assert_eq!(parse(b""), Text::Empty);
        assert_eq!(parse(&[0; 1024]), Text::Empty);
        assert_eq!(parse(b"1234\n"), Text::Foreign);
        assert_eq!(parse(br#"{"lockrun":1,"fence":12"#), Text::Damaged);
    }

    #[test]
    fn a_number_that_no_clock_can_have_made_is_damage() {
        let now = SystemTime::now();
        let parsed = |fence, previous| {
            let mut record = Record::new(&claim(b"x".to_vec()), b"calc", fence, 42, now);
            record.previous = previous;
            parse(&record.to_text())
        };
        let year = 365 * 24 * 60 * 60 * 1_000_000_u64;
        let clock = latest_fence(now) - 100 * year;
        for wrong in [u64::MAX, u64::MAX - 1, clock + 101 * year] {
            assert_eq!(parsed(wrong, None), Text::Damaged);
            let record = parsed(7, Some((wrong, "released".into()))).record().unwrap();
            assert_eq!((record.fence, record.previous), (7, None));
        }
        let previous = Some((clock, "released".into()));
        let record = parsed(clock + 99 * year, previous.clone()).record().unwrap();
        assert_eq!((record.fence, record.previous), (clock + 99 * year, previous));
    }

    proptest! {
        #[test]
        fn hostile_records_are_read_as_what_a_clock_can_have_made(
            text in crate::hostile::text(include_str!("../../tests/corpus/records")),
        ) {
            let now = SystemTime::now();
            let mut padded = text.clone();
            padded.resize(SIZE, b' ');
            let read = parse(&text);
            let next = Record::new(&claim(b"x".to_vec()), b"calc", 7, 42, now);
            let mut prepared = PreparedRecord::new(&next, &claim(b"x".to_vec()), now).unwrap();
            if let Some((fence, text)) = prepared.fill(&padded, now) {
                prop_assert!(is_fence(fence));
                prop_assert_eq!(parse(text).record().map(|record| record.fence), Some(fence));
                if let Text::Record(before) = parse(&padded) {
                    prop_assert!(before.fence < fence, "{} < {}", before.fence, fence);
                }
            }
            if let Text::Record(record) = read {
                prop_assert!(is_fence(record.fence));
                let _ = record.age(now);
                let again = record.to_text();
                prop_assert_eq!(again.len(), SIZE);
                prop_assert_eq!(parse(&again).record().map(|again| again.fence), Some(record.fence));
            }
        }
    }
}
