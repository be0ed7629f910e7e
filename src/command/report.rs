//! `--report FILE`: one line of JSON about each run, as docs/schema/report.json
//! describes it.

use std::cell::OnceCell;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::escape::printable_json;
use crate::exit::Exit;
use crate::lock::{NotGranted, Refusal};
use crate::message;
use crate::record::{Claim, timestamp};

pub struct Report {
    to: Destination,
    started: Instant,
    started_at: SystemTime,
    name: String,
    path: String,
    claim: Claim,
    granted: OnceCell<GrantTimes>,
    /// Why the lock was not granted, where the exit code does not tell.
    refused: OnceCell<&'static str>,
}

enum Destination {
    Stderr,
    File(File, PathBuf),
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
    /// The locked file; several are separated by newlines.
    path: &'a str,
    command: &'a str,
    pid: u32,
    user: &'a str,
    host: &'a str,
    /// The working directory; null if it was removed.
    directory: Option<String>,
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
    code: u8,
    /// In a word, see [`word`].
    result: &'static str,
    /// Fencing token of the first lock.
    fence: Option<u64>,
}

impl Report {
    /// Opens or makes the file, before anything else is done: an unwritable report is
    /// an error while nothing has happened yet.
    pub fn open(path: &Path) -> Result<Self> {
        let to = if path.as_os_str() == "-" {
            Destination::Stderr
        } else {
            let file = File::options().append(true).create(true).open(path);
            let file = file.with_context(|| format!("cannot open the report {}", path.display()))?;
            Destination::File(file, path.to_owned())
        };
        Ok(Self {
            to,
            started: Instant::now(),
            started_at: SystemTime::now(),
            name: String::new(),
            path: String::new(),
            claim: Claim::default(),
            granted: OnceCell::new(),
            refused: OnceCell::new(),
        })
    }

    /// Sets the locks and who asks for them.
    pub fn about(self, names: &[Vec<u8>], locations: &[Vec<u8>], claim: &Claim) -> Self {
        let text = |lines: &[Vec<u8>]| String::from_utf8_lossy(&lines.join(&b'\n')).into_owned();
        Self { name: text(names), path: text(locations), claim: claim.clone(), ..self }
    }

    /// The lock was not granted.
    pub fn not_granted(&self, not: &NotGranted) {
        let why = match not {
            NotGranted::TimedOut => "timed out",
            NotGranted::Refused(Refusal::Busy) => "busy",
            NotGranted::Refused(Refusal::QueueFull) => "queue full",
            _ => return,
        };
        let _ = self.refused.set(why);
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
        let directory = std::env::current_dir().ok();
        let line = ReportLine {
            name: &self.name,
            path: &self.path,
            command: &String::from_utf8_lossy(&self.claim.command),
            pid: std::process::id(),
            user: &self.claim.user,
            host: &self.claim.host,
            directory: directory.map(|path| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()),
            started: timestamp(self.started_at),
            granted: granted.map(|granted| timestamp(granted.at)),
            ended: timestamp(SystemTime::now()),
            waited: granted.map_or_else(|| self.started.elapsed(), |granted| granted.waited).as_secs_f64(),
            held: granted.map(|granted| granted.held.as_secs_f64()),
            code: exit.code(),
            result: self.refused.get().copied().unwrap_or_else(|| word(exit, granted.is_some())),
            fence: granted.map(|granted| granted.fence),
        };
        let line = printable_json(&serde_json::to_string(&line).unwrap_or_default()) + "\n";
        match &mut self.to {
            Destination::Stderr => message::draw(&line),
            Destination::File(file, path) => {
                if let Err(error) = file.write_all(line.as_bytes()) {
                    let what = format!("cannot write the report {}", path.display());
                    message::tell_error(&anyhow::Error::from(error).context(what));
                }
            }
        }
    }
}

/// The result in a word or two.
fn word(exit: Exit, is_granted: bool) -> &'static str {
    match exit {
        Exit::Ok | Exit::Code(0) => "succeeded",
        Exit::No | Exit::Code(_) => "failed",
        Exit::Signal(_) if is_granted => "killed",
        Exit::Signal(_) => "interrupted",
        Exit::Unreachable => "unreachable",
        Exit::Busy => "busy",
        Exit::QueueFull => "queue full",
        Exit::Deadlock => "deadlock",
        Exit::Lost => "lost",
        Exit::TimedOut => "timed out",
        Exit::Failed => "error",
        Exit::CannotExecute => "cannot execute",
        Exit::NotFound => "not found",
    }
}
