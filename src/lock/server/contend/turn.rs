//! Waiting for one lock, with the lease renewed meanwhile.

use std::time::Duration;

use super::first_look::would_wait_for_itself;
use super::{Contest, PAUSE, Summons, Turn};
use crate::lock::server::looks::{check_format, count_counted, own, waits_of};
use crate::lock::server::news::{HolderSeen, News, Refused};
use crate::lock::server::queue::{Decision, Id, State, Until, decide, foresee, is_waiting};
use crate::lock::server::row::{Call, CallKind, LockName, Row, contenders};
use crate::lock::server::store::{Condition, Event, Granted, Kept, Look, RowStore, Subject, Trouble, Watch, Watched};
use crate::lock::server::summon::{described, removal_at, summon};
use crate::sys::{sleep_until, suspend_aware_now};

/// Each lost race for an exact --max-waiters costs the server a write.
const MOST_RACES: u32 = 5;

enum Woken {
    LookAgain,
    Lost,
    Called(Call),
    Refused(Refused),
}

impl<S: RowStore> Contest<'_, S> {
    pub(super) async fn take_turn(&mut self, lock: usize) -> Result<Turn, Trouble> {
        let request = self.request;
        let (name, mode) = (&request.locks[lock], request.mode());
        let id = request.seed.row(self.attempt, lock);
        let Some(entered) = self.enter_unless_full(lock).await? else { return Ok(Turn::Full) };
        let Some(mut look) = entered.into_iter().next() else { return Ok(Turn::Lost) };
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
                        Woken::Refused(refused) => return Ok(Turn::Refused(refused)),
                    }
                }
            }
            look = self.ask(async |store, limits| store.turn(name, (id, mode), limits).await).await?;
        }
    }

    /// Enters the queue of a lock; `None`: --max-waiters wait there. A set that has waited
    /// for an earlier lock waits for the later ones too, as with files.
    async fn enter_unless_full(&mut self, lock: usize) -> Result<Option<Vec<Look>>, Trouble> {
        let request = self.request;
        let (name, id) = (&request.locks[lock], request.seed.row(self.attempt, lock));
        let races = if request.max_waiters.is_some() && !self.has_waited { MOST_RACES } else { 0 };
        for _ in 0..races {
            let look = self.ask(async |store, limits| store.look(name, limits).await).await?;
            // By a keeper that this one replaces.
            if own(&look, id).is_some() {
                break;
            }
            let waits = matches!(foresee(&contenders(&look.rows), request.mode()), Decision::Wait(_));
            if waits && request.max_waiters.is_some_and(|most| count_counted(&look.rows) >= most as usize) {
                self.tell_holders(&[look]);
                return Ok(None);
            }
            if let Some(looks) = self.enter(&[lock], Condition::Unchanged(&[look]), &[]).await? {
                return Ok(Some(looks));
            }
        }
        self.enter(&[lock], Condition::Always, &[]).await
    }

    fn set_row(&mut self, lock: usize, row: Option<Row>) {
        self.rows.retain(|(known, _)| *known != lock);
        self.rows.extend(row.map(|row| (lock, row)));
    }

    /// Sleeps until it may be our turn.
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
        if let Some(refused) = self.see_who_is_waited_for(name).await {
            return Ok(Woken::Refused(refused));
        }
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
                () = self.look.notified() => drop(self.see_who_is_waited_for(name).await),
                () = sleep_until(dismissal) => {
                    self.dismiss(name).await;
                }
            }
        }
    }

    /// No watch could begin: the server is away, or about to be.
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

    /// One more read, for messages. A token of an ancestor would be waited for in vain.
    async fn see_who_is_waited_for(&mut self, name: &LockName) -> Option<Refused> {
        let limits = self.limits();
        let look = self.store.look(name, limits).await.ok()?;
        self.tell_holders(std::slice::from_ref(&look));
        let around: Vec<_> = look.rows.iter().filter(|row| self.request.is_around(row)).collect();
        would_wait_for_itself(&around, self.request.mode()).filter(|_| !around.is_empty())
    }

    /// Calls all before us that hold the lock or wait with --replace.
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

    /// Removes the rows of contenders that were called in vain.
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
}
