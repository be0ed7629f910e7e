//! `--report FILE`: one line of JSON about each run.

use std::cell::OnceCell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::escape::printable_json;
use crate::exit::Exit;
use crate::message;
use crate::record::timestamp;

/// The report on one run.
pub struct Report {
    file: File,
    path: PathBuf,
    started: Instant,
    started_at: SystemTime,
    name: String,
    command: String,
    granted: OnceCell<GrantTimes>,
}

struct GrantTimes {
    at: SystemTime,
    waited: Duration,
    held: Duration,
    fence: u64,
}

/// The line that is appended. Stable: fields are only ever added.
#[derive(Serialize)]
struct ReportLine<'a> {
    /// The lock's name; several names are separated by newlines.
    name: &'a str,
    command: &'a str,
    /// RFC 3339.
    started: String,
    /// RFC 3339; null if the lock was not granted.
    granted: Option<String>,
    /// RFC 3339.
    ended: String,
    /// Seconds until the grant, or until giving up.
    waited: f64,
    /// Seconds under the lock; null if it was not granted.
    held: Option<f64>,
    /// lockrun's exit code.
    code: u8,
    /// Fencing token of the first lock.
    fence: Option<u64>,
}

impl Report {
    /// Opens or makes the file, before anything else is done: an unwritable report is
    /// an error while nothing has happened yet.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(Self {
            file: file.with_context(|| format!("cannot open the report {}", path.display()))?,
            path: path.to_owned(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            name: String::new(),
            command: String::new(),
            granted: OnceCell::new(),
        })
    }

    /// Sets the name and the command.
    pub fn about(self, name: &[u8], command: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { name: text(name), command: text(command), ..self }
    }

    /// The lock was held for this long, until now.
    pub fn held(&self, held: Duration, fence: u64) {
        let waited = self.started.elapsed().saturating_sub(held);
        let at = SystemTime::now().checked_sub(held).unwrap_or(SystemTime::UNIX_EPOCH);
        let _ = self.granted.set(GrantTimes { at, waited, held, fence });
    }

    /// Appends the line in one write, so that lines of several runs do not mix.
    pub fn finish(mut self, exit: Exit) {
        let granted = self.granted.get();
        let line = ReportLine {
            name: &self.name,
            command: &self.command,
            started: timestamp(self.started_at),
            granted: granted.map(|granted| timestamp(granted.at)),
            ended: timestamp(SystemTime::now()),
            waited: granted.map_or_else(|| self.started.elapsed(), |granted| granted.waited).as_secs_f64(),
            held: granted.map(|granted| granted.held.as_secs_f64()),
            code: exit.code(),
            fence: granted.map(|granted| granted.fence),
        };
        let line = printable_json(&serde_json::to_string(&line).unwrap_or_default()) + "\n";
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            let what = format!("cannot write the report {}", self.path.display());
            message::tell_error(&anyhow::Error::from(error).context(what));
        }
    }
}
