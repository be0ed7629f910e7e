//! From a request to its grant: enter the queue, decide, watch, renew the lease
//! meanwhile. Runs in the keeper.
//!
//! Several locks are taken in one step if all are free, and otherwise one after
//! the other in the order of their encoded names, all on one lease.

use std::time::{Duration, SystemTime};

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

use super::lease::{each_try, renew_at};
use super::news::{HolderSeen, News, Refused};
use super::queue::{Decision, Id, Mode, State, Until, decide, foresee, is_waiting};
use super::row::{Call, CallKind, FORMAT, LockName, Note, NotedMode, Row, contenders};
use super::store::{
    Condition, Entered, Entry, Event, Granted, Kept, Lease, Look, RowStore, Subject, Trouble, Watch, Watched,
};
use crate::net::Limits;
use crate::record::timestamp;
use crate::sys::{sleep_until, suspend_aware_now};

/// A server that has accepted the first connection is busy, with 500 hosts in the
/// same minute perhaps.
const ACCEPTED: Duration = Duration::from_secs(30);
/// Every lost race for an exact --max-waiters costs the server a write.
const MOST_RACES: u32 = 5;
/// What --kill-after is where a row does not say.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// Until a broken watch, or a request that failed, is tried again.
const PAUSE: Duration = Duration::from_millis(300);
/// A lease is made before the grant; --at-least counts from the grant.
const GRANT_TAKES: Duration = Duration::from_secs(1);

/// All that is random about a request. A keeper that replaces another one comes to
/// the same numbers, and so finds what the first one has entered.
#[derive(Clone, Copy)]
pub struct Seed([u8; 16]);

impl Seed {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        let mut seed = [0; 16];
        match getrandom(&mut seed, GetRandomFlags::empty())? {
            16 => Ok(Self(seed)),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn draw(self, purpose: &str, attempt: u32, number: usize) -> u128 {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(format!("{purpose} {attempt} {number}"));
        u128::from_be_bytes(hash.finalize()[..16].try_into().expect("16 of 32 bytes"))
    }

    fn row(self, attempt: u32, lock: usize) -> Id {
        Id(self.draw("row", attempt, lock))
    }

    /// The lease of an attempt, or another one that its rows move to.
    pub fn lease(self, attempt: u32, number: usize) -> u64 {
        // 63 bits, never 0.
        (self.draw("lease", attempt, number) as u64 >> 1).max(1)
    }
}

/// What is asked for.
#[derive(Clone)]
pub struct Request {
    /// Which locks, in the order in which they are taken.
    pub locks: Vec<LockName>,
    /// How.
    pub mode: NotedMode,
    /// What the rows say; the name and times are filled in.
    pub note: Note,
    /// Whether to wait at all: not with `--timeout 0`.
    pub waits: bool,
    /// `--max-waiters`.
    pub max_waiters: Option<u32>,
    /// Whether `--reentrant` was given.
    pub reentrant: bool,
    /// Rows that are held for a command that we are a part of.
    pub around: Vec<Id>,
    /// Where its random numbers come from.
    pub seed: Seed,
    /// The lease's length.
    pub ttl: Duration,
    /// How long to try until the first answer.
    pub connect: Duration,
    /// `--at-least`.
    pub at_least: Option<Duration>,
    /// `--expires`, for people: the wrapper ends the command.
    pub expires: Option<Duration>,
}

impl Request {
    fn mode(&self) -> Mode {
        super::queue::Contender::from(&self.mode).mode
    }
}

/// Our rows, all granted.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// The lease of all of them.
    pub lease: Lease,
    /// Until when it lives at least.
    pub until: Duration,
    /// The rows, in the order of the locks; not those that are held around us.
    pub rows: Vec<(LockName, Row)>,
    /// Until when --at-least keeps the locks.
    pub kept_until: Option<Duration>,
    /// Which attempt this is, for more random numbers.
    pub attempt: u32,
    /// Whether it was waited for, so that the rows do not tell since when the locks
    /// are held.
    pub has_waited: bool,
}

