//! `lockrun renew` inside COMMAND: a socket to the lockrun around it. COMMAND finds its
//! address and secret in the environment, which only its own user and root can read.
//! Without `--expires` there is none.

use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::ended;
use crate::child::{Renewals, Term};
use crate::keeper::{self, Answer, Ask, Clients, Contact, TokenState};
use crate::lock::{Held, Note};
use crate::record::timestamp;
use crate::sys;
use crate::token::Token;

/// The address, the secret and the user id of the lockrun around COMMAND.
pub const VARIABLE: &str = "LOCKRUN_RUN";

/// The socket of a run with `--expires`.
pub struct RenewalSocket {
    clients: Clients,
    word: String,
    /// The value of `--expires`.
    given: Duration,
}

impl RenewalSocket {
    /// Fails without memory or descriptors.
    pub fn new(given: Duration) -> Result<Self> {
        let (id, secret) = (Token::random().context("no random numbers")?, Token::random()?);
        let word = format!("{id}:{secret}:{}", rustix::process::geteuid().as_raw());
        let listener = keeper::listen(&id).context("cannot make the socket for 'lockrun renew'")?;
        Ok(Self { clients: Clients::new(listener, secret)?, word, given })
    }

    /// The value of [`VARIABLE`].
    pub fn word(&self) -> &str {
        &self.word
    }
}

impl Renewals for RenewalSocket {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.clients.descriptors().collect()
    }

    fn serve(&mut self, readable: &[bool], term: Term<'_>, held: &mut dyn Held) {
        for (client, ask) in self.clients.hear(readable) {
            let now = sys::suspend_aware_now();
            let Ask::Renew { lease } = ask else { continue };
            let lease = lease.unwrap_or(Some(self.given));
            let lost = term.cause.map(ended::why);
            if lost.is_none() {
                *term.expires = lease.map(|lease| now.saturating_add(lease));
            }
            let remaining = term.expires.map(|at| at.saturating_sub(now));
            let expires = remaining.and_then(|left| SystemTime::now().checked_add(left)).map(timestamp);
            if lost.is_none() {
                held.note(&Note::Expires(expires.as_deref()));
            }
            client.tell_state(TokenState { expires, remaining, lost });
        }
    }
}

/// Asks the lockrun around us, which [`VARIABLE`] describes. `None`: there is none with
/// `--expires`.
pub fn ask(question: Ask) -> Result<Option<Answer>> {
    let word = std::env::var(VARIABLE).unwrap_or_default();
    let [id, secret, uid] = word.split(':').collect::<Vec<_>>()[..] else { return Ok(None) };
    let Ok(uid) = uid.parse() else { return Ok(None) };
    keeper::ask(&Contact { id, secret, uid, called: "the lockrun around this command" }, question).map(Some)
}
