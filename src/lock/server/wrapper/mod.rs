//! The wrapper's side: starts the keeper, reads its news, and holds the locks for the
//! command and the messages. No network.
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

use super::any_store::AnyStore;
use super::keeper::{self, Ends, Task};
use super::lease::hung_after;
use super::news::{HolderSeen, News, Order};
use super::page::Page;
use super::request::Request;
use super::row::{Call, CallKind, NotedMode};
use super::url::Server;
use crate::lock::Holder;
use crate::sys::{self, Forked, Shared};

/// Longest news of a keeper.
const LARGEST: usize = 256 * 1024;

/// How long a wrapper that gives up waits for the deletion of its row.
const LEAVING: Duration = Duration::from_millis(50);

/// The keepers that this process has started and not yet waited for.
static KEEPERS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether this process keeps our locks, or did. It is our child, but COMMAND did not
/// start it.
pub fn is_our_keeper(pid: i32) -> bool {
    keepers().iter().any(|keeper| keeper.as_raw_nonzero().get() == pid)
}

fn keepers() -> MutexGuard<'static, Vec<Pid>> {
    KEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line about the locks.
pub type Tell = Rc<dyn Fn(&str)>;

/// What a keeper needs for a request, and where its news go.
pub struct Plan {
    pub server: Server,
    pub request: Request,
    /// Between TERM and KILL.
    pub kill_after: Duration,
    pub tell: Tell,
    /// The holders at the keeper's last look.
    pub holders: Rc<RefCell<Vec<HolderSeen>>>,
    /// The process whose end gives a token's locks back.
    pub owner: Option<OwnedFd>,
}

/// A pipe whose write end COMMAND inherits as it inherits a lock file.
struct LifeLine {
    read: OwnedFd,
    write: OwnedFd,
}

/// A keeper as its wrapper sees it. If it and the life line are dropped, the keeper
/// gives up what it has, unless a command has inherited the life line.
struct Keeper {
    process: OwnedFd,
    line: UnixDatagram,
    /// For its news. One for all of them: only what was written to takes memory.
    buffer: Vec<u8>,
    page: Shared<Page>,
}

impl Keeper {
    /// `page`: from the keeper before it.
    fn start(plan: &Plan, task: Task, identity: Option<&str>, life: &LifeLine, page: Shared<Page>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let wrapper = getpid();
        page.show_alive();
        // Where /proc does not show which of our children are COMMAND's, only wait(2)
        // shows whether one is left.
        let pid = match sys::fork_apart()? {
            Forked::Parent(pid) => pid,
            Forked::Child => {
                let Ok(read) = life.read.try_clone() else { sys::exit_now(1) };
                let Ok(owner) = plan.owner.as_ref().map(OwnedFd::try_clone).transpose() else { sys::exit_now(1) };
                let ends = Ends { line: theirs.into(), life: read, wrapper, owner };
                keeper::live(|| AnyStore::new(&plan.server, identity), &plan.request, task, ends, &page)
            }
        };
        let mut keepers = keepers();
        keepers.retain(|keeper| !sys::reap_apart(*keeper));
        keepers.push(pid);
        let process = open(pid)?;
        Ok(Self { process, line: ours.into(), buffer: vec![0; LARGEST], page })
    }

    /// The next news; `None`: none yet. An error means that the keeper has ended.
    fn news(&mut self) -> io::Result<Option<News>> {
        loop {
            match self.line.recv(&mut self.buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    if let Ok(news) = serde_json::from_slice(&self.buffer[..length]) {
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

    /// The keeper hangs if it has not shown before then that it is alive.
    fn hangs_at(&self, plan: &Plan) -> Duration {
        self.page.alive_at().saturating_add(hung_after(plan.request.ttl))
    }

    /// So that another keeper can take over its page.
    fn kill(&self) {
        let _ = sys::send_by_pidfd(&self.process, libc::SIGKILL);
        // In uninterruptible sleep it does no harm: it would renew the same row.
        crate::process::wait_for_end(&self.process, Duration::from_millis(100));
    }
}

fn open(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

impl Plan {
    fn set_holders(&self, seen: Vec<HolderSeen>) {
        *self.holders.borrow_mut() = seen;
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

/// For messages.
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
        is_token: note.token && note.owner.is_none(),
        since,
        fence,
        slot,
        slots,
        ..Holder::default()
    }
}
