//! The wrapper's side: starts the keeper, hears its news, and holds the locks as far
//! as the command and people are concerned. No network.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::contend::Request;
use super::etcd::Etcd;
use super::keeper::{self, Ends, Task};
use super::lease::{Ending, hung_after};
use super::news::{Given, HolderSeen, Kept, News, Order, Refused};
use super::page::Page;
use super::row::{Call, CallKind, NotedMode};
use super::url::Server;
use crate::lock::{Grant, Held, Holder, Loss, Lost, Note, Refusal, Released, Wakes};
use crate::record::Claim;
use crate::sys::{self, Forked, Shared, suspend_aware_now};

/// The largest datagram that a keeper sends.
const LARGEST: usize = 256 * 1024;

/// How long a wrapper that gives up waits for its row to be deleted.
const LEAVING: Duration = Duration::from_millis(50);

/// The keeper that this process has started last.
static KEEPER: AtomicI32 = AtomicI32::new(0);

/// Whether this process keeps our locks. It is our child, and no part of what COMMAND
/// has started.
pub fn is_our_keeper(pid: i32) -> bool {
    KEEPER.load(Ordering::Relaxed) == pid
}

/// Says something about the locks to people.
pub type Tell = Rc<dyn Fn(&str)>;

/// Everything about a request that a keeper needs, and who is told what happens.
pub struct Plan {
    /// Where.
    pub server: Server,
    /// What.
    pub request: Request,
    /// From TERM to KILL.
    pub kill_after: Duration,
    /// Says something about the locks to people.
    pub tell: Tell,
    /// Who held the locks when the keeper looked last.
    pub holders: Rc<RefCell<Vec<Holder>>>,
}

/// The life line: a pipe whose write end COMMAND inherits as it inherits a lock file.
struct LifeLine {
    read: OwnedFd,
    write: OwnedFd,
}

/// A keeper as its wrapper sees it. Dropping it and the life line lets it go: it gives
/// up what it has, unless a command has inherited the life line.
struct Keeper {
    process: OwnedFd,
    line: UnixDatagram,
    page: Shared<Page>,
}

/// A request that a keeper works on. Dropping it gives it up.
pub struct ServerQueued {
    plan: Rc<Plan>,
    keeper: Keeper,
    life: LifeLine,
    identity: String,
}

/// What a keeper has come to.
pub enum Progress {
    /// The store has answered, so --timeout counts from now. What it is, for -v.
    Connected(String),
    /// The keeper knows who holds the locks, see [`Plan::holders`].
    Holders,
    /// Something for -v.
    Remark(&'static str),
    /// The locks are ours.
    Granted(Grants),
    /// They are not.
    Refused(Refusal),
    /// Somebody ended the wait: how, as a clause.
    GaveUp(String),
    /// The store cannot be used.
    Failed {
        /// Whether it cannot be reached; otherwise it does not let us in.
        is_unreachable: bool,
        /// Why, for people.
        text: String,
    },
}

/// What a keeper was granted.
pub struct Grants {
    grants: Vec<Given>,
    rows: Vec<Kept>,
}

/// Locks on a server that a keeper holds for us.
pub struct ServerHeld {
    plan: Rc<Plan>,
    keeper: Keeper,
    life: LifeLine,
    identity: String,
    grants: Vec<Given>,
    rows: Vec<Kept>,
    /// Whether it is known when COMMAND is killed.
    is_ending: bool,
    /// Whether the store has taken a lock away.
    is_certain: bool,
    command: Option<i32>,
    released: Option<Released>,
}

impl Keeper {
    /// Forks one. `page`: of a keeper before it.
    fn start(plan: &Plan, task: Task, identity: Option<&str>, life: &LifeLine, page: Shared<Page>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let wrapper = getpid();
        page.show_alive();
        let pid = match sys::fork()? {
            Forked::Parent(pid) => pid,
            Forked::Child => {
                let Ok(read) = life.read.try_clone() else { sys::exit_now(1) };
                let ends = Ends { line: theirs.into(), life: read, wrapper };
                keeper::live(|| Etcd::new(&plan.server, identity), &plan.request, task, ends, &page)
            }
        };
        KEEPER.store(pid.as_raw_nonzero().get(), Ordering::Relaxed);
        let process = open(pid)?;
        Ok(Self { process, line: ours.into(), page })
    }