/// One grant: a row of ours, or one around us that covers it.
#[derive(Clone, Debug)]
pub struct GrantedRow {
    /// Which lock.
    pub lock: LockName,
    /// The row.
    pub row: Row,
}

/// How a contest ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All locks are ours.
    Granted {
        /// Each lock with its grant.
        grants: Vec<GrantedRow>,
        /// What has to be kept; without rows if all is held around us.
        tenure: Tenure,
    },
    /// We were not to wait, or would wait for ourselves. Nothing was entered.
    Refused(Refused),
    /// Somebody wants us to give up our place. It has been given up.
    Called(Call),
}

/// How one lock's wait ended.
enum Turn {
    Granted,
    Lost,
    Called(Call),
}

/// Why the sleep of a wait ended.
enum Woken {
    LookAgain,
    Lost,
    Called(Call),
}

/// What a first look came to.
enum FirstLook {
    Over(Outcome),
    /// All rows are entered and granted.
    Granted,
    /// There is something to wait for.
    Wait,
}

/// A holder that was called to let go, and when its row is removed.
struct Summons {
    row: Row,
    at: Duration,
}

/// A request on its way.
pub struct Contest<'a, S> {
    store: &'a mut S,
    request: &'a Request,
    tell: &'a mut dyn FnMut(News),
    attempt: u32,
    lease: Lease,
    until: Duration,
    /// Ours: granted ones, and the one that waits.
    rows: Vec<(usize, Row)>,
    /// Held around us, with --reentrant.
    covered: Vec<(usize, Row)>,
    /// Whether the store has answered.
    is_connected: bool,
    is_in_trouble: bool,
    summonses: Vec<Summons>,
    has_waited: bool,
}

impl<'a, S: RowStore> Contest<'a, S> {
    /// Ready to [`run`](Self::run). `attempt`: how many places in the queue have
    /// been lost before.
    pub fn new(store: &'a mut S, request: &'a Request, attempt: u32, tell: &'a mut dyn FnMut(News)) -> Self {
        let lease = Lease { id: request.seed.lease(attempt, 0), ttl: request.ttl };
        Self {
            store,
            request,
            tell,
            attempt,
            lease,
            until: Duration::ZERO,
            rows: Vec::new(),
            covered: Vec::new(),
            is_connected: false,
            is_in_trouble: false,
            summonses: Vec::new(),
            has_waited: false,
        }
    }

    /// Until the request is granted or refused.
    ///
    /// # Errors
    /// The store cannot be reached at all, or does not let us in. Once we are in
    /// the queue, it is waited for.
    pub async fn run(mut self) -> Result<Outcome, Trouble> {
        loop {
            if let Some(outcome) = self.attempt().await? {
                return Ok(outcome);
            }
            // What is left of the lost attempt, a set's other rows say.
            let _ = self.store.leave(self.lease.id, self.limits()).await;
            self.attempt += 1;
            self.lease.id = self.request.seed.lease(self.attempt, 0);
            self.lease.ttl = self.request.ttl;
            self.rows.clear();
            self.covered.clear();
            (self.tell)(News::PlaceLost { attempt: self.attempt });
        }
    }

    /// `None`: the place in the queue was lost.
    async fn attempt(&mut self) -> Result<Option<Outcome>, Trouble> {
        let request = self.request;
        let looks_first = !request.waits
            || request.max_waiters.is_some()
            || request.at_least.is_some()
            || !request.around.is_empty()
            || !matches!(request.mode(), Mode::Exclusive | Mode::Shared);
        if looks_first {
            match self.look_first().await? {
                FirstLook::Over(outcome) => return Ok(Some(outcome)),
                FirstLook::Granted => return self.granted().await,
                FirstLook::Wait => {}
            }
        } else if request.locks.len() > 1 {
            let all: Vec<_> = (0..request.locks.len()).collect();
            if self.enter(&all, Condition::Empty, &[]).await?.is_some() {
                return self.granted().await;
            }
        }
        for lock in self.open_locks() {
            match self.take_turn(lock).await? {
                Turn::Granted => {}
                Turn::Lost => return Ok(None),
                Turn::Called(call) => {
                    let _ = self.store.leave(self.lease.id, self.limits()).await;
                    return Ok(Some(Outcome::Called(call)));
                }
            }
        }
        self.granted().await
    }

