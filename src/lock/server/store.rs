//! What a server has to offer so that lockrun can keep its queue there: rows that keep
//! the three promises of [`queue`](super::queue).
//!
//! All times are of [`suspend_aware_now`](crate::sys::suspend_aware_now)
//! (CLOCK_BOOTTIME). A store runs in the keeper, on a tokio runtime of one thread. It
//! starts no thread or process, prints nothing and knows no exit codes.
//!
//! Rules for every method:
//!
//! - It ends by its [`Limits`], whatever the server does, and may be dropped at any
//!   await: the keeper stops a request when its wrapper dies.
//! - A [`Trouble`] leaves open whether the request was carried out, because its answer
//!   may be lost. So every request can be repeated, and then gives the answer that the
//!   first try would have given; random ids make that possible. Finding the row is not
//!   finding the grant: an earlier keeper may have entered the same row only to wait.
//! - Trouble that could pass (too many connections, a restart, a failover, no quorum, a
//!   read-only standby) is tried again at every address, at random intervals, until the
//!   limit.
//! - Only the store that answered first counts ([`identity`](RowStore::identity)).
//!   Another one at one of the addresses is a [`Fault`](crate::net::Fault) of that
//!   address.
//! - Credentials and certificates are read again for every connection.

use std::future::Future;
use std::time::Duration;

use super::queue::{Id, Mode, Until};
use super::row::{LockName, Note, Row};
use crate::net::{Limits, Unreachable};

/// Why a store gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No address gave a usable answer in time.
    Unreachable(Unreachable),
    /// The store will say the same until somebody changes something: a password, a
    /// right, a certificate, its version, a full disk. What it said and what to do:
    /// `etcd says: permission denied; give the user the rights read and write on
    /// jobs/`.
    Refused(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(unreachable) => unreachable.fmt(f),
            Self::Refused(text) => f.write_str(text),
        }
    }
}

impl From<Unreachable> for Trouble {
    fn from(unreachable: Unreachable) -> Self {
        Self::Unreachable(unreachable)
    }
}

/// The lease of some rows: they go when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// 63 random bits, never 0, so that a repeated request makes no second lease.
    pub id: u64,
    /// As requested; the store may grant more.
    pub ttl: Duration,
}

/// A row to be entered.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The lock whose queue it joins.
    pub lock: &'a LockName,
    /// Its id.
    pub id: Id,
    /// What it asks for.
    pub mode: Mode,
    /// The grant, to be written in the same step, after a look on which
    /// [`foresee`](super::queue::foresee) said [`Take`](super::queue::Decision::Take).
    /// Not with [`Condition::Always`].
    pub granted: Option<Option<u32>>,
    /// What it says about itself.
    pub note: &'a Note,
}

/// When rows are entered: all of them in one step, or none.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    /// In any case.
    Always,
    /// If none of the locks has a row.
    Empty,
    /// If no row was added or changed since these looks, one for each entry. Rows that
    /// went do not matter.
    Unchanged(&'a [Look]),
}

/// The rows of a lock at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// In their order. [`enter`](RowStore::enter) and [`turn`](RowStore::turn) may
    /// leave out rows that do not change what [`decide`](super::queue::decide) says for
    /// our row.
    pub rows: Vec<Row>,
    /// The moment, as the store counts (etcd: the revision).
    pub at: u64,
}

/// The result of [`enter`](RowStore::enter).
#[derive(Clone, Debug, PartialEq)]
pub enum Entered {
    /// The rows were entered.
    Yes {
        /// One for each entry, with our row in it.
        looks: Vec<Look>,
        /// The lease lives at least until then, counted from before the request that
        /// made it was sent.
        until: Duration,
    },
    /// The condition was false. Look again.
    No,
}

/// The result of [`grant`](RowStore::grant).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It is written.
    Yes {
        /// The fencing token, larger than that of every earlier grant that excludes
        /// this one.
        fence: u64,
    },
    /// The rows are not those of the look. Look again.
    Stale,
    /// Our row is gone.
    Gone,
}

/// The result of [`keep`](RowStore::keep).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The lease and all rows live.
    Yes {
        /// At least until then, counted from before the request was sent.
        until: Duration,
        /// What we wait for has happened, though no watch reported it.
        is_our_turn: bool,
    },
    /// The lease or a row is gone: the lock was lost.
    Gone,
}

/// What a watch looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A row that we wait for.
    Row {
        /// Its id.
        id: Id,
        /// Its [`Row::key`].
        key: String,
        /// Whether for its end only, or also for its grant.
        until: Until,
    },
    /// Our own row.
    Own(Id, Mode),
    /// Any row of the lock (`lockrun wait`).
    Anything,
}

/// One thing to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Which lock.
    pub lock: LockName,
    /// What of it.
    pub subject: Subject,
    /// [`Look::at`]: everything later is reported, also from before the watch began.
    pub since: u64,
}

/// What a watch reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something that we wait for may have happened, or anything for
    /// [`Subject::Anything`]: look again.
    Moved,
    /// Our own row has changed; its note, perhaps with a call in it.
    Called(Id, Box<Note>),
    /// Our own row is gone: lost, unless we removed it.
    Lost(Id),
    /// The watch ended (server gone, history compacted): look again and begin another.
    Ended,
}