    /// The next thing that it said; `None`: nothing yet.
    ///
    /// # Errors
    /// It has ended.
    fn news(&self) -> io::Result<Option<News>> {
        let mut buffer = vec![0; LARGEST];
        loop {
            match self.line.recv(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    if let Ok(news) = serde_json::from_slice(&buffer[..length]) {
                        return Ok(Some(news));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn order(&self, order: &Order) {
        if let Ok(text) = serde_json::to_vec(order) {
            let _ = self.line.send(&text);
        }
    }

    /// When it has to have shown that it is alive.
    fn hangs_at(&self, plan: &Plan) -> Duration {
        self.page.alive_at().saturating_add(hung_after(plan.request.ttl))
    }

    /// Ends it for certain, so that another one can have its page.
    fn kill(&self) {
        let _ = sys::send_by_pidfd(&self.process, libc::SIGKILL);
        // One in uninterruptible sleep does no harm: it would renew the same row.
        crate::process::wait_for_end(&self.process, Duration::from_millis(100));
    }
}

fn open(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

impl ServerQueued {
    /// Starts a keeper for this plan.
    ///
    /// # Errors
    /// No memory, process or descriptor is left; or the kernel is older than 5.3.
    pub fn start(plan: Plan) -> io::Result<Self> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
        let life = LifeLine { read, write };
        let keeper = Keeper::start(&plan, Task::Contend, None, &life, Page::new()?)?;
        Ok(Self { plan: Rc::new(plan), keeper, life, identity: String::new() })
    }

    /// What to wake up for.
    pub fn wakes(&self) -> Wakes<'_> {
        Wakes { descriptor: Some(self.keeper.line.as_fd()), at: Some(self.keeper.hangs_at(&self.plan)) }
    }

    /// The next progress; `None`: sleep until [`wakes`](Self::wakes) says so.
    ///
    /// # Errors
    /// Another keeper is needed, and cannot be started.
    pub fn progress(&mut self) -> io::Result<Option<Progress>> {
        let news = match self.keeper.news() {
            Ok(Some(news)) => news,
            Ok(None) if self.keeper.hangs_at(&self.plan) > suspend_aware_now() => return Ok(None),
            // It hangs, or somebody killed it.
            Ok(None) | Err(_) => {
                self.keeper.kill();
                let page = Page::new()?;
                page.set_attempt(self.keeper.page.attempt());
                self.keeper = Keeper::start(&self.plan, Task::Contend, some(&self.identity), &self.life, page)?;
                return Ok(Some(Progress::Remark("another process waits now, because the first one ended")));
            }
        };
        let progress = match news {
            News::Connected { store, description } => {
                let is_first = self.identity.is_empty();
                self.identity = store;
                match is_first {
                    true => Progress::Connected(description),
                    false => Progress::Remark("connected again"),
                }
            }
            News::Holders { holders } => {
                self.plan.set_holders(holders);
                Progress::Holders
            }
            News::PlaceLost { .. } => Progress::Remark("lost the place in the queue, waiting for another one"),
            News::Granted { grants, rows } => Progress::Granted(Grants { grants, rows }),
            News::Refused(refused) => Progress::Refused(match refused {
                Refused::Busy => Refusal::Busy,
                Refused::QueueFull => Refusal::QueueFull,
                Refused::Deadlock { reentrant_helps } => Refusal::Deadlock { reentrant_helps },
            }),
            News::GaveUp(call) => Progress::GaveUp(how(&call)),
            News::Failed { is_unreachable, text } => Progress::Failed { is_unreachable, text },
            News::Trouble { text } => {
                (self.plan.tell)(&format!("the store cannot be reached: {text}; trying again"));
                Progress::Holders
            }
            News::WorksAgain => {
                (self.plan.tell)("the store can be reached again");
                Progress::Holders
            }
            News::Removed { holder } => {
                self.plan.tell_removed(*holder);
                Progress::Holders
            }
            News::Called(_) | News::Lost { .. } | News::Released { .. } => Progress::Holders,
        };
        Ok(Some(progress))
    }

    /// Leaves the queue. Waits a moment for the row to be deleted, so that the next
    /// call does not find it; a slow server is not waited for.
    pub fn give_up(self) {
        if rustix::net::shutdown(&self.keeper.line, rustix::net::Shutdown::Write).is_err() {
            return;
        }
        let until = Instant::now() + LEAVING;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.keeper.news() {
                Err(_) => return,
                Ok(None) if left.is_zero() => return,
                Ok(None) => drop(sys::is_readable(&self.keeper.line, Some(left))),
                Ok(Some(_)) => {}
            }
        }
    }

    /// After [`Progress::Granted`].
    pub fn into_held(self, grants: Grants) -> ServerHeld {
        let Self { plan, keeper, life, identity } = self;
        let Grants { grants, rows } = grants;
        ServerHeld {
            plan,
            keeper,
            life,
            identity,
            grants,
            rows,
            is_ending: false,
            is_certain: false,
            command: None,
            released: None,
        }
    }
}

impl Plan {
    fn set_holders(&self, seen: Vec<HolderSeen>) {
        *self.holders.borrow_mut() = seen.into_iter().map(holder).collect();
    }

    fn tell_removed(&self, seen: HolderSeen) {
        let HolderSeen { note, .. } = seen;
        (self.tell)(&format!(
            "took the lock from pid {} on {}, which did not let go in time and may still run",
            note.pid, note.host
        ));
    }

    fn name_of(&self, encoded: &str) -> Vec<u8> {
        let lock = self.request.locks.iter().find(|lock| lock.encoded() == encoded);
        lock.map_or_else(|| encoded.into(), |lock| lock.given().to_vec())
    }
}

/// `replaced by pid 4242 on db1 (deploy.sh), user root`.
fn how(call: &Call) -> String {
    let what = match call.what {
        CallKind::Break => "broken",
        CallKind::Replace => "replaced",
    };
    format!("{what} by {}", call.by)
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A holder for messages, from what its row says.
pub fn holder(seen: HolderSeen) -> Holder {
    let HolderSeen { note, fence, slot } = seen;
    let since = note.since.or(note.entered);
    let age = since.as_deref().and_then(|since| humantime::parse_rfc3339(since).ok());
    let slots = match note.mode {
        NotedMode::AnySlot(of) | NotedMode::OneSlot { of, .. } => Some(of),
        _ => None,
    };
    Holder {
        pid: Some(note.pid).filter(|pid| *pid != 0),
        host: some(&note.host).map(str::to_owned),
        command: some(&note.command).map(str::to_owned),
        user: some(&note.user).map(str::to_owned),
        age: age.and_then(|since| SystemTime::now().duration_since(since).ok()),
        kept_until: note.kept_until.filter(|_| note.has_ended),
        expires: note.expires,
        owner: note.owner,
        since,
        fence,
        slot,
        slots,
        ..Holder::default()
    }
}

impl ServerHeld {
    /// Another keeper goes on with the same rows.
    fn start_another(&mut self) {
        let plan = Rc::clone(&self.plan);
        let Ok(page) = Page::new() else { return };
        page.set_attempt(self.keeper.page.attempt());
        page.set_lease(self.keeper.page.lease());
        page.set_valid_until(self.keeper.page.valid_until());
        let task = Task::GoOn(self.rows.clone());
        // Without one the lease ends, and the command in time before that.
        if let Ok(keeper) = Keeper::start(&plan, task, some(&self.identity), &self.life, page) {
            self.keeper = keeper;
            if let Some(pid) = self.command {
                self.keeper.order(&Order::Started(pid));
            }
        }
    }

    fn ending(&self) -> Ending {
        Ending::new(self.keeper.page.valid_until(), self.plan.request.ttl, self.plan.kill_after)
    }

    fn heard(&mut self, news: News) -> Option<Loss> {
        match news {
            News::Trouble { text } => {
                let left = self.ending().term_at.saturating_sub(suspend_aware_now());
                (self.plan.tell)(&format!(
                    "the lock cannot be renewed: {text}; trying again, the command is ended in {} otherwise",
                    crate::duration::display(left)
                ));
            }
            News::WorksAgain => (self.plan.tell)("the lock was renewed"),
            News::Removed { holder } => self.plan.tell_removed(*holder),
            News::Called(call) => {
                let kill_after = call.kill_after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                let lost = self.lost(None, how(&call));
                return Some(Loss { lost, kill_at: kill_after.map(|after| suspend_aware_now() + after) });
            }
            News::Lost { lock } => {
                self.is_certain = true;
                self.keeper.order(&Order::Heard);
                let lost = self.lost(Some(&lock), "the store has taken it away".into());
                return Some(Loss { lost, kill_at: Some(suspend_aware_now()) });
            }
            News::Released { later } => {
                self.released = Some(later.map_or(Released::Done, Released::Later));
            }
            News::Holders { holders } => self.plan.set_holders(holders),
            News::Connected { .. }
            | News::PlaceLost { .. }
            | News::Granted { .. }
            | News::Refused(_)
            | News::GaveUp(_)
            | News::Failed { .. } => {}
        }
        None
    }

    fn lost(&self, lock: Option<&str>, how: String) -> Lost {
        let first = self.grants.first().map(|grant| grant.lock.as_str());
        Lost { name: self.plan.name_of(lock.or(first).unwrap_or_default()), how }
    }

    /// Everything that the keeper has said. Returns a loss that is news.
    fn hear(&mut self) -> Option<Loss> {
        loop {
            match self.keeper.news() {
                Ok(Some(news)) => {
                    if let Some(loss) = self.heard(news) {
                        return Some(loss);
                    }
                }
                Ok(None) => {
                    if !self.is_certain
                        && self.released.is_none()
                        && self.keeper.hangs_at(&self.plan) <= suspend_aware_now()
                    {
                        self.keeper.kill();
                        self.start_another();
                    }
                    return None;
                }
                Err(_) => {
                    if self.released.is_none() {
                        self.start_another();
                    }
                    return None;
                }
            }
        }
    }
}

impl Held for ServerHeld {
    fn settle(&mut self, _claim: &Claim) -> Result<()> {
        Ok(())
    }

    fn grants(&self) -> Vec<Grant> {
        let strength = |slot: Option<u32>| match (slot, &self.plan.request.mode) {
            (Some(slot), _) => slot.to_string(),
            (None, NotedMode::Shared) => "s".into(),
            (None, _) => "x".into(),
        };
        let grant = |given: &Given| Grant {
            name: self.plan.name_of(&given.lock),
            file: String::new(),
            fence: given.fence,
            slot: given.slot,
            marker: format!("{}:{}:{}:{}", self.identity, given.id, given.fence, strength(given.slot)),
        };
        self.grants.iter().map(grant).collect()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.life.write.as_raw_fd()]
    }

    fn wakes(&self) -> Wakes<'_> {
        let line: BorrowedFd<'_> = self.keeper.line.as_fd();
        let is_over = self.is_ending || self.rows.is_empty();
        let ends = Some(self.ending().term_at).filter(|_| !is_over);
        let hangs = Some(self.keeper.hangs_at(&self.plan)).filter(|_| !self.is_certain);
        Wakes { descriptor: Some(line), at: ends.into_iter().chain(hangs).min() }
    }

    fn started(&mut self, command: Pid) {
        let pid = command.as_raw_nonzero().get();
        self.command = Some(pid);
        self.keeper.order(&Order::Started(pid));
    }

    fn tend(&mut self) -> Option<Loss> {
        // First the clock: on waking up from a suspend nothing else matters.
        let ending = self.ending();
        let is_due = !self.rows.is_empty() && ending.term_at <= suspend_aware_now();
        let heard = self.hear();
        let is_due = is_due && self.ending().term_at <= suspend_aware_now();
        let loss = heard.or_else(|| {
            let how = || "the store could not be reached in time".to_owned();
            (is_due && !self.is_ending).then(|| Loss { lost: self.lost(None, how()), kill_at: Some(ending.kill_at) })
        });
        self.is_ending |= loss.as_ref().is_some_and(|loss| loss.kill_at.is_some());
        loss
    }

    fn note(&mut self, _note: &Note<'_>) {}

    fn release(&mut self, limit: Duration) -> Result<Released> {
        // Lost: there is nothing to give back, or nobody who would hear of it.
        let limit = if self.is_ending { limit.min(LEAVING) } else { limit };
        self.keeper.order(&Order::Release);
        let until = Instant::now() + limit;
        let mut has_restarted = false;
        loop {
            match self.keeper.news() {
                Ok(Some(news)) => drop(self.heard(news)),
                Ok(None) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() && self.is_ending {
                        return Ok(Released::Done);
                    }
                    if left.is_zero() {
                        return Ok(Released::Later("no answer in time".into()));
                    }
                    let _ = sys::is_readable(&self.keeper.line, Some(left));
                }
                Err(_) if !std::mem::replace(&mut has_restarted, true) => {
                    self.start_another();
                    self.keeper.order(&Order::Release);
                }
                Err(_) => return Ok(Released::Later("the process that renews it was ended".into())),
            }
            if let Some(released) = self.released.take() {
                return Ok(if self.is_ending { Released::Done } else { released });
            }
        }
    }
}
