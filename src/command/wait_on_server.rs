//! What happens here while a keeper waits for locks on a server: signals, the clock,
//! and messages. This process does not touch the network.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};

use super::engine::server::{Progress, ServerHeld, ServerQueued};
use super::request::LockRequest;
use crate::child::{Watch, is_deadly};
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::{NotGranted, Wakes};
use crate::message;
use crate::sys::{self, Arrived, SignalFd, suspend_aware_now};

pub enum OnServer {
    Granted(Box<ServerHeld>),
    Not(NotGranted),
    /// Without them, and the message has been printed.
    Over(Exit),
}

/// Watches the keeper until the wait is over, by the end of `owner` as well. An abandoned
/// keeper deletes its row by itself, so nobody waits for the network.
pub fn wait_on_server(
    request: &LockRequest,
    mut queued: ServerQueued,
    owner: Option<BorrowedFd<'_>>,
) -> Result<OnServer> {
    let signals = SignalFd::of_all().context("cannot watch signals")?;
    if let Some(remark) = request.engine.remark() {
        request.tell_verbose(|| remark.into());
    }
    let mut is_connected = false;
    // When the keeper last looked for the holders.
    let mut seen_at = None;
    let mut patience = request.patience;
    let mut waiting = request.waiting_since(patience);
    let over = loop {
        let progress = queued.progress().context("cannot start a process that keeps the lock")?;
        match progress {
            None => {}
            Some(Progress::Connected(description)) => {
                is_connected = true;
                waiting.hide();
                patience.since = request.answered.get().unwrap_or_else(Instant::now);
                request.answered.set(Some(patience.since));
                request.tell_verbose(|| description);
                waiting = request.waiting_since(patience);
                continue;
            }
            Some(Progress::Holders) => {
                seen_at = Some(Instant::now());
                continue;
            }
            Some(Progress::Remark(text)) => {
                waiting.hide();
                request.tell_verbose(|| text.into());
                continue;
            }
            Some(Progress::Granted(grants)) => {
                waiting.hide();
                return Ok(OnServer::Granted(Box::new(queued.into_held(grants))));
            }
            Some(Progress::Refused(refusal)) => break OnServer::Not(NotGranted::Refused(refusal)),
            Some(Progress::GaveUp(how)) => {
                waiting.hide();
                let how = printable(how.as_bytes());
                message::tell_about(&request.name, &format!("{how} while waiting; the command was not started"));
                break OnServer::Over(Exit::Lost);
            }
            Some(Progress::Failed { is_unreachable, text }) => {
                waiting.hide();
                break OnServer::Over(store_failed(request, is_unreachable, &text));
            }
        }
        let left = patience.left().filter(|_| is_connected && patience.waits());
        if left.is_some_and(|left| left.is_zero()) {
            break OnServer::Not(NotGranted::TimedOut);
        }
        let look = if seen_at.is_some() { waiting.look() } else { None };
        let look = look.map(|at| at.saturating_duration_since(Instant::now()));
        let to_ask = seen_at.and_then(|seen_at| until_next_look(seen_at, [look, left]));
        if to_ask == Some(Duration::ZERO) {
            queued.look_again();
            seen_at = Some(Instant::now());
        }
        if owner.is_some_and(|owner| sys::is_readable(owner, Some(Duration::ZERO)) == Ok(true)) {
            break OnServer::Not(NotGranted::OwnerEnded);
        }
        let limit = [look, left, to_ask].into_iter().flatten().min();
        let arrived = sleep(queued.wakes(), &signals, owner, limit)?;
        match arrived {
            Arrived::LetGo { ask, sender } => break OnServer::Not(NotGranted::AskedToLetGo { ask, sender }),
            Arrived::Signal { number, .. } if sys::STOPPING.contains(&number) && !sys::is_ignored(number) => {
                break OnServer::Not(NotGranted::Stopped(number));
            }
            Arrived::Signal { number, .. } if is_deadly(number) => {
                break OnServer::Not(NotGranted::Ended(number));
            }
            Arrived::Child { .. } | Arrived::Signal { .. } | Arrived::Timer | Arrived::Nothing => {}
        }
    };
    waiting.hide();
    queued.give_up();
    Ok(over)
}

/// A moment before a line is shown, the keeper looks again who holds the locks.
const AHEAD: Duration = Duration::from_millis(300);
/// But not more often: each look is a request.
const LOOKS: Duration = Duration::from_secs(5);

fn until_next_look(seen_at: Instant, shown_in: [Option<Duration>; 2]) -> Option<Duration> {
    let next = shown_in.into_iter().flatten().min()?;
    Some(next.saturating_sub(AHEAD).max(LOOKS.saturating_sub(seen_at.elapsed())))
}

fn store_failed(request: &LockRequest, is_unreachable: bool, text: &str) -> Exit {
    let text = printable(text.as_bytes());
    if is_unreachable {
        message::tell_about(&request.name, &format!("the store cannot be reached: {text}"));
        return Exit::Unreachable;
    }
    message::tell_about(&request.name, &format!("the store refuses: {text}"));
    Exit::Failed
}

/// Sleeps until a signal arrives, which is returned, or the keeper has something to
/// say, or `owner` ends.
pub fn sleep(
    wakes: Wakes<'_>,
    signals: &SignalFd,
    owner: Option<BorrowedFd<'_>>,
    limit: Option<Duration>,
) -> Result<Arrived> {
    let until = wakes.at.map(|at| at.saturating_sub(suspend_aware_now()));
    let limit = [until, limit].into_iter().flatten().min();
    let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
    polled.extend(wakes.descriptor.as_ref().map(|line| PollFd::new(line, PollFlags::IN)));
    polled.extend(owner.as_ref().map(|owner| PollFd::new(owner, PollFlags::IN)));
    sys::wait_until_ready(&mut polled, limit)?;
    Ok(sys::next_signal(Some(Duration::ZERO)))
}