    /// Those that are not held around us.
    fn open_locks(&self) -> Vec<usize> {
        let is_open = |lock: &usize| !self.covered.iter().any(|(covered, _)| covered == lock);
        (0..self.request.locks.len()).filter(is_open).collect()
    }

    /// Reads before anything is written: what cannot be had costs the server no
    /// write, and what is free is taken in one step.
    async fn look_first(&mut self) -> Result<FirstLook, Trouble> {
        let request = self.request;
        let mut races = 0;
        loop {
            let mut looks = Vec::new();
            for name in &request.locks {
                let look = self.ask(async |store, limits| store.look(name, limits).await).await?;
                check_format(&look)?;
                looks.push(look);
            }
            if let Some(outcome) = self.nested(&looks) {
                return Ok(FirstLook::Over(outcome));
            }
            let open = self.open_locks();
            if open.is_empty() {
                return Ok(FirstLook::Granted);
            }
            let decisions: Vec<_> =
                open.iter().map(|lock| foresee(&contenders(&looks[*lock].rows), request.mode())).collect();
            let slots: Option<Vec<_>> = decisions
                .iter()
                .map(|decision| if let Decision::Take(slot) = decision { Some(*slot) } else { None })
                .collect();
            let open_looks: Vec<_> = open.iter().map(|lock| looks[*lock].clone()).collect();
            races += 1;
            let Some(slots) = slots else {
                self.tell_holders(&looks);
                if !request.waits {
                    return Ok(FirstLook::Over(Outcome::Refused(Refused::Busy)));
                }
                let Some(most) = request.max_waiters else { return Ok(FirstLook::Wait) };
                for (lock, decision) in open.iter().zip(&decisions) {
                    if matches!(decision, Decision::Wait(_)) && count_counted(&looks[*lock].rows) >= most as usize {
                        return Ok(FirstLook::Over(Outcome::Refused(Refused::QueueFull)));
                    }
                }
                let first = &open[..1];
                if races > MOST_RACES || self.enter(first, Condition::Unchanged(&open_looks[..1]), &[]).await?.is_some()
                {
                    // Entering the same row again finds it.
                    self.rows.clear();
                    return Ok(FirstLook::Wait);
                }
                continue;
            };
            if let Some(at_least) = request.at_least {
                self.lease.ttl = request.ttl.max(at_least + GRANT_TAKES);
            }
            let grants: Vec<_> = slots.into_iter().map(Some).collect();
            if self.enter(&open, Condition::Unchanged(&open_looks), &grants).await?.is_some() {
                return Ok(FirstLook::Granted);
            }
        }
    }

    /// What is held around us decides first.
    fn nested(&mut self, looks: &[Look]) -> Option<Outcome> {
        self.covered.clear();
        let mode = self.request.mode();
        for (lock, look) in looks.iter().enumerate() {
            let around: Vec<_> =
                look.rows.iter().filter(|row| self.request.around.contains(&row.contender.id)).collect();
            if around.is_empty() {
                continue;
            }
            if self.request.reentrant
                && let Some(row) = around.iter().find(|row| covers(row, mode))
            {
                self.covered.push((lock, (*row).clone()));
                continue;
            }
            let held: Vec<_> = around.iter().map(|row| row.contender).collect();
            let is_shared_twice = mode == Mode::Shared && held.iter().any(|row| row.mode == Mode::Shared);
            if is_shared_twice || matches!(foresee(&held, mode), Decision::Wait(_)) {
                self.tell_holders(std::slice::from_ref(look));
                let reentrant_helps = around.iter().any(|row| covers(row, mode));
                return Some(Outcome::Refused(Refused::Deadlock { reentrant_helps }));
            }
        }
        None
    }

