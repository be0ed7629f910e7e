//! The lock files that we run under, found by their markers in our environment and by
//! the descriptors that COMMAND inherits.

use std::fs::{self, File};
use std::iter;

use anyhow::{Result, bail};
use rustix::fs::fstat;
use rustix::process::getpid;

use super::identity::Identity;
use super::nesting::{self, Marker};
use crate::lock::markers;
use crate::process;
use crate::record;
use crate::sys;

/// A lock around us.
pub struct LockAround {
    pub is_held: bool,
    /// Whether its file was removed or replaced, so that others can take it.
    pub is_replaced: bool,
    pub fence: u64,
    pub slot: Option<u32>,
    /// When it expires, RFC 3339.
    pub expires: Option<String>,
}

/// Looks at the `number` innermost locks around us, in the order of LOCKRUN_NAME; those
/// that are not in a file are left out.
/// Errors: one cannot be seen, because an ancestor belongs to another user.
pub fn locks_around(number: usize) -> Result<Vec<LockAround>> {
    let all = markers::around();
    let innermost = &all[all.len().saturating_sub(number)..];
    innermost.iter().filter_map(|word| word.parse().ok()).map(look_at).collect()
}

fn look_at(marker: Marker) -> Result<LockAround> {
    let around = |is_held, is_replaced, expires| {
        Ok(LockAround { is_held, is_replaced, fence: marker.fence, slot: marker.slot(), expires })
    };
    let us = getpid().as_raw_nonzero().get();
    let (mut is_hidden, mut was_inherited) = (false, false);
    // An ancestor has it where the descriptor was closed on the way.
    for pid in iter::once(us).chain(process::ancestors(us).filter(|pid| *pid != 1)) {
        let directory = format!("/proc/{pid}/fd");
        let numbers = sys::numbers_in(&directory);
        is_hidden |= numbers.is_empty();
        for path in numbers.into_iter().map(|number| format!("{directory}/{number}")) {
            let is_it = rustix::fs::stat(&path).is_ok_and(|stat| Identity::from(&stat) == marker.identity);
            // A new description, which has no lock of its own.
            let Some(file) = is_it.then(|| File::open(&path).ok()).flatten() else { continue };
            was_inherited = true;
            if nesting::held_around(&[marker], &file, marker.identity).is_empty() {
                continue;
            }
            let named = fs::read_link(&path).ok().and_then(|name| Identity::behind(&name).ok().flatten());
            let is_removed = fstat(&file).is_ok_and(|stat| stat.st_nlink == 0);
            let mut records = record::all(&file).into_iter().map(|(_, record)| record);
            let expires = records.find(|record| record.fence == marker.fence).and_then(|record| record.expires);
            return around(true, is_removed || named != Some(marker.identity), expires);
        }
    }
    if is_hidden && !was_inherited {
        bail!(
            "whether the lock around this command is held cannot be seen from here: another user runs a process around it"
        );
    }
    around(false, false, None)
}
