//! The last run of a free lock, from the records in its file.

use std::time::Duration;

use crate::lock::{HowEnded, LastRun};
use crate::record::{RELEASED, Record};

/// The run that ended last. Of a lock that several held at once, those whose end is
/// not known are older than the last grant.
pub fn last_run(records: &[(Option<u32>, Record)]) -> Option<LastRun> {
    let last_grant = records.iter().map(|(_, record)| record).max_by_key(|record| record.fence)?;
    let runs = records.iter().map(|(_, record)| described(record)).filter(|run| run.ended.is_some());
    match described(last_grant) {
        run if run.how == HowEnded::Unknown => Some(run),
        // RFC 3339 in UTC sorts by time.
        run => runs.max_by(|a, b| a.ended.cmp(&b.ended)).or(Some(run)),
    }
}

fn described(record: &Record) -> LastRun {
    let (how, ended, took) = match (&record.run, &record.ended) {
        (Some(run), _) => {
            let how = match (run.lost, run.code, run.signal) {
                (true, ..) => HowEnded::Lost,
                (_, Some(code), _) => HowEnded::Code(code),
                (_, _, Some(signal)) => HowEnded::Signal(signal),
                _ => HowEnded::Unknown,
            };
            (how, Some(run.at.clone()), Some(Duration::from_millis(run.took)))
        }
        (None, Some(ended)) => {
            let how = if ended.starts_with(RELEASED) { HowEnded::Released } else { HowEnded::Lost };
            let at = ended.rsplit_once(" at ").map(|(_, at)| at.to_owned());
            (how, at.clone(), at.and_then(|at| took(&record.since, &at)))
        }
        (None, None) => (HowEnded::Unknown, None, None),
    };
    LastRun {
        how,
        command: record.command.clone(),
        user: record.user.clone(),
        since: record.since.clone(),
        ended,
        took,
        fence: record.fence,
    }
}

fn took(since: &str, until: &str) -> Option<Duration> {
    let [since, until] = [since, until].map(humantime::parse_rfc3339);
    until.ok()?.duration_since(since.ok()?).ok()
}
