//! `DIR/.floor`: the largest number of a grant whose file was removed. Files
//! that are made later go on from there, so that the numbers of a name rise
//! although nothing else remembers it.

use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::dir::{Dir, open_at};
use super::open;
use crate::record;

/// No lock's file has this name: theirs end in `.lock`, `.gate`.
const NAME: &str = ".floor";

/// The largest number of a removed file; 0 if none was removed.
///
/// What cannot be read, or is no fence, counts as none: then the wall clock
/// alone makes the next number larger.
pub fn read(dir: &Dir) -> u64 {
    let Ok(file) = open_at(dir, NAME, OFlags::RDONLY, Mode::empty()) else { return 0 };
    number_in(&file.into()).unwrap_or(0)
}

/// Makes it at least `fence`.
///
/// # Errors
/// It cannot be written; then no file may be removed.
///
/// # Crash
/// It is the old one or the new one: the text is written at once, and its
/// length never changes.
pub fn raise(dir: &Dir, fence: u64) -> Result<()> {
    let opened = open::lock_file(dir, NAME)?;
    if !opened.writable {
        bail!("{}: cannot be written", dir.path().join(NAME).display());
    }
    flock(&opened.file, FlockOperation::LockExclusive).context("cannot lock it")?;
    if number_in(&opened.file).unwrap_or(0) < fence {
        let text = format!("{fence:020}\n");
        opened.file.write_all_at(text.as_bytes(), 0).with_context(|| dir.path().join(NAME).display().to_string())?;
    }
    Ok(())
}

fn number_in(file: &std::fs::File) -> Option<u64> {
    let mut text = [0; 21];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok().filter(|number| record::is_fence(*number))
}
