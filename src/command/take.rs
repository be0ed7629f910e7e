//! Taking a lock in this process, which sleeps until the grant.
//!
//! For locks that outlive us or that we hold ourselves: no child waits, so nothing can
//! be granted after our end.

use std::os::fd::AsFd;

use anyhow::{Context, Result};

use super::engine::{FileEngine, FileHeld, FileQueued};
use super::request::LockRequest;
use crate::child::{Lookout, is_deadly};
use crate::exit::Exit;
use crate::lock::{Admission, Engine, NotGranted, Waited};
use crate::sys::{self, Arrived};

/// Takes the lock, or says why not and returns the exit. On an error the lock is not
/// ours.
pub fn take(request: &LockRequest) -> Result<Result<FileHeld, Exit>> {
    loop {
        match wait_for(request)?.map_err(|not| request.not_granted(not)) {
            Ok(held) => return Ok(Ok(held)),
            Err(Some(exit)) => return Ok(Err(exit)),
            Err(None) => {}
        }
    }
}

/// Waits for the lock, and asks again as often as that is needed.
pub fn wait_for(request: &LockRequest) -> Result<Waited<FileHeld>> {
    let engine = request.engine.files()?;
    loop {
        let waited = match engine.ask(&request.patience)? {
            Admission::Granted(held) => Ok(held),
            Admission::Not(not) => Err(not),
            Admission::Queued(place) => wait(request, engine, place)?,
        };
        match waited {
            Err(NotGranted::Again) => {}
            Err(NotGranted::Stopped(signal)) => sys::stop_by(signal),
            waited => return Ok(waited),
        }
    }
}

fn wait(request: &LockRequest, engine: &FileEngine, mut place: FileQueued) -> Result<Waited<FileHeld>> {
    let keep: Vec<_> = engine.dir().map(AsFd::as_fd).into_iter().collect();
    let lookout = Lookout::start(&keep, request.waiting()).context("cannot start a process")?;
    let signals: Vec<i32> = (1..=31).filter(|signal| is_deadly(*signal) && !is_never_caught(*signal)).collect();
    let signals = [&signals[..], &sys::STOPPING].concat();
    let interrupter = sys::Interrupter::new(request.patience.left(), &signals, &request.patience.mask)
        .context("cannot make a timer")?;
    let waited = place.wait_for_turn(&request.patience);
    drop(interrupter);
    drop(lookout);
    let waited = waited?;
    // After a signal that ends us, dropping the place gives back what was granted.
    Ok(match sys::take_caught() {
        Some(Arrived::LetGo { ask, sender }) => Err(NotGranted::AskedToLetGo { ask, sender }),
        Some(Arrived::Signal { number, .. }) if !sys::STOPPING.contains(&number) => Err(NotGranted::Ended(number)),
        Some(Arrived::Signal { number, .. }) if waited.is_err() => Err(NotGranted::Stopped(number)),
        // A stop that came after the grant: we hold up nobody in the queue.
        _ => waited.map(|()| place.into_held()),
    })
}

/// Faults of the program itself, and what cannot be caught.
fn is_never_caught(signal: i32) -> bool {
    [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS]
        .contains(&signal)
}
