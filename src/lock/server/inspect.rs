//! Locks on a server, for commands that take none. Without a command to protect, they
//! need no keeper and talk to the server themselves.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::process::{geteuid, getpid};
use tokio::runtime::Runtime;

use super::any_store::AnyStore;
use super::engine::{ancestors, around, names_of};
use super::lease::{ACCEPTED, PAUSE, each_try};
use super::looks::check_format;
use super::news::HolderSeen;
use super::queue::{Mode, State, count_waiting, is_waiting};
use super::row::{Call, CallKind, LockName, Note, Row, contenders};
use super::store::{Event, RowStore, Subject, Trouble, Watch, Watched};
use super::summon::{described, removal_at, summon};
use super::url::Server;
use super::wrapper::holder;
use crate::lock::{LockState, Seen, Store, Target, Unreachable};
use crate::net::Limits;
use crate::sys::{sleep_until, suspend_aware_now};
use crate::users;

/// A server whose locks are looked at.
pub struct ServerStore {
    server: Server,
    pub(super) runtime: Box<Runtime>,
    pub(super) store: Box<RefCell<AnyStore>>,
    /// A token's store is known before its first answer.
    has_answered: Cell<bool>,
}

impl ServerStore {
    /// Connects at the first request.
    pub fn open(server: Server) -> Result<Self> {
        Self::open_known(server, None)
    }

    /// The same, for one store alone.
    pub fn open_known(server: Server, identity: Option<&str>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = Box::new(runtime.context("cannot prepare for the network")?);
        let store = Box::new(RefCell::new(AnyStore::new(&server, identity)));
        Ok(Self { server, runtime, store, has_answered: Cell::new(false) })
    }

    pub(super) fn limits(&self) -> Limits {
        match self.has_answered.get() {
            false => Limits::first(self.server.connect, ACCEPTED),
            true => Limits::new(suspend_aware_now() + self.server.ttl, each_try(self.server.ttl)),
        }
    }

    pub(super) fn rows(&self, lock: &LockName) -> Result<(Vec<Row>, u64)> {
        let limits = self.limits();
        let look = self.runtime.block_on(self.store.borrow_mut().look(lock, limits));
        let look = look.map_err(|trouble| self.explain(trouble))?;
        self.has_answered.set(true);
        check_format(&look).map_err(|trouble| self.explain(trouble))?;
        Ok((look.rows, look.at))
    }

    /// Exits with 69 if the server cannot be reached.
    pub(super) fn explain(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Unreachable(unreachable) if unreachable.faults.is_empty() || !unreachable.is_refused() => {
                Unreachable(format!("{}: the store cannot be reached: {unreachable}", self.server)).into()
            }
            trouble => anyhow!("{}: the store refuses: {trouble}", self.server),
        }
    }

    pub(super) fn seen(&self, lock: &LockName, rows: &[Row]) -> Seen {
        let all = contenders(rows);
        let holders: Vec<_> = rows.iter().filter(|row| !is_waiting(&all, row.contender.id)).collect();
        let state = match holders.as_slice() {
            [] => LockState::Free,
            holders if holders.iter().any(|row| is_exclusive(row)) => LockState::Exclusive,
            _ => LockState::Shared,
        };
        let name = rows.iter().map(|row| row.note.name.as_str()).find(|name| LockName::new(name.as_bytes()) == *lock);
        Seen {
            name: name.map_or_else(|| lock.given().to_vec(), |name| name.as_bytes().to_vec()),
            path: PathBuf::from(format!("{}/{}", self.server, lock.encoded())),
            state,
            holders: holders.into_iter().map(|row| holder(HolderSeen::of(row))).collect(),
            waiting: count_waiting(&all),
            last: None,
        }
    }

    fn all(&self) -> Result<Vec<(LockName, Vec<Row>)>> {
        let (mut locks, mut from) = (Vec::new(), None);
        loop {
            let limits = self.limits();
            let page = self.runtime.block_on(self.store.borrow_mut().list(from.as_deref(), limits));
            let page = page.map_err(|trouble| self.explain(trouble))?;
            self.has_answered.set(true);
            locks.extend(page.locks);
            from = page.next;
            if from.is_none() {
                // Pages come in the order of keys, in which `a-b` is before `a`.
                locks.sort_by(|(one, _), (other, _)| one.encoded().cmp(other.encoded()));
                return Ok(locks);
            }
        }
    }

    fn caller(&self) -> Note {
        let uid = geteuid().as_raw();
        Note {
            pid: getpid().as_raw_nonzero().get(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            command: "lockrun break".into(),
            user: users::name_of(uid).unwrap_or_else(|| uid.to_string()),
            ..Note::default()
        }
    }

    /// Calls the holders, and removes the rows of those that do not answer. Returns
    /// these.
    async fn end_holders(
        &self,
        store: &mut AnyStore,
        lock: &LockName,
        holders: &[Row],
        kill_after: Duration,
    ) -> Result<Vec<Row>, Trouble> {
        let by = described(&self.caller());
        let call = Call { what: CallKind::Break, by, kill_after: Some(kill_after.as_secs_f64()) };
        let ttl = self.server.ttl;
        let limits = || Limits::new(suspend_aware_now() + ttl, each_try(ttl));
        let mut called = Vec::new();
        for row in holders {
            let at = removal_at(row, Some(kill_after), ttl);
            if let Some(at) = summon(store, lock, row, call.clone(), at, limits()).await? {
                called.push((row.clone(), at));
            }
        }
        let mut removed = Vec::new();
        while !called.is_empty() {
            let look = store.look(lock, limits()).await?;
            called.retain(|(row, _)| look.rows.iter().any(|now| now.key == row.key && now.order == row.order));
            let Some(next) = called.iter().map(|(_, at)| *at).min() else { break };
            if next <= suspend_aware_now() {
                for (row, _) in called.extract_if(.., |(_, at)| *at <= suspend_aware_now()) {
                    if store.remove((lock, &row), limits()).await? {
                        removed.push(row);
                    }
                }
                continue;
            }
            let watched = called.iter().map(|(row, _)| Watched {
                lock: lock.clone(),
                subject: Subject::Row { id: row.contender.id, key: row.key.clone(), until: super::queue::Until::Gone },
                since: look.at,
            });
            let watched: Vec<_> = watched.collect();
            let mut watch = store.watch(&watched, limits()).await?;
            tokio::select! {
                () = sleep_until(next) => {}
                event = watch.next() => if event == Event::Ended {
                    tokio::time::sleep(PAUSE).await;
                },
            }
        }
        Ok(removed)
    }
}

