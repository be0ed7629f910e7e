//! A token of a server. The keeper that gets the locks stays only for an owner.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Acquisition;
use crate::child;
use crate::command::engine::server::{ServerEngine, ServerHeld};
use crate::command::wait_on_server::{OnServer, sleep, wait_on_server};
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::{Held, Loss, NotGranted};
use crate::message;
use crate::sys::{self, Arrived, SignalFd};
use crate::token::AnyToken;

/// What cannot be given back in time is left to the lease.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

impl Acquisition {
    /// Takes the locks and prints their token.
    pub(super) fn run_on_server(&self, engine: &ServerEngine) -> Result<Exit> {
        let owner = self.owner.as_ref().map(AsFd::as_fd);
        loop {
            let queued = engine.ask(&self.request.patience)?;
            let not = match wait_on_server(&self.request, queued, owner)? {
                OnServer::Granted(held) => return self.hand_out_on_server(*held),
                OnServer::Over(exit) => return Ok(exit),
                OnServer::Not(not) => not,
            };
            if let Some(exit) = self.request.not_granted(not) {
                return Ok(exit);
            }
        }
    }

    /// The token is good only when the keeper knows that it was printed: until then the
    /// locks end with us.
    fn hand_out_on_server(&self, mut held: ServerHeld) -> Result<Exit> {
        if let Some(exit) = self.until_settled(&mut held)? {
            let _ = held.release(RELEASE_LIMIT);
            return Ok(exit);
        }
        sys::ignore_requests();
        self.request.patience.mask.unblock(&super::ENDING);
        self.request.tell_granted();
        self.tell_default_lease();
        if let Some(loss) = held.tend() {
            return Ok(self.lost_on_server(&mut held, &loss));
        }
        let word = AnyToken::Server(held.token(&self.request.name)).to_word() + "\n";
        if let Err(error) = self.give(&word) {
            let _ = held.release(RELEASE_LIMIT);
            return Err(error).context("the token could not be printed, so the lock was released");
        }
        sys::block_all();
        held.let_token_stand();
        Ok(Exit::Ok)
    }

    /// `None`: a token can stand for the locks now.
    fn until_settled(&self, held: &mut ServerHeld) -> Result<Option<Exit>> {
        let signals = SignalFd::of_all().context("cannot wait for signals")?;
        let owner = self.owner.as_ref().map(AsFd::as_fd);
        loop {
            if let Some(loss) = held.tend() {
                return Ok(Some(self.lost_on_server(held, &loss)));
            }
            if owner.is_some_and(|owner| sys::is_readable(owner, Some(Duration::ZERO)) == Ok(true)) {
                return Ok(self.request.not_granted(NotGranted::OwnerEnded));
            }
            if held.is_settled() {
                return Ok(None);
            }
            match sleep(held.wakes(), &signals, owner, None)? {
                Arrived::LetGo { ask, sender } => return Ok(Some(self.request.asked_to_let_go(ask, sender))),
                Arrived::Signal { number, .. } if child::is_deadly(number) => return Ok(Some(Exit::Signal(number))),
                _ => {}
            }
        }
    }

    fn lost_on_server(&self, held: &mut ServerHeld, loss: &Loss) -> Exit {
        let _ = held.release(RELEASE_LIMIT);
        let how = printable(loss.lost.how.as_bytes());
        message::tell_about(&self.request.name, &format!("lost before the token was printed: {how}"));
        Exit::Lost
    }
}
