//! A request for locks on a server, as the commands see it.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, getpid};

use super::news::HolderSeen;
use super::queue::Id;
use super::request::{Request, Seed, TokenTerms};
use super::row::{FORMAT, LockName, Note, NotedMode};
use super::url::Server;
use super::wrapper::queued::ServerQueued;
use super::wrapper::{Plan, Tell, holder};
use crate::lock::{Holder, Mode, Patience, Target, Terms, markers};
use crate::process;
use crate::record::Claim;
use crate::token::{self, AnyToken};

/// Below this, ordinary delays end the lease.
const SHORT_TTL: Duration = Duration::from_secs(5);

/// A request for one lock or several.
pub struct ServerEngine {
    server: Server,
    names: Vec<Vec<u8>>,
    terms: Terms,
    details: Option<Details>,
    holders: Rc<RefCell<Vec<HolderSeen>>>,
}

/// What a request on a server needs beside the locks.
pub struct Details {
    /// The caller.
    pub claim: Claim,
    /// Between TERM and KILL.
    pub kill_after: Duration,
    /// `--at-least`.
    pub at_least: Option<Duration>,
    /// Prints a line about the locks.
    pub tell: Tell,
    /// The process whose end gives a token's locks back.
    pub owner: Option<OwnedFd>,
}

impl ServerEngine {
    /// `targets` are names.
    pub fn new(server: Server, targets: &[Target], terms: Terms) -> Self {
        let names = targets.iter().map(|target| target.name().to_vec()).collect();
        Self { server, names, terms, details: None, holders: Rc::default() }
    }

    /// The first lock's name.
    pub fn name(&self) -> &[u8] {
        self.names.first().map_or(&[], Vec::as_slice)
    }

    /// Must be called before [`ask`](Self::ask).
    pub fn set_details(&mut self, details: Details) {
        self.details = Some(details);
    }

    /// Starts a keeper, which asks. Fails without a process, memory or descriptor, and
    /// on kernels before 5.3.
    pub fn ask(&self, patience: &Patience) -> Result<ServerQueued> {
        let details = self.details.as_ref().ok_or_else(|| anyhow!("nothing is known about this request"))?;
        let Details { claim, kill_after, at_least, tell, owner } = details;
        let note = Note {
            format: FORMAT,
            mode: noted(self.terms.mode),
            host: claim.host.clone(),
            pid: getpid().as_raw_nonzero().get(),
            user: claim.user.clone(),
            command: String::from_utf8_lossy(&claim.command).into_owned(),
            kill_after: Some(kill_after.as_secs_f64()),
            replace: self.terms.replace,
            owner: claim.owner,
            owner_mark: claim.owner.filter(|owner| *owner != Pid::INIT.as_raw_nonzero().get()).and_then(process::mark),
            ..Note::default()
        };
        let mut locks: Vec<_> = self.names.iter().map(|name| LockName::new(name)).collect();
        locks.sort_by(|one, other| one.encoded().cmp(other.encoded()));
        locks.dedup();
        let request = Request {
            locks,
            mode: note.mode.clone(),
            note,
            waits: patience.waits(),
            max_waiters: self.terms.max_waiters.filter(|_| !self.terms.replace),
            reentrant: self.terms.reentrant,
            around: around(),
            ancestors: ancestors(),
            token: claim.is_token.then_some(TokenTerms { term: claim.expires, has_owner: claim.owner.is_some() }),
            seed: Seed::random().context("no random numbers")?,
            ttl: self.server.ttl,
            connect: self.server.connect,
            at_least: *at_least,
            expires: claim.expires,
        };
        let owner = owner.as_ref().map(OwnedFd::try_clone).transpose()?;
        let (server, kill_after) = (self.server.clone(), *kill_after);
        let (tell, holders) = (Rc::clone(tell), Rc::clone(&self.holders));
        ServerQueued::start(Plan { server, request, kill_after, tell, holders, owner })
            .context("cannot start a process that keeps the lock")
    }

    /// The holders at the keeper's last look.
    pub fn holders(&self) -> Vec<Holder> {
        self.holders.borrow().iter().cloned().map(holder).collect()
    }

    /// The store and the names.
    pub fn locations(&self) -> Vec<Vec<u8>> {
        let place = |name: &Vec<u8>| format!("{}/{}", self.server, LockName::new(name).encoded()).into_bytes();
        self.names.iter().map(place).collect()
    }

    /// For -v.
    pub fn remark(&self) -> Option<&'static str> {
        let is_short = self.server.ttl < SHORT_TTL;
        is_short.then_some("?ttl= is below 5 seconds: a short outage of the store ends the command")
    }

    /// None: what is remarkable about a server is only for -v.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

fn noted(mode: Mode) -> NotedMode {
    match mode {
        Mode::Exclusive => NotedMode::Exclusive,
        Mode::Shared => NotedMode::Shared,
        Mode::Slot { of, which: None } => NotedMode::AnySlot(of),
        Mode::Slot { of, which: Some(which) } => NotedMode::OneSlot { of, which },
    }
}

/// Ids of rows that are held for a command around us, or by the token in our
/// environment. Only a row that is still there counts.
pub fn around() -> Vec<Id> {
    let token = match std::env::var_os(token::VARIABLE).and_then(|word| AnyToken::parse(word.as_encoded_bytes())) {
        Some(AnyToken::Server(token)) => token.rows,
        Some(AnyToken::Files(_)) | None => Vec::new(),
    };
    let outer = markers::around();
    let ids = outer.iter().filter_map(|word| word.split(':').nth(1)).chain(token.iter().map(|row| row.id.as_str()));
    ids.filter_map(Id::parse).collect()
}

/// Marks of our ancestors but the first process, which everybody has. A token that one
/// of them owns is ours.
pub fn ancestors() -> Vec<String> {
    let us = getpid().as_raw_nonzero().get();
    let init = Pid::INIT.as_raw_nonzero().get();
    process::ancestors(us).filter(|pid| *pid != init).filter_map(process::mark).collect()
}

pub fn names_of(targets: &[Target]) -> Vec<LockName> {
    targets.iter().map(|target| LockName::new(target.name())).collect()
}
