//! `DIR/.floor`: the largest number of a grant whose file was removed. Files
//! that are made later go on from there, so that the numbers of a name rise
//! although nothing else remembers it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::dir::Dir;
use super::open::{self, NotPlain};
use crate::advice::Advice;
use crate::record;
use crate::sys;

/// No lock's file has this name: theirs end in `.lock`, `.gate`.
const NAME: &str = ".floor";
/// Another prune has it locked for microseconds.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The largest number of a removed file; 0 if none was removed.
///
/// What cannot be read, or is no fence, counts as none: then the wall clock
/// alone makes the next number larger.
pub fn read(dir: &Dir) -> u64 {
    let Ok((file, _)) = open::lock_file_to_look_at(dir, NAME) else { return 0 };
    number_in(&file).ok().flatten().unwrap_or(0)
}

/// Makes it at least `fence`.
///
/// # Errors
/// It cannot be written: the error names the file, and what to do.
///
/// # Crash
/// It is the old one or the new one: the text is written at once, and its
/// length never changes.
pub fn raise(dir: &Dir, fence: u64) -> Result<()> {
    let opened = open::lock_file(dir, NAME).map_err(|error| match error.downcast_ref::<NotPlain>() {
        Some(not_plain) => anyhow!("{}: {not_plain}", shown(dir)).context(Advice::new("remove it")),
        None => error,
    })?;
    if !opened.writable {
        bail!("{}: its file system is read-only", shown(dir));
    }
    lock(&opened.file).with_context(|| format!("{}: cannot lock it", shown(dir)))?;
    match number_in(&opened.file) {
        Ok(Some(number)) if number >= fence => Ok(()),
        Ok(_) => {
            let text = format!("{fence:020}\n");
            opened.file.write_all_at(text.as_bytes(), 0).with_context(|| format!("{}: cannot write it", shown(dir)))
        }
        Err(_) => Err(anyhow!("{}: its content is not lockrun's", shown(dir))).context(Advice::new("remove it")),
    }
}

fn shown(dir: &Dir) -> String {
    dir.path().join(NAME).display().to_string()
}

/// Somebody else who may use the directory must not hold us up.
fn lock(file: &File) -> Result<()> {
    let start = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if start.elapsed() < LOCK_LIMIT => sys::nap(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => bail!("another process has had it locked for {LOCK_LIMIT:?}"),
            other => return Ok(other?),
        }
    }
}

/// The number; none in a new file, or where a power cut has left one without
/// its text, or where no clock can have made it.
///
/// # Errors
/// The text is somebody else's.
fn number_in(file: &File) -> Result<Option<u64>> {
    let mut text = [0; 64];
    let length = file.read_at(&mut text, 0)?;
    let text = &text[..length];
    if text.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let digits = text.trim_ascii_end();
    if !digits.iter().all(u8::is_ascii_digit) {
        bail!("no number");
    }
    // More digits than a number has are damage too.
    let number = std::str::from_utf8(digits)?.parse().ok();
    Ok(number.filter(|number| record::is_fence(*number)))
}
