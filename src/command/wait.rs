//! `lockrun wait`: return once locks are free, taking nothing.
//!
//! It sleeps until a holder's process ends, and looks again then and once a second: a
//! process can let go without ending, and some holders cannot be seen. It has no place
//! in any queue, so nobody waits for it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags};

use crate::cli;
use crate::duration::{self, Limit};
use crate::exit::Exit;
use crate::lock::{Seen, Store, Target};
use crate::message;
use crate::process;
use crate::sys;

use super::selection::SelectedLocks;

/// The longest sleep between two looks.
const SECOND: Duration = Duration::from_secs(1);
/// The first sleep after a process has ended: its supervisor is about to release.
const MOMENT: Duration = Duration::from_millis(1);
/// Number of processes that are watched. The end of others is noticed within a second.
const WATCHED: usize = 64;

/// Returns when all locks are free at the same time.
pub fn wait(options: cli::Wait) -> Result<Exit> {
    let limit = options.timeout.and_then(Limit::finite);
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let locks = SelectedLocks::new(options.which)?;
    if locks.targets.is_empty() {
        bail!(cli::UsageError::form("which lock?", "lockrun wait LOCK... (or --file PATH)", "wait"));
    }
    let (mut watched, mut ended, mut pause) = (Vec::new(), false, MOMENT);
    let mut is_first_look = true;
    loop {
        let seen = locks.look_closely()?;
        let Some(busy) = seen.iter().find(|seen| !seen.is_free()) else { return Ok(Exit::Ok) };
        if std::mem::take(&mut is_first_look)
            && let Some(ours) = held_around(&locks, &seen, limit.is_none())
        {
            message::tell_deadlock(&message::shown_name(&ours.name), &ours.holders, false);
            return Ok(Exit::Deadlock);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let limit = duration::display(limit.unwrap_or_default());
            let name = message::shown_name(&busy.name);
            message::tell_about(&name, &format!("timed out after {limit}; {}", message::held_by(&busy.holders)));
            return Ok(Exit::TimedOut);
        }
        if locks.store.wait_for_change(&locks.targets, left)? {
            continue;
        }
        let holders = holders(&seen);
        if holders != watched {
            (watched, ended, pause) = (holders, false, MOMENT);
        }
        let left = left.unwrap_or(SECOND);
        let processes = if ended { Vec::new() } else { open(&watched) };
        if processes.is_empty() {
            sleep(&[], pause.min(left))?;
            pause = (pause * 2).min(SECOND);
        } else {
            ended = sleep(&processes, left.min(SECOND))?;
        }
    }
}

/// A lock that is held by a command of which we are a part. One that we may not open is
/// another user's.
fn held_around<'a>(locks: &SelectedLocks, seen: &'a [Seen], waits_forever: bool) -> Option<&'a Seen> {
    let is_ours = |target: &Target| locks.store.would_wait_for_itself(target, waits_forever).unwrap_or(false);
    let pairs = locks.targets.iter().zip(seen);
    pairs.filter(|(target, seen)| !seen.is_free() && is_ours(target)).map(|(_, seen)| seen).next()
}

fn holders(seen: &[Seen]) -> Vec<i32> {
    seen.iter().flat_map(|seen| &seen.holders).filter_map(|holder| holder.pid).take(WATCHED).collect()
}

/// Descriptors of the processes that have not ended.
fn open(pids: &[i32]) -> Vec<OwnedFd> {
    pids.iter().filter_map(|pid| process::open(*pid).ok().flatten()).collect()
}

/// Whether one of them ended meanwhile.
fn sleep(watched: &[OwnedFd], limit: Duration) -> Result<bool> {
    let mut polled: Vec<_> = watched.iter().map(|process| PollFd::new(process, PollFlags::IN)).collect();
    Ok(sys::wait_until_ready(&mut polled, Some(limit))? > 0)
}
