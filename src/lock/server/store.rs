//! What a server has to offer so that lockrun can keep its queue there.
//!
//! All times are of [`suspend_aware_now`](crate::sys::suspend_aware_now)
//! (CLOCK_BOOTTIME). All code behind this trait runs in the keeper, on a tokio
//! runtime of one thread. A store starts no thread or process, prints nothing and
//! knows no exit codes.
//!
//! Rules for every method:
//!
//! - It ends by its [`Limits`], whatever the server does, and may be dropped at any
//!   await (the keeper stops a request when its wrapper goes).
//! - It can be repeated: a try whose answer was lost may have been carried out, and
//!   the next try, or the same call later, has to find that and give the answer
//!   that the first one would have given. Ids are random for that.
//! - Only an answer of the store that was fixed by the first one counts
//!   ([`identity`](RowStore::identity)). Another store at one of the addresses is a
//!   [`Fault`](crate::net::Fault) of that address.
//! - Trouble that could pass (too many connections, a restart, a failover, a
//!   member without quorum, a read-only standby) is tried again at every address,
//!   at random intervals, until the limit.
//! - Credentials and certificates are read anew for every connection.
//!
//! The rows it shows keep the three promises of [`queue`](super::queue).

use std::future::Future;
use std::time::Duration;

use super::queue::{Id, Mode, Until};
use super::row::{LockName, Note, Row};
use crate::net::{Limits, Unreachable};

/// Why a store gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No address gave a usable one in time: each address with its fault.
    /// [`Unreachable::was_sent`] says that a request was sent and may
    /// have been carried out.
    Unreachable(Unreachable),
    /// The store answered, and will say the same until somebody changes something:
    /// a wrong password, a missing right, a certificate, a version that is too old,
    /// a full disk, another store than the one expected. What it said and what to
    /// do, for people: `etcd says: permission denied; give the user the rights
    /// read and write on jobs/`.
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

/// The lease of a row, or of all rows of a set: when it ends, they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// 63 random bits, never 0, so that a repeated request makes no second one.
    pub id: u64,
    /// Its length as we want it; the store may grant more.
    pub ttl: Duration,
}

/// A row to be entered.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Into the queue of this lock.
    pub lock: &'a LockName,
    /// What names it.
    pub id: Id,
    /// What it asks for.
    pub mode: Mode,
    /// The grant, if it is to be written in the same step: after a look in which
    /// [`foresee`](super::queue::foresee) said [`Take`](super::queue::Decision::Take).
    /// Goes with [`Condition::Empty`] and [`Condition::Unchanged`] only.
    pub granted: Option<Option<u32>>,
    /// What it says about itself.
    pub note: &'a Note,
}

/// When rows are entered; otherwise nothing happens. One step for all entries.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    /// In any case.
    Always,
    /// If no lock of the entries has any row.
    Empty,
    /// If no row was added, or changed, since these looks: one for each entry, in
    /// their order. Rows that went meanwhile do not matter.
    Unchanged(&'a [Look]),
}

/// The rows of a lock at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// In their order. [`enter`](RowStore::enter) and [`turn`](RowStore::turn) may
    /// leave out rows as long as [`decide`](super::queue::decide) for our row says
    /// the same without them; [`look`](RowStore::look) shows all.
    pub rows: Vec<Row>,
    /// The moment, as the store counts (etcd: the revision).
    pub at: u64,
}

/// What became of [`enter`](RowStore::enter).
#[derive(Clone, Debug, PartialEq)]
pub enum Entered {
    /// The rows are there.
    Yes {
        /// The queue of each lock, in the order of the entries, with our row in
        /// it.
        looks: Vec<Look>,
        /// Until when the lease lives at least, without a renewal: counted from
        /// before the try was sent that made it.
        until: Duration,
    },
    /// The condition was not true, and nothing has happened. Look again.
    No,
}

/// What became of [`grant`](RowStore::grant).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It is written; the fencing number.
    Yes {
        /// Larger than that of every earlier grant that excludes this one.
        fence: u64,
    },
    /// Not yet: something else is there than we had seen. Look again.
    Stale,
    /// Our row is not there any more.
    Gone,
}

/// What became of [`keep`](RowStore::keep).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The lease lives and all the rows are there.
    Yes {
        /// Until when at least, counted from before the request was sent.
        until: Duration,
        /// Something that we wait for has happened, though no watch told us.
        is_our_turn: bool,
    },
    /// The lease or one of our rows is not there any more: it was lost.
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
        /// What we wait for.
        until: Until,
    },
    /// Our own row.
    Own(Id, Mode),
    /// Whatever happens to the lock (`lockrun wait`).
    Anything,
}

/// One thing to watch: a lock, and what of it, from the moment of a look on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Which lock.
    pub lock: LockName,
    /// What of it.
    pub subject: Subject,
    /// [`Look::at`]: everything after it is told, also what happens before the
    /// watch begins.
    pub since: u64,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something that we wait for may have happened: look again. For
    /// [`Subject::Anything`] everything is.
    Moved,
    /// Our own row has changed: this is its note now, with a call in it perhaps.
    Called(Id, Box<Note>),
    /// Our own row has gone: lost, unless we removed it.
    Lost(Id),
    /// The watch ended (server gone, history compacted): look again and begin
    /// another.
    Ended,
}

/// Events, as they come.
pub trait Watch {
    /// The next event. Waits without limit, and loses nothing when it is dropped.
    /// After [`Event::Ended`] it is not called again.
    fn next(&mut self) -> impl Future<Output = Event>;
}

