//! What the commands do with a token of a server, on any machine that reaches it: they
//! look at its rows, remove them, or move them to another lease.

use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::inspect::ServerStore;
use super::queue::Id;
use super::request::Seed;
use super::row::{LockName, Note, Row};
use super::store::{Lease, RowStore};
use crate::lock::Holder;
use crate::record::timestamp;
use crate::token::{ServerToken, TokenRow};

/// So often a row is written that changes meanwhile.
const TRIES: usize = 5;

/// What a token's locks come to.
pub enum TokenAnswer {
    /// They are held.
    Held {
        /// RFC 3339; `None`: never.
        expires: Option<String>,
        /// Until then.
        remaining: Option<Duration>,
    },
    /// They have been given back.
    Released,
    /// One of them, by name, is not held any more; by whom it is held now.
    Gone(String, Vec<Holder>),
}

/// A row of a token that is there.
type Found = (LockName, Row);

impl ServerStore {
    /// Whether the locks of a token are held.
    pub fn check_token(&self, token: &ServerToken) -> Result<TokenAnswer> {
        let mut own = Vec::new();
        for row in &token.rows {
            match self.find(row)? {
                Ok(found) if !row.is_outer => own.push(found),
                Ok(_) => {}
                Err(gone) => return Ok(gone),
            }
        }
        let Some((lock, row)) = own.first() else { return Ok(TokenAnswer::Held { expires: None, remaining: None }) };
        if row.note.owner.is_some() || !row.note.token {
            // A process renews the lease, and ends what runs under it.
            let expires = row.note.expires.as_deref().and_then(|at| humantime::parse_rfc3339(at).ok());
            let remaining = expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
            return Ok(TokenAnswer::Held { expires: row.note.expires.clone(), remaining });
        }
        if row.lease == 0 {
            return Ok(TokenAnswer::Held { expires: None, remaining: None });
        }
        // Not by the row's own words: the clocks of two hosts differ.
        let limits = self.limits();
        let left = self.runtime.block_on(self.store.borrow_mut().left(lock, row.lease, limits));
        match left.map_err(|trouble| self.explain(trouble))? {
            Some(left) => Ok(TokenAnswer::Held {
                expires: SystemTime::now().checked_add(left).map(timestamp),
                remaining: Some(left),
            }),
            None => Ok(self.gone(lock, &[])),
        }
    }

    /// Gives the locks of a token back. Of two calls at once, one finds them
    /// gone.
    pub fn release_token(&self, token: &ServerToken) -> Result<TokenAnswer> {
        let mut found = Vec::new();
        let mut gone = None;
        for row in token.rows.iter().filter(|row| !row.is_outer) {
            match self.find(row)? {
                Ok(row) => found.push(row),
                Err(answer) => gone = gone.or(Some(answer)),
            }
        }
        for (place, (lock, row)) in found.iter().enumerate() {
            let limits = self.limits();
            let removed = self.runtime.block_on(self.store.borrow_mut().remove((lock, row), limits));
            let removed = removed.map_err(|trouble| self.explain(trouble))?;
            // The first row decides between two. What it finds of the others, the loser
            // removes as well.
            if !removed && place == 0 && gone.is_none() {
                return Ok(self.gone(lock, &[]));
            }
        }
        for (lock, row) in found.iter().filter(|(_, row)| row.lease != 0) {
            let limits = self.limits();
            // Without rows it only takes up room.
            let _ = self.runtime.block_on(self.store.borrow_mut().leave(&[lock], row.lease, limits));
        }
        Ok(gone.unwrap_or(TokenAnswer::Released))
    }

    /// Has the locks of a token expire after `term` from now, or never.
    pub fn renew_token(&self, token: &ServerToken, term: Option<Duration>) -> Result<TokenAnswer> {
        let mut own = Vec::new();
        for row in token.rows.iter().filter(|row| !row.is_outer) {
            match self.find(row)? {
                Ok(found) => own.push((row, found)),
                Err(gone) => return Ok(gone),
            }
        }
        if let Some((_, (lock, row))) = own.first().filter(|(_, (_, row))| row.note.owner.is_none()) {
            let lease = match term {
                Some(ttl) => Some(Lease { id: Seed::random()?.lease(0, 0), ttl }),
                None => None,
            };
            let rows: Vec<_> = own.iter().map(|(_, (lock, row))| (lock, row)).collect();
            let limits = self.limits();
            let moved = self.runtime.block_on(self.store.borrow_mut().move_to(lease, &rows, limits));
            if moved.map_err(|trouble| self.explain(trouble))?.is_none() {
                return Ok(self.gone(lock, &[]));
            }
            if row.lease != 0 {
                let _ = self.runtime.block_on(self.store.borrow_mut().leave(&[lock], row.lease, limits));
            }
        }
        let expires = term.and_then(|term| SystemTime::now().checked_add(term)).map(timestamp);
        for (row, _) in &own {
            if let Some(gone) = self.write_expiry(row, expires.as_deref(), term)? {
                return Ok(gone);
            }
        }
        self.check_token(token)
    }

    /// `None`: it is written, or others write so often that people see the old one.
    fn write_expiry(
        &self,
        row: &TokenRow,
        expires: Option<&str>,
        term: Option<Duration>,
    ) -> Result<Option<TokenAnswer>> {
        for _ in 0..TRIES {
            let (lock, row) = match self.find(row)? {
                Ok(found) => found,
                Err(gone) => return Ok(Some(gone)),
            };
            let extended_by = term.map(|term| term.as_secs_f64());
            let note = Note { expires: expires.map(str::to_owned), extended_by, ..row.note.clone() };
            let limits = self.limits();
            let written = self.runtime.block_on(self.store.borrow_mut().call((&lock, &row), &note, limits));
            if written.map_err(|trouble| self.explain(trouble))? {
                break;
            }
        }
        Ok(None)
    }

    fn find(&self, wanted: &TokenRow) -> Result<Result<Found, TokenAnswer>> {
        let lock = LockName::from_encoded(&wanted.lock).unwrap_or_else(|| LockName::new(wanted.lock.as_bytes()));
        let (rows, _) = self.rows(&lock)?;
        let id = Id::parse(&wanted.id);
        match rows.iter().find(|row| Some(row.contender.id) == id) {
            Some(row) => Ok(Ok((lock, row.clone()))),
            None => Ok(Err(self.gone(&lock, &rows))),
        }
    }

    fn gone(&self, lock: &LockName, rows: &[Row]) -> TokenAnswer {
        TokenAnswer::Gone(String::from_utf8_lossy(lock.given()).into_owned(), self.seen(lock, rows).holders)
    }
}