    fn tell_holders(&mut self, looks: &[Look]) {
        let holders = looks.iter().flat_map(|look| holders_of(&look.rows)).collect();
        (self.tell)(News::Holders { holders });
    }

    /// Enters rows for these locks. `None`: the condition is not true.
    async fn enter(
        &mut self,
        locks: &[usize],
        condition: Condition<'_>,
        granted: &[Option<Option<u32>>],
    ) -> Result<Option<Vec<Look>>, Trouble> {
        let request = self.request;
        let now = SystemTime::now();
        let note = |lock: usize| Note {
            name: String::from_utf8_lossy(request.locks[lock].given()).into_owned(),
            entered: Some(timestamp(now)),
            expires: request.expires.and_then(|expires| now.checked_add(expires)).map(timestamp),
            kept_until: request.at_least.and_then(|at_least| now.checked_add(at_least)).map(timestamp),
            ..request.note.clone()
        };
        let notes: Vec<_> = locks.iter().map(|lock| note(*lock)).collect();
        let entries: Vec<_> = locks
            .iter()
            .zip(&notes)
            .enumerate()
            .map(|(place, (lock, note))| Entry {
                lock: &request.locks[*lock],
                id: request.seed.row(self.attempt, *lock),
                mode: request.mode(),
                granted: granted.get(place).copied().flatten(),
                note,
            })
            .collect();
        let lease = self.lease;
        let entered = self.ask(async |store, limits| store.enter(lease, &entries, condition, limits).await).await?;
        let Entered::Yes { looks, until } = entered else { return Ok(None) };
        self.until = until;
        for ((lock, entry), look) in locks.iter().zip(&entries).zip(&looks) {
            self.rows.extend(own(look, entry.id).map(|row| (*lock, row)));
        }
        Ok(Some(looks))
    }

    /// Waits for one lock.
    async fn take_turn(&mut self, lock: usize) -> Result<Turn, Trouble> {
        let request = self.request;
        let (name, mode) = (&request.locks[lock], request.mode());
        let id = request.seed.row(self.attempt, lock);
        let Some(mut look) = self.enter(&[lock], Condition::Always, &[]).await?.and_then(|mut looks| looks.pop())
        else {
            return Ok(Turn::Lost);
        };
        loop {
            check_format(&look)?;
            match decide(&contenders(&look.rows), id) {
                Decision::Gone => return Ok(Turn::Lost),
                Decision::Has(_) => {
                    self.set_row(lock, own(&look, id));
                    return Ok(Turn::Granted);
                }
                Decision::Take(slot) => {
                    let seen = &look;
                    let granted =
                        self.ask(async |store, limits| store.grant(name, id, slot, seen, limits).await).await?;
                    match granted {
                        Granted::Gone => return Ok(Turn::Lost),
                        Granted::Stale => {}
                        Granted::Yes { fence } => {
                            let mut row = own(&look, id);
                            if let Some(row) = &mut row {
                                row.contender.state = State::Granted(slot);
                                row.fence = Some(fence);
                            }
                            self.set_row(lock, row);
                            return Ok(Turn::Granted);
                        }
                    }
                }
                Decision::Wait(on) => {
                    self.set_row(lock, own(&look, id));
                    if request.note.replace {
                        self.summon(name, id).await?;
                    }
                    match self.sleep(name, &look, &on).await? {
                        Woken::LookAgain => {}
                        Woken::Lost => return Ok(Turn::Lost),
                        Woken::Called(call) => return Ok(Turn::Called(call)),
                    }
                }
            }
            look = self.ask(async |store, limits| store.turn(name, (id, mode), limits).await).await?;
        }
    }

