//! `DIR/.floor`: the largest fencing token of a pruned lock file. New files start above
//! it, so that the fencing tokens of a name rise even when its file is gone.

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

/// Lock files end in `.lock` or `.gate`.
const NAME: &str = ".floor";
/// Another prune keeps it locked for microseconds.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The largest fencing token of a pruned file; 0 if there is none.
///
/// An unreadable or damaged file counts as none: then the clock alone makes the next
/// token larger.
pub fn read(dir: &Dir) -> u64 {
    let Ok((file, _)) = open::lock_file_to_look_at(dir, NAME) else { return 0 };
    number_in(&file).ok().flatten().unwrap_or(0)
}

/// Makes it at least `fence`.
/// Errors: it cannot be written; the error names the file and what to do.
///
/// # Crash
/// Leaves the old or the new number: one write, and the length never changes.
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

/// Gives up after a second: other users of the directory must not block us.
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

/// The number; `None` in a new file, after a power cut that lost the text, or if it is
/// beyond any clock.
/// Errors: the text is foreign.
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
    // More digits than a number has are damage as well.
    let number = std::str::from_utf8(digits)?.parse().ok();
    Ok(number.filter(|number| record::is_fence(*number)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    proptest! {
        #[test]
        fn hostile_floors_are_foreign_or_what_a_clock_can_have_made(
            text in crate::hostile::text("1795627719775087\n0000000000000042"),
        ) {
            let file = File::from(memfd_create("floor", MemfdFlags::CLOEXEC).unwrap());
            file.write_all_at(&text, 0).unwrap();
            let number = number_in(&file).ok().flatten();
            prop_assert!(number.is_none_or(record::is_fence), "{:?}", number);
        }
    }
}
