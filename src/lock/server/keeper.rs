//! The keeper: a process that waits for locks on a server and holds them, for a wrapper
//! that runs the command and has no network.
//!
//! It is forked before anything of the network exists, has a session of its own and no
//! terminal, and is not part of what `--expires` or a signal ends. It does not die with
//! its wrapper: while it waits it first deletes its row, and while it holds it goes on
//! until the command and all that inherited the life line have ended.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, setrlimit};
use tokio::net::UnixDatagram;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use super::announcement::announce;
use super::contend::Contest;
use super::hold::Holding;
use super::last_resort::Victims;
use super::lease::{LEAVING, each_try, heartbeat};
use super::news::{Given, Kept, News, Order};
use super::page::Page;
use super::pause::Alarm;
use super::queue::{Contender, Id, State};
use super::request::{GrantedRow, Outcome, Request, Tenure};
use super::row::{LockName, Note, Row};
use super::store::{Lease, RowStore, Trouble};
use super::ties::{Ties, life_ended, next_order, tell};
use super::vigil::Vigil;
use crate::net::Limits;
use crate::sys::{self, Awaited, Shared, sleep_until, suspend_aware_now};
use crate::token::KEPT_ENVIRONMENT;

#[derive(Clone)]
pub enum Task {
    Contend,
    /// Goes on holding, for a keeper that died or hung.
    GoOn(Vec<Kept>),
}

/// The keeper's ends of what it shares with its wrapper.
pub struct Ends {
    pub line: StdDatagram,
    /// The read end of the life line.
    pub life: OwnedFd,
    pub wrapper: Pid,
    /// The process that a token's locks are held for.
    pub owner: Option<OwnedFd>,
}

/// Runs as the forked process until the locks are released. `make_store` is called
/// after all other descriptors are closed.
pub fn live<S: RowStore>(
    make_store: impl FnOnce() -> S,
    request: &Request,
    task: Task,
    ends: Ends,
    page: &Shared<Page>,
) -> ! {
    let (line, life) = (ends.line.as_fd(), ends.life.as_fd());
    let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let kept: Vec<_> = [line, life].into_iter().chain(stdio).chain(ends.owner.as_ref().map(AsFd::as_fd)).collect();
    sys::close_all_but(&kept);
    sys::detach();
    let _known = announce();
    // Passwords are in our memory.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let names: Vec<_> = request.locks.iter().map(|lock| String::from_utf8_lossy(lock.given())).collect();
    let environment = if request.token.is_some() { &KEPT_ENVIRONMENT[..] } else { &[] };
    sys::retitle(format!("lockrun: keeps {}", names.join(", ")).as_bytes(), environment);
    let run = std::panic::AssertUnwindSafe(|| keep(make_store(), request, task, ends, page));
    // Not back into the wrapper's code.
    let _ = std::panic::catch_unwind(run);
    sys::exit_now(0)
}

fn keep<S: RowStore>(
    mut store: S,
    request: &Request,
    task: Task,
    ends: Ends,
    page: &Shared<Page>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        ends.line.set_nonblocking(true)?;
        let line = UnixDatagram::from_std(ends.line)?;
        let victims = Victims::of(&ends.life, ends.wrapper)?;
        let life = pipe::Receiver::from_owned_fd(ends.life)?;
        let ties = Ties { line: &line, life: &life, page, victims };
        let owner = ends.owner.map(Awaited::new).transpose()?;
        let pulse = async {
            let (beat, alarm) = (heartbeat(request.ttl), Alarm::default());
            loop {
                let now = suspend_aware_now();
                alarm.ring(now, beat);
                // First, because an old sign of life is a pause as well.
                page.set_pause(alarm.pause());
                page.show_alive();
                alarm.set(Some(now + beat));
                sleep_until(now + beat).await;
            }
        };
        tokio::select! {
            () = pulse => {}
            () = work(&mut store, request, task, ties, owner) => {}
        }
        Ok(())
    })
}

async fn work<S: RowStore>(store: &mut S, request: &Request, task: Task, ties: Ties<'_>, owner: Option<Awaited>) {
    let tenure = match task {
        Task::Contend => contend(store, request, &ties).await,
        Task::GoOn(rows) => Some(tenure_of(request, &rows, ties.page)),
    };
    match (tenure, request.token) {
        (None, _) => {}
        (Some(tenure), None) => Holding::new(store, request, tenure, ties).run().await,
        (Some(tenure), Some(terms)) => Vigil::new(store, request, terms, tenure, ties, owner).run().await,
    }
}

