//! A look before anything is written.

use super::{Contest, FirstLook, GRANT_TAKES};
use crate::lock::server::looks::{check_format, count_counted, covers};
use crate::lock::server::news::Refused;
use crate::lock::server::queue::{Decision, Mode, foresee};
use crate::lock::server::request::Outcome;
use crate::lock::server::row::{Row, contenders};
use crate::lock::server::store::{Condition, Look, RowStore, Trouble};

impl<S: RowStore> Contest<'_, S> {
    /// Reads before anything is written: a refusal costs the server no write, and what
    /// is free is taken in one step.
    pub(super) async fn look_first(&mut self) -> Result<FirstLook, Trouble> {
        let request = self.request;
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
                return Ok(FirstLook::Wait);
            };
            if let Some(at_least) = request.at_least {
                self.lease.ttl = request.ttl.max(at_least + GRANT_TAKES);
            }
            let open_looks: Vec<_> = open.iter().map(|lock| looks[*lock].clone()).collect();
            let grants: Vec<_> = slots.into_iter().map(Some).collect();
            if self.enter(&open, Condition::Unchanged(&open_looks), &grants).await?.is_some() {
                return Ok(FirstLook::Granted);
            }
        }
    }

    /// Locks that are held around us decide first.
    fn nested(&mut self, looks: &[Look]) -> Option<Outcome> {
        self.covered.clear();
        let mode = self.request.mode();
        for (lock, look) in looks.iter().enumerate() {
            let around: Vec<_> = look.rows.iter().filter(|row| self.request.is_around(row)).collect();
            if around.is_empty() {
                continue;
            }
            if self.request.reentrant
                && let Some(row) = around.iter().find(|row| covers(row, mode))
            {
                self.covered.push((lock, (*row).clone()));
                continue;
            }
            if let Some(refused) = would_wait_for_itself(&around, mode) {
                self.tell_holders(std::slice::from_ref(look));
                return Some(Outcome::Refused(refused));
            }
        }
        None
    }
}

/// Whether a request cannot be granted before these rows go, which are held around it.
pub(super) fn would_wait_for_itself(around: &[&Row], mode: Mode) -> Option<Refused> {
    let held: Vec<_> = around.iter().map(|row| row.contender).collect();
    let is_shared_twice = mode == Mode::Shared && held.iter().any(|row| row.mode == Mode::Shared);
    let reentrant_helps = around.iter().any(|row| covers(row, mode));
    let waits = is_shared_twice || matches!(foresee(&held, mode), Decision::Wait(_));
    waits.then_some(Refused::Deadlock { reentrant_helps })
}