fn is_exclusive(row: &Row) -> bool {
    row.contender.mode == Mode::Exclusive && row.contender.state == State::Granted(None)
}

impl Store for ServerStore {
    fn location(&self) -> String {
        self.server.to_string()
    }

    fn look(&self, targets: &[Target]) -> Result<Vec<Seen>> {
        if targets.is_empty() {
            return Ok(self.all()?.iter().map(|(lock, rows)| self.seen(lock, rows)).collect());
        }
        names_of(targets).iter().map(|lock| Ok(self.seen(lock, &self.rows(lock)?.0))).collect()
    }

    fn require_usable(&self, _targets: &[Target]) -> Result<()> {
        Ok(())
    }

    fn names(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.all()?.iter().map(|(lock, rows)| self.seen(lock, rows).name).collect())
    }

    fn would_wait_for_itself(&self, target: &Target, _waits_forever: bool) -> Result<bool> {
        let (around, ancestors, user) = (around(), ancestors(), self.caller().user);
        let names = names_of(std::slice::from_ref(target));
        let Some(lock) = names.first() else { return Ok(false) };
        Ok(self.rows(lock)?.0.iter().any(|row| {
            let owner = row.note.owner_mark.as_ref().filter(|_| row.note.user == user);
            around.contains(&row.contender.id) || owner.is_some_and(|owner| ancestors.contains(owner))
        }))
    }

    fn make_let_go(&self, target: &Target, kill_after: Duration) -> Result<bool> {
        let lock = LockName::new(target.name());
        let (rows, _) = self.rows(&lock)?;
        let all = contenders(&rows);
        let holders: Vec<_> = rows.iter().filter(|row| !is_waiting(&all, row.contender.id)).cloned().collect();
        if holders.iter().any(|row| row.note.format == 0) {
            bail!("another program holds it (key {}), which lockrun cannot ask to let go", holders[0].key);
        }
        let store = &mut *self.store.borrow_mut();
        let removed = self.runtime.block_on(self.end_holders(store, &lock, &holders, kill_after));
        if let Some(row) = removed.map_err(|trouble| self.explain(trouble))?.first() {
            // The lock is free, but people must know.
            bail!(
                "pid {} on {} did not let go in time; its row was removed, and it may still run",
                row.note.pid,
                row.note.host
            );
        }
        Ok(!holders.is_empty())
    }

    fn wait_for_change(&self, targets: &[Target], limit: Option<Duration>) -> Result<bool> {
        let mut watched = Vec::new();
        let mut is_free = true;
        for lock in names_of(targets) {
            let (rows, since) = self.rows(&lock)?;
            is_free &= self.seen(&lock, &rows).is_free();
            watched.push(Watched { lock, subject: Subject::Anything, since });
        }
        if is_free {
            return Ok(true);
        }
        let limits = self.limits();
        let until = limit.map_or(Duration::MAX, |limit| suspend_aware_now().saturating_add(limit));
        let store = &mut *self.store.borrow_mut();
        let change = async move {
            let mut watch = store.watch(&watched, limits).await?;
            tokio::select! {
                () = sleep_until(until) => {}
                event = watch.next() => if event == Event::Ended {
                    tokio::time::sleep(PAUSE).await;
                },
            }
            Ok(())
        };
        self.runtime.block_on(change).map_err(|trouble| self.explain(trouble))?;
        Ok(true)
    }

    fn prune(&self, only_look: bool, older: Duration, _tell: &mut dyn FnMut(Result<Vec<u8>>)) -> Result<Option<Error>> {
        let limits = self.limits();
        let pruned = self.runtime.block_on(self.store.borrow_mut().prune(older, only_look, limits));
        pruned.map_err(|trouble| self.explain(trouble))?;
        Ok(None)
    }
}