/// `None`: nothing was granted.
async fn contend<S: RowStore>(store: &mut S, request: &Request, ties: &Ties<'_>) -> Option<Tenure> {
    let (line, page) = (ties.line, ties.page);
    let mut hear = |news: News| {
        if let News::PlaceLost { attempt } = news {
            page.set_attempt(attempt);
        }
        tell(line, &news);
    };
    let mut buffer = vec![0; 4096];
    let look = Notify::new();
    let orders = async {
        while let Some(order) = next_order(line, &mut buffer).await {
            if order == Order::LookAgain {
                look.notify_one();
            }
        }
    };
    let outcome = tokio::select! {
        outcome = Contest::new(store, request, page.attempt(), &mut hear, &look).run() => Some(outcome),
        () = orders => None,
        () = life_ended(ties.life) => None,
    };
    let news = match outcome {
        None => {
            give_up(store, request, page).await;
            return None;
        }
        Some(Ok(Outcome::Granted { grants, tenure })) => {
            page.set_lease(tenure.lease.id);
            page.set_ttl(tenure.ttl);
            page.set_valid_until(if tenure.rows.is_empty() { Duration::MAX } else { tenure.until });
            let rows = tenure.rows.iter().map(kept_of).collect();
            tell(line, &News::Granted { grants: grants.iter().map(given_of).collect(), rows });
            return Some(tenure);
        }
        Some(Ok(Outcome::Refused(refused))) => News::Refused(refused),
        Some(Ok(Outcome::Called(call))) => News::GaveUp(call),
        Some(Err(trouble)) => {
            tell(line, &failed(&trouble));
            if store.identity().is_some() {
                give_up(store, request, page).await;
            }
            return None;
        }
    };
    tell(line, &news);
    None
}

/// Leaves nothing behind, neither on the first lease nor on that of --at-least.
async fn give_up<S: RowStore>(store: &mut S, request: &Request, page: &Page) {
    let limits = Limits::new(suspend_aware_now() + LEAVING, each_try(request.ttl));
    for number in [0, 1] {
        let _ = store.leave(&request.all(), request.seed.lease(page.attempt(), number), limits).await;
    }
}

pub fn failed(trouble: &Trouble) -> News {
    let is_unreachable = match trouble {
        Trouble::Unreachable(unreachable) => !unreachable.is_refused() || unreachable.faults.is_empty(),
        Trouble::Refused(_) => false,
    };
    News::Failed { is_unreachable, text: trouble.to_string() }
}

fn given_of(grant: &GrantedRow) -> Given {
    let slot = if let State::Granted(slot) = grant.row.contender.state { slot } else { None };
    let id = grant.row.contender.id.to_string();
    Given { lock: grant.lock.encoded().into(), fence: grant.row.fence.unwrap_or(grant.row.order), slot, id }
}

fn kept_of((lock, row): &(LockName, Row)) -> Kept {
    Kept {
        lock: lock.encoded().into(),
        id: row.contender.id.to_string(),
        order: row.order,
        version: row.version,
        key: row.key.clone(),
    }
}

/// What another keeper held, as the wrapper knows it.
fn tenure_of(request: &Request, rows: &[Kept], page: &Page) -> Tenure {
    let row = |kept: &Kept| {
        let lock = request.locks.iter().find(|lock| lock.encoded() == kept.lock)?;
        let mode = Contender::from(&request.mode).mode;
        let contender = Contender { id: Id::parse(&kept.id)?, mode, state: State::Granted(None) };
        let (order, version, key) = (kept.order, kept.version, kept.key.clone());
        let row = Row { contender, order, version, fence: None, lease: page.lease(), key, note: Note::default() };
        Some((lock.clone(), row))
    };
    let first = request.seed.lease(page.attempt(), 0);
    let is_long = request.at_least.is_some_and(|at_least| at_least > request.ttl) && page.lease() == first;
    let ttl = if is_long { request.at_least.unwrap_or(request.ttl).max(request.ttl) } else { request.ttl };
    Tenure {
        lease: Lease { id: page.lease(), ttl },
        ttl: page.ttl(),
        until: page.valid_until(),
        rows: rows.iter().filter_map(row).collect(),
        kept_until: None,
        attempt: page.attempt(),
        has_waited: false,
    }
}
