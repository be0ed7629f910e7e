//! How rows get into their queues: in one transaction, under a condition or in any case.

use super::calls::{Condition as If, LeaseId, Read, Span, Write};
use super::{Etcd, first, keys};
use crate::lock::server::queue::{Contender, Mode, State};
use crate::lock::server::row::Row;
use crate::lock::server::store::{Condition, Entry, Look, RowStore, Trouble};
use crate::net::Limits;

impl Etcd {
    /// What to read in the step in which our row is entered.
    pub(super) fn entered_reads(&self, entry: &Entry<'_>) -> Vec<Read> {
        let keys = self.prefix.lock(entry.lock);
        match entry.mode {
            // Ours, and the one before it.
            Mode::Exclusive => vec![Read::last(keys.span(), 2, None)],
            Mode::Shared => {
                let own = Read::all(Span::one(keys.row(entry.id, entry.mode)));
                keys.without_shared().map(|span| Read::last(span, 1, None)).into_iter().chain([own]).collect()
            }
            Mode::AnySlot { .. } | Mode::Slot(_) => vec![Read::all(keys.span())],
        }
    }

    /// Of rows that were entered under conditions that say what is before them.
    pub(super) fn looks_of(
        &mut self,
        lease: u64,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        at: u64,
    ) -> Vec<Look> {
        let before = |place: usize| match condition {
            Condition::Unchanged(looks) => looks.get(place).map(|look| look.rows.clone()).unwrap_or_default(),
            Condition::Empty | Condition::Always => Vec::new(),
        };
        let looks = entries.iter().enumerate().map(|(place, entry)| {
            let mut rows = before(place);
            let state = entry.granted.map_or(State::Waiting, State::Granted);
            rows.push(Row {
                contender: Contender { id: entry.id, mode: entry.mode, state },
                order: at,
                version: at,
                fence: entry.granted.map(|_| at),
                lease,
                key: self.prefix.lock(entry.lock).row(entry.id, entry.mode),
                note: entry.note.clone(),
            });
            Look { rows, at }
        });
        let looks = looks.collect();
        for entry in entries {
            self.remember(entry.id, at, at, entry.granted.flatten());
        }
        looks
    }

    /// Enters unconditionally; the answer has the rows that decide.
    pub(super) async fn append(
        &mut self,
        lease: u64,
        entries: &[Entry<'_>],
        limits: Limits,
    ) -> Result<Option<Vec<Look>>, Trouble> {
        let (conditions, writes) = self.entering(lease, entries);
        let reads: Vec<_> = entries.iter().map(|entry| self.entered_reads(entry)).collect();
        let then: Vec<_> = reads.concat();
        let own: Vec<_> = entries.iter().map(|entry| Read::all(Span::one(self.key_of(entry)))).collect();
        let Some(written) = self.calls.write(&conditions, &writes, &then, &own, limits).await? else {
            return Ok(None);
        };
        let at = written.revision.unsigned_abs();
        if written.done {
            let mut found = written.found.into_iter();
            let mut looks = Vec::new();
            for (entry, reads) in entries.iter().zip(&reads) {
                self.remember(entry.id, at, at, None);
                let ranges = found.by_ref().take(reads.len());
                let rows = self.prefix.lock(entry.lock).rows(ranges.flat_map(|range| range.kvs).collect());
                looks.push(Look { rows, at });
            }
            return Ok(Some(looks));
        }
        // An earlier try did it.
        Ok(Some(self.turns(entries, limits).await?))
    }

    pub(super) fn entering(&self, lease: u64, entries: &[Entry<'_>]) -> (Vec<If>, Vec<Write>) {
        let write = |entry: &Entry<'_>| {
            let value = keys::value(entry.note, entry.granted.flatten());
            Write::put(&self.key_of(entry), &value, LeaseId(lease as i64))
        };
        let conditions = entries.iter().map(|entry| If::empty(&Span::one(self.key_of(entry)))).collect();
        (conditions, entries.iter().map(write).collect())
    }

    pub(super) async fn enter_if(
        &mut self,
        lease: u64,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        limits: Limits,
    ) -> Result<Option<Option<Vec<Look>>>, Trouble> {
        let (_, writes) = self.entering(lease, entries);
        let spans = entries.iter().map(|entry| self.prefix.lock(entry.lock).span());
        let conditions: Vec<_> = match condition {
            Condition::Unchanged(looks) => {
                spans.zip(looks).map(|(span, look)| If::unchanged_since(&span, look.at as i64)).collect()
            }
            Condition::Empty | Condition::Always => spans.map(|span| If::empty(&span)).collect(),
        };
        let own: Vec<_> = entries.iter().map(|entry| Read::all(Span::one(self.key_of(entry)))).collect();
        let Some(written) = self.calls.write(&conditions, &writes, &[], &own, limits).await? else {
            return Ok(None);
        };
        if written.done {
            let at = written.revision.unsigned_abs();
            return Ok(Some(Some(self.looks_of(lease, entries, condition, at))));
        }
        if first(&written.found).is_none() {
            return Ok(Some(None));
        }
        // An earlier try did it, or a keeper that this one replaces had entered the
        // same row only to wait.
        let looks = self.turns(entries, limits).await?;
        let is_granted = |(entry, look): (&Entry<'_>, &Look)| {
            look.rows.iter().any(|row| row.contender.id == entry.id && row.fence.is_some())
        };
        let needs_grant = matches!(condition, Condition::Empty) || entries.iter().any(|entry| entry.granted.is_some());
        let fine = !needs_grant || entries.iter().zip(&looks).all(is_granted);
        Ok(Some(fine.then_some(looks)))
    }

    pub(super) async fn turns(&mut self, entries: &[Entry<'_>], limits: Limits) -> Result<Vec<Look>, Trouble> {
        let mut looks = Vec::new();
        for entry in entries {
            looks.push(self.turn(entry.lock, (entry.id, entry.mode), limits).await?);
        }
        Ok(looks)
    }

    pub(super) fn key_of(&self, entry: &Entry<'_>) -> String {
        self.prefix.lock(entry.lock).row(entry.id, entry.mode)
    }
}
