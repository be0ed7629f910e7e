//! When commands ran: the records that `stamp` leaves.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::yardstick::Yardstick;

/// Nanoseconds of CLOCK_MONOTONIC, of one boot and all its processes.
pub type Nanoseconds = i64;

/// One command's life.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub id: i64,
    pub began: Nanoseconds,
    pub ended: Nanoseconds,
}

/// The file that a queue of commands stamps.
pub struct Stamps {
    file: PathBuf,
    program: PathBuf,
}

impl Stamps {
    /// An empty file in `directory`.
    pub fn new(yardstick: &Yardstick, directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join("stamps");
        File::create(&file).with_context(|| format!("making {}", file.display()))?;
        Ok(Self { file, program: yardstick.stamp.clone() })
    }

    /// The command that leaves a record under `id`.
    pub fn command(&self, id: usize) -> Vec<OsString> {
        vec![self.program.clone().into(), self.file.clone().into(), id.to_string().into()]
    }

    /// The same, asleep for `microseconds` between beginning and end.
    pub fn command_that_takes(&self, id: usize, microseconds: u32) -> Vec<OsString> {
        let mut command = self.command(id);
        command.push(microseconds.to_string().into());
        command
    }

    /// All records so far, by beginning.
    pub fn read(&self) -> anyhow::Result<Vec<Stamp>> {
        const FIELD: usize = size_of::<i64>();
        let bytes = fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?;
        let (fields, rest) = bytes.as_chunks::<FIELD>();
        ensure!(rest.is_empty() && fields.len().is_multiple_of(3), "a damaged record");
        let mut stamps: Vec<Stamp> = fields
            .chunks_exact(3)
            .map(|record| Stamp {
                id: i64::from_ne_bytes(record[0]),
                began: i64::from_ne_bytes(record[1]),
                ended: i64::from_ne_bytes(record[2]),
            })
            .collect();
        stamps.sort_by_key(|stamp| stamp.began);
        Ok(stamps)
    }
}

/// From the end of each command to the beginning of the one that took its
/// place, when `places` of them may run at once.
///
/// # Errors
/// More than `places` ran at once.
pub fn hand_overs(stamps: &[Stamp], places: usize) -> anyhow::Result<Vec<Nanoseconds>> {
    let mut ends: Vec<Nanoseconds> = stamps.iter().map(|stamp| stamp.ended).collect();
    ends.sort_unstable();
    stamps
        .iter()
        .skip(places)
        .zip(ends)
        .map(|(next, end)| {
            ensure!(next.began >= end, "more than {places} commands ran at once, so the figures mean nothing");
            Ok(next.began - end)
        })
        .collect()
}