/// A stream of events.
pub trait Watch {
    /// The next event. Waits without limit and may be dropped without loss. Not called
    /// again after [`Event::Ended`].
    fn next(&mut self) -> impl Future<Output = Event>;
}

/// The next event of a watch, if there is one.
pub async fn next_event(watch: &mut Option<impl Watch>) -> Event {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// A part of the list of locks.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Locks that have rows, in the order of their encoded names.
    pub locks: Vec<(LockName, Vec<Row>)>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<String>,
}

/// A row that need not be ours.
pub type Target<'a> = (&'a LockName, &'a Row);

/// A server or cluster that keeps rows.
pub trait RowStore {
    /// A watch does not block the store's other requests.
    type Watch: Watch;

    /// For -v: `etcd 3.5.13 at a:2379`, with warnings.
    fn description(&self) -> String;

    /// Which store it is, in letters and digits (etcd: the cluster id in hexadecimal);
    /// `None` before its first answer.
    fn identity(&self) -> Option<String>;

    /// Where the last answer came from: `a:2379`.
    fn address(&self) -> String;

    /// The length of a lease that it made or renewed; of another one, what is asked
    /// for.
    fn granted_ttl(&self, lease: Lease) -> Duration;

    /// All rows of a lock, by one linearizable read.
    fn look(&mut self, lock: &LockName, limits: Limits) -> impl Future<Output = Result<Look, Trouble>>;

    /// Enters rows at the end of their queues, on a lease that it makes. If the lease
    /// exists already, an earlier try or another lock of the set made it; `until` then
    /// counts from the first try. After a [`Trouble`], [`leave`](Self::leave) undoes
    /// what may have happened.
    fn enter(
        &mut self,
        lease: Lease,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        limits: Limits,
    ) -> impl Future<Output = Result<Entered, Trouble>>;

    /// The rows that decide about our own one. If it is not among them, it is gone.
    fn turn(&mut self, lock: &LockName, me: (Id, Mode), limits: Limits) -> impl Future<Output = Result<Look, Trouble>>;

    /// Writes the grant that `decide` gave on this look to our waiting row. Not called
    /// where the look shows it as granted.
    fn grant(
        &mut self,
        lock: &LockName,
        me: Id,
        slot: Option<u32>,
        look: &Look,
        limits: Limits,
    ) -> impl Future<Output = Result<Granted, Trouble>>;

    /// Renews the lease, and checks that these rows are there and are the ones that
    /// were entered (etcd: the same create revision). It also checks what `waits`
    /// watches, and never reads the whole queue. After a [`Trouble`] only the earlier
    /// `until` is certain.
    fn keep(
        &mut self,
        lease: Lease,
        rows: &[(&LockName, &Row)],
        waits: &[Watched],
        limits: Limits,
    ) -> impl Future<Output = Result<Kept, Trouble>>;

    /// Moves our rows to a new lease; with `None` they stay until they are removed.
    /// Order, state and note stay. The old lease ends if it has no other rows. Returns
    /// until when the new one lives at least (`Duration::MAX` without a lease), or
    /// `None` if a row is gone. After a [`Trouble`], repeat it or leave both leases.
    fn move_to(
        &mut self,
        lease: Option<Lease>,
        rows: &[(&LockName, &Row)],
        limits: Limits,
    ) -> impl Future<Output = Result<Option<Duration>, Trouble>>;

    /// Rewrites the note of our own row; order, state and lease stay. `false`: the row
    /// has changed meanwhile (a call) or is gone.
    fn amend(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> impl Future<Output = Result<bool, Trouble>>;

    /// How long a lease lives if it is not renewed, for people; `None`: it is not
    /// there.
    fn left(
        &mut self,
        lock: &LockName,
        lease: u64,
        limits: Limits,
    ) -> impl Future<Output = Result<Option<Duration>, Trouble>>;

    /// Ends a lease and all its rows, which are of these locks, in one step, even if it
    /// was perhaps never made. `false`: there was none. After a [`Trouble`] the rows go
    /// when the lease ends.
    fn leave(&mut self, locks: &[&LockName], lease: u64, limits: Limits)
    -> impl Future<Output = Result<bool, Trouble>>;

    /// Begins a watch.
    fn watch(&mut self, watched: &[Watched], limits: Limits) -> impl Future<Output = Result<Self::Watch, Trouble>>;

    /// Writes a call into another contender's row. `false`: the row has changed or is
    /// gone. Differs from [`amend`](Self::amend) only where the store knows owners of
    /// rows.
    fn call(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> impl Future<Output = Result<bool, Trouble>>;

    /// Removes exactly this row (key and order) and its slot, even if it was changed.
    /// `false`: it was gone.
    fn remove(&mut self, row: Target<'_>, limits: Limits) -> impl Future<Output = Result<bool, Trouble>>;

    /// Lists locks, from this one on (`None`: the first). A page is small enough that
    /// the server can do other work between two.
    fn list(&mut self, from: Option<&str>, limits: Limits) -> impl Future<Output = Result<Page, Trouble>>;

    /// Removes what remains of locks that have been unused for `unused`, or only counts
    /// it. etcd keeps nothing: 0.
    fn prune(
        &mut self,
        unused: Duration,
        dry_run: bool,
        limits: Limits,
    ) -> impl Future<Output = Result<usize, Trouble>>;
}