    fn set_row(&mut self, lock: usize, row: Option<Row>) {
        self.rows.retain(|(known, _)| *known != lock);
        self.rows.extend(row.map(|row| (lock, row)));
    }

    /// Sleeps until something happens that may make it our turn, and renews the
    /// lease meanwhile.
    async fn sleep(&mut self, name: &LockName, look: &Look, on: &[(Id, Until)]) -> Result<Woken, Trouble> {
        self.has_waited = true;
        let waits = waits_of(name, look, on);
        let mut watched = waits.clone();
        for (lock, row) in &self.rows {
            let subject = Subject::Own(row.contender.id, row.contender.mode);
            watched.push(Watched { lock: self.request.locks[*lock].clone(), subject, since: look.at });
        }
        let limits = self.limits();
        let mut watch = match self.store.watch(&watched, limits).await {
            Ok(watch) => watch,
            Err(trouble) => {
                self.in_trouble(&trouble);
                return self.keep_now(&waits).await;
            }
        };
        self.tell_who_is_waited_for(name).await;
        let mut renew = self.renew_at();
        loop {
            let dismissal = self.summonses.iter().map(|summons| summons.at).min().unwrap_or(Duration::MAX);
            tokio::select! {
                event = watch.next() => match event {
                    Event::Moved => return Ok(Woken::LookAgain),
                    Event::Lost(_) => return Ok(Woken::Lost),
                    Event::Called(_, note) => if let Some(call) = note.call {
                        return Ok(Woken::Called(call));
                    },
                    Event::Ended => {
                        tokio::time::sleep(PAUSE).await;
                        return Ok(Woken::LookAgain);
                    }
                },
                () = sleep_until(renew) => match self.keep(&waits).await {
                    Ok(Kept::Gone) => return Ok(Woken::Lost),
                    Ok(Kept::Yes { is_our_turn: true, .. }) => return Ok(Woken::LookAgain),
                    Ok(Kept::Yes { .. }) => renew = self.renew_at(),
                    Err(trouble) => {
                        self.in_trouble(&trouble);
                        renew = suspend_aware_now() + PAUSE;
                    }
                },
                () = sleep_until(dismissal) => {
                    self.dismiss(name).await;
                }
            }
        }
    }

    /// No watch could be made: the server is away, or about to be.
    async fn keep_now(&mut self, waits: &[Watched]) -> Result<Woken, Trouble> {
        tokio::time::sleep(PAUSE).await;
        match self.keep(waits).await {
            Ok(Kept::Gone) => Ok(Woken::Lost),
            Ok(Kept::Yes { .. }) => Ok(Woken::LookAgain),
            Err(trouble) => {
                self.in_trouble(&trouble);
                Ok(Woken::LookAgain)
            }
        }
    }

    async fn keep(&mut self, waits: &[Watched]) -> Result<Kept, Trouble> {
        let limits = self.limits();
        let rows: Vec<_> = self.rows.iter().map(|(lock, row)| (&self.request.locks[*lock], row)).collect();
        let kept = self.store.keep(self.lease, &rows, waits, limits).await?;
        if let Kept::Yes { until, .. } = kept {
            self.until = until;
        }
        self.out_of_trouble();
        Ok(kept)
    }

    /// One read more, for people, and only for those who look on.
    async fn tell_who_is_waited_for(&mut self, name: &LockName) {
        let limits = self.limits();
        if let Ok(look) = self.store.look(name, limits).await {
            self.tell_holders(&[look]);
        }
    }

