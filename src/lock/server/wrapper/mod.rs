//! The wrapper's side: starts the keeper, hears its news, and holds the locks as far
//! as the command and people are concerned. No network.
//!
//! - `queued`: while the keeper gets the locks
//! - `held`: while it holds them

pub mod held;
pub mod queued;

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::etcd::Etcd;
use super::keeper::{self, Ends, Task};
use super::lease::hung_after;
use super::news::{HolderSeen, News, Order};
use super::page::Page;
use super::request::Request;
use super::row::{Call, CallKind, NotedMode};
use super::url::Server;
use crate::lock::Holder;
use crate::sys::{self, Forked, Shared};

/// The largest datagram that a keeper sends.
const LARGEST: usize = 256 * 1024;

/// How long a wrapper that gives up waits for its row to be deleted.
const LEAVING: Duration = Duration::from_millis(50);

/// The keepers that this process has started and not yet waited for.
static KEEPERS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether this process keeps our locks, or did. It is our child, and no part of what
/// COMMAND has started.
pub fn is_our_keeper(pid: i32) -> bool {
    keepers().iter().any(|keeper| keeper.as_raw_nonzero().get() == pid)
}

fn keepers() -> MutexGuard<'static, Vec<Pid>> {
    KEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Keeper {
    /// Forks one. `page`: of a keeper before it.
    fn start(plan: &Plan, task: Task, identity: Option<&str>, life: &LifeLine, page: Shared<Page>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let wrapper = getpid();
        page.show_alive();
        // Where /proc does not show which of our children are COMMAND's, only wait(2) tells
        // whether one is left.
        let pid = match sys::fork_apart()? {
            Forked::Parent(pid) => pid,
            Forked::Child => {
                let Ok(read) = life.read.try_clone() else { sys::exit_now(1) };
                let ends = Ends { line: theirs.into(), life: read, wrapper };
                keeper::live(|| Etcd::new(&plan.server, identity), &plan.request, task, ends, &page)
            }
        };
        let mut keepers = keepers();
        keepers.retain(|keeper| !sys::reap_apart(*keeper));
        keepers.push(pid);
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