/// Some of the locks of a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Locks that have rows, in the order of their encoded names, each with all
    /// its rows.
    pub locks: Vec<(LockName, Vec<Row>)>,
    /// Where the next page begins; `None`: this is the last one.
    pub next: Option<String>,
}

/// What a row is called when it is not ours: by [`call`](RowStore::call) and
/// [`remove`](RowStore::remove).
pub type Target<'a> = (&'a LockName, &'a Row);

/// A server, or cluster, that keeps rows.
pub trait RowStore {
    /// Its watches. Independent of the store, so that requests go on meanwhile.
    type Watch: Watch;

    /// A few words for -v: `etcd 3.5.13 at a:2379`, and what to be warned of.
    fn description(&self) -> String;

    /// Which store it is, in letters and digits (etcd: the cluster id in
    /// hexadecimal); `None` before its first answer.
    fn identity(&self) -> Option<String>;

    /// Where the last answer came from: `a:2379`.
    fn address(&self) -> String;

    /// All rows of a lock, by one linearizable read that writes nothing.
    ///
    /// # Errors
    /// [`Trouble`].
    fn look(&mut self, lock: &LockName, limits: Limits) -> impl Future<Output = Result<Look, Trouble>>;

    /// Enters rows at the end of their queues, all in one step, on one lease that
    /// it makes. Where the lease exists, it made it itself before (a repeated
    /// request, or another lock of a set that is taken one by one); its `until` is
    /// then counted from the first try.
    ///
    /// # Errors
    /// [`Trouble`]; if it may have happened, [`leave`](Self::leave) takes back
    /// what has.
    fn enter(
        &mut self,
        lease: Lease,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        limits: Limits,
    ) -> impl Future<Output = Result<Entered, Trouble>>;

    /// The rows that decide about our own one. Without it in the answer: it has
    /// gone.
    ///
    /// # Errors
    /// [`Trouble`].
    fn turn(&mut self, lock: &LockName, me: (Id, Mode), limits: Limits) -> impl Future<Output = Result<Look, Trouble>>;

    /// Writes that our waiting row has what `decide` said on this look. Not called
    /// where the look shows the row as granted already.
    ///
    /// # Errors
    /// [`Trouble`].
    fn grant(
        &mut self,
        lock: &LockName,
        me: Id,
        slot: Option<u32>,
        look: &Look,
        limits: Limits,
    ) -> impl Future<Output = Result<Granted, Trouble>>;

    /// Renews the lease and sees that all these rows of ours are there and still
    /// the ones that were entered (etcd: the same create revision). `waits`: what
    /// their watch is told to look at; the renewal looks at the same things,
    /// never at the whole queue.
    ///
    /// # Errors
    /// [`Trouble`]: nothing is known, the lease is as it was.
    fn keep(
        &mut self,
        lease: Lease,
        rows: &[(&LockName, &Row)],
        waits: &[Watched],
        limits: Limits,
    ) -> impl Future<Output = Result<Kept, Trouble>>;

    /// Puts rows of ours on another lease, which it makes; without one they stay
    /// until they are removed. Order, state and note stay. The old lease, if it has
    /// no other rows, ends. Returns until when the new one lives at least
    /// (`Duration::MAX` without a lease), or `None` if a row has gone.
    ///
    /// # Errors
    /// [`Trouble`]; may have happened, so call it again or leave both leases.
    fn move_to(
        &mut self,
        lease: Option<Lease>,
        rows: &[(&LockName, &Row)],
        limits: Limits,
    ) -> impl Future<Output = Result<Option<Duration>, Trouble>>;

    /// Writes another note into our own row; order, state and lease stay. `false`:
    /// the row has changed meanwhile (a call) or has gone, and nothing was
    /// written.
    ///
    /// # Errors
    /// [`Trouble`].
    fn amend(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> impl Future<Output = Result<bool, Trouble>>;

    /// Ends a lease, and with it all rows on it, in one step. Also for a lease that
    /// perhaps was never made. `false`: it was not there.
    ///
    /// # Errors
    /// [`Trouble`]: the end of the lease will do it.
    fn leave(&mut self, lease: u64, limits: Limits) -> impl Future<Output = Result<bool, Trouble>>;

    /// Begins to watch, from the looks' moments on.
    ///
    /// # Errors
    /// [`Trouble`].
    fn watch(&mut self, watched: &[Watched], limits: Limits) -> impl Future<Output = Result<Self::Watch, Trouble>>;

    /// Writes a call into the row of another: its note becomes `note`, if the row
    /// is as it was seen. Its lease stays as it is. `false`: it has changed or
    /// gone. The same as [`amend`](Self::amend) where the store knows no owners.
    ///
    /// # Errors
    /// [`Trouble`].
    fn call(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> impl Future<Output = Result<bool, Trouble>>;

    /// Removes exactly this row (key and order), with its slot, whatever has
    /// changed in it. `false`: it had gone.
    ///
    /// # Errors
    /// [`Trouble`].
    fn remove(&mut self, row: Target<'_>, limits: Limits) -> impl Future<Output = Result<bool, Trouble>>;

    /// Locks that have rows, from this place on (`None`: the first). A page is
    /// small enough that the server can do other work between two.
    ///
    /// # Errors
    /// [`Trouble`].
    fn list(&mut self, from: Option<&str>, limits: Limits) -> impl Future<Output = Result<Page, Trouble>>;

    /// Removes what stays in the store of locks that nobody has used for
    /// `unused`; only counts it with `dry_run`. etcd keeps nothing: 0.
    ///
    /// # Errors
    /// [`Trouble`].
    fn prune(
        &mut self,
        unused: Duration,
        dry_run: bool,
        limits: Limits,
    ) -> impl Future<Output = Result<usize, Trouble>>;
}