    /// Calls everybody before us who holds the lock or waits with --replace.
    async fn summon(&mut self, name: &LockName, me: Id) -> Result<(), Trouble> {
        let look = self.ask(async |store, limits| store.look(name, limits).await).await?;
        let all = contenders(&look.rows);
        let before = look.rows.iter().take_while(|row| row.contender.id != me);
        for row in before.filter(|row| row.note.replace || !is_waiting(&all, row.contender.id)) {
            if row.note.format == 0 || self.summonses.iter().any(|summons| summons.row.key == row.key) {
                continue;
            }
            let call = Call { what: CallKind::Replace, by: described(&self.request.note), kill_after: None };
            let limit = removal_at(row, None, self.request.ttl);
            if let Some(at) = summon(self.store, name, row, call, limit, self.limits()).await? {
                self.summonses.push(Summons { row: row.clone(), at });
            }
        }
        Ok(())
    }

    /// Removes the rows of those that were called in vain.
    async fn dismiss(&mut self, name: &LockName) {
        let now = suspend_aware_now();
        let (due, later) = std::mem::take(&mut self.summonses).into_iter().partition(|summons| summons.at <= now);
        self.summonses = later;
        let due: Vec<Summons> = due;
        for summons in due {
            let limits = self.limits();
            match self.store.remove((name, &summons.row), limits).await {
                Ok(true) => (self.tell)(News::Removed { holder: Box::new(HolderSeen::of(&summons.row)) }),
                Ok(false) => {}
                Err(trouble) => {
                    self.in_trouble(&trouble);
                    self.summonses.push(Summons { at: now + PAUSE, ..summons });
                }
            }
        }
    }

    /// All rows are there and granted.
    async fn granted(&mut self) -> Result<Option<Outcome>, Trouble> {
        self.rows.sort_by_key(|(lock, _)| *lock);
        let mut tenure = Tenure {
            lease: self.lease,
            until: self.until,
            rows: self.rows.iter().map(|(lock, row)| (self.request.locks[*lock].clone(), row.clone())).collect(),
            kept_until: self.request.at_least.map(|at_least| suspend_aware_now() + at_least),
            attempt: self.attempt,
            has_waited: self.has_waited,
        };
        if let Some(at_least) = self.request.at_least
            && self.lease.ttl < at_least
            && !tenure.rows.is_empty()
        {
            let lease = Lease { id: self.request.seed.lease(self.attempt, 1), ttl: at_least + GRANT_TAKES };
            let rows: Vec<_> = tenure.rows.iter().map(|(lock, row)| (lock, row)).collect();
            let moved = self.ask(async |store, limits| store.move_to(Some(lease), &rows, limits).await).await?;
            let Some(until) = moved else { return Ok(None) };
            (tenure.lease, tenure.until) = (lease, until);
        }
        let mut all: Vec<_> = self.rows.iter().chain(&self.covered).cloned().collect();
        all.sort_by_key(|(lock, _)| *lock);
        let grant = |(lock, row): (usize, Row)| GrantedRow { lock: self.request.locks[lock].clone(), row };
        Ok(Some(Outcome::Granted { grants: all.into_iter().map(grant).collect(), tenure }))
    }

    /// One request, again and again once we are in the queue.
    async fn ask<T>(
        &mut self,
        mut request: impl AsyncFnMut(&mut S, Limits) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        loop {
            let limits = self.limits();
            match request(self.store, limits).await {
                Ok(answer) => {
                    self.out_of_trouble();
                    return Ok(answer);
                }
                Err(trouble) if !self.is_connected => return Err(trouble),
                Err(Trouble::Refused(text)) if self.rows.is_empty() => return Err(Trouble::Refused(text)),
                Err(trouble) => {
                    self.in_trouble(&trouble);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn limits(&self) -> Limits {
        match self.is_connected {
            false => Limits::first(self.request.connect, ACCEPTED),
            true => Limits::new(suspend_aware_now() + self.request.ttl / 3, each_try(self.request.ttl)),
        }
    }

    fn renew_at(&self) -> Duration {
        renew_at(self.until, self.lease.ttl, random())
    }

    fn in_trouble(&mut self, trouble: &Trouble) {
        if !std::mem::replace(&mut self.is_in_trouble, true) {
            (self.tell)(News::Trouble { text: trouble.to_string() });
        }
    }

    fn out_of_trouble(&mut self) {
        if !std::mem::replace(&mut self.is_connected, true) {
            (self.tell)(News::Connected {
                store: self.store.identity().unwrap_or_default(),
                description: self.store.description(),
            });
        }
        if std::mem::take(&mut self.is_in_trouble) {
            (self.tell)(News::WorksAgain);
        }
    }
}

/// A number for jitter.
pub fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}

/// Our row among others.
pub fn own(look: &Look, id: Id) -> Option<Row> {
    look.rows.iter().find(|row| row.contender.id == id).cloned()
}

/// Those who hold the lock, or are kept from it by nobody.
pub fn holders_of(rows: &[Row]) -> Vec<HolderSeen> {
    let all = contenders(rows);
    rows.iter().filter(|row| !is_waiting(&all, row.contender.id)).map(HolderSeen::of).collect()
}

/// How many --max-waiters counts.
fn count_counted(rows: &[Row]) -> usize {
    let all = contenders(rows);
    rows.iter().filter(|row| !row.note.replace && is_waiting(&all, row.contender.id)).count()
}

/// Whether a row that is held around us gives as much as is asked for.
fn covers(row: &Row, mode: Mode) -> bool {
    match (row.contender.mode, row.contender.state) {
        (Mode::Exclusive, _) => true,
        (Mode::Shared, _) => mode == Mode::Shared,
        (_, State::Granted(Some(held))) => match mode {
            Mode::Slot(slot) => slot == held,
            Mode::AnySlot { of } => held < of,
            Mode::Exclusive | Mode::Shared => false,
        },
        _ => false,
    }
}

/// An older lockrun cannot judge what a newer one wrote.
///
/// # Errors
/// There is such a row.
pub fn check_format(look: &Look) -> Result<(), Trouble> {
    match look.rows.iter().map(|row| row.note.format).max() {
        Some(format) if format > FORMAT => Err(Trouble::Refused(format!(
            "a newer lockrun uses this store: its rows have format {format}, this lockrun reads up to {FORMAT}; \
             update lockrun on this host"
        ))),
        _ => Ok(()),
    }
}

fn waits_of(name: &LockName, look: &Look, on: &[(Id, Until)]) -> Vec<Watched> {
    let row = |(id, until): &(Id, Until)| {
        let row = own(look, *id)?;
        let subject = Subject::Row { id: *id, key: row.key, until: *until };
        Some(Watched { lock: name.clone(), subject, since: look.at })
    };
    on.iter().filter_map(row).collect()
}

/// Who we are, for those that we call: `pid 4242 on db1 (deploy.sh), user root`.
pub fn described(note: &Note) -> String {
    format!("pid {} on {} ({}), user {}", note.pid, note.host, note.command, note.user)
}

/// When a row that was called now is removed, should nobody answer for it.
pub fn removal_at(row: &Row, kill_after: Option<Duration>, ttl: Duration) -> Duration {
    let noted = row.note.kill_after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    suspend_aware_now() + kill_after.or(noted).unwrap_or(KILL_AFTER) + ttl / 3
}

/// Calls a row, or removes it where no process stands behind it. Returns when to
/// remove it, should it still be there; `None`: nothing is left to do, or it has
/// changed: look again.
///
/// # Errors
/// [`Trouble`].
pub async fn summon<S: RowStore>(
    store: &mut S,
    lock: &LockName,
    row: &Row,
    call: Call,
    removal_at: Duration,
    limits: Limits,
) -> Result<Option<Duration>, Trouble> {
    let is_alone = row.note.has_ended || (row.note.token && row.note.owner.is_none());
    if is_alone {
        store.remove((lock, row), limits).await?;
        return Ok(None);
    }
    let note = Note { call: Some(call), ..row.note.clone() };
    Ok(store.call((lock, row), &note, limits).await?.then_some(removal_at))
}
