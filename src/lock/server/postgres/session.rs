//! A session with PostgreSQL: one message, sent at every address until the primary
//! has answered it.
//!
//! A message is one transaction and can be repeated, so that one whose answer was
//! lost is sent again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::answer::{Answer, Rows};
use super::link::{Link, LinkError};
use super::login::Login;
use super::schema::{self, Schema};
use crate::lock::server::store::Trouble;
use crate::net::{Address, Dialer, Fault, Limits, Tries, TryTime};
use crate::sys::suspend_aware_now;

/// What the server said.
pub enum Reply {
    /// It has done what was asked.
    Done(Answer),
    /// Somebody has the slot.
    SlotTaken,
}

/// A session.
pub struct Session {
    dialer: Dialer,
    login: Login,
    schema: Schema,
    link: Option<Arc<Link>>,
    /// The first store that answered, or the one that has to.
    identity: Option<String>,
}

/// Why a try brought no reply.
enum Setback {
    /// Here and now.
    Fault(Fault),
    /// The connection had been cut before, while it was idle.
    Stale,
    /// The tables are not there.
    NoTables,
    /// For good.
    Refused(String),
}

impl Session {
    /// `identity`: the only store to talk to, where it is known.
    pub fn new(dialer: Dialer, login: Login, schema: Schema, identity: Option<&str>) -> Self {
        Self { dialer, login, schema, link: None, identity: identity.map(str::to_owned) }
    }

    /// Which store it is, after its first answer.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Where the last answer came from.
    pub fn address(&self) -> &Address {
        self.dialer.address()
    }

    /// The server's version, once there is a connection.
    pub fn version(&self) -> Option<&str> {
        self.link.as_ref()?.version()
    }

    /// Whether a pooler stands between, so that nobody can be notified.
    pub fn is_pooled(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_pooled())
    }

    /// The connection over which the last answer came.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.link.clone()
    }

    /// Sends a message. Returns its answer without the store's own row, and when the
    /// try was sent that was answered.
    ///
    /// # Errors
    /// There is no answer that could be used.
    pub async fn ask(&mut self, message: &str, limits: Limits) -> Result<(Reply, Duration), Trouble> {
        let mut tries = Tries::new(limits, self.dialer.addresses());
        let mut has_made_tables = false;
        loop {
            let time = tries.next()?;
            match self.attempt(message, time).await {
                Ok(reply) => return Ok(reply),
                Err(Setback::Stale) => {}
                Err(Setback::Refused(text)) => return Err(Trouble::Refused(text)),
                Err(Setback::NoTables) if !has_made_tables => {
                    has_made_tables = true;
                    self.make_tables(time).await?;
                }
                Err(Setback::NoTables) => return Err(Trouble::Refused(self.schema.is_missing())),
                Err(Setback::Fault(fault)) => {
                    let address = self.dialer.address().clone();
                    self.link = None;
                    self.dialer.turn_away();
                    tries.failed(&address, fault).await?;
                }
            }
        }
    }

    async fn attempt(&mut self, message: &str, time: TryTime) -> Result<(Reply, Duration), Setback> {
        let (link, is_old) = match &self.link {
            Some(link) => (link.clone(), true),
            None => {
                let link = Link::open(&mut self.dialer, &self.login, time).await.map_err(|error| self.judge(error))?;
                (Arc::new(link), false)
            }
        };
        self.link = Some(link.clone());
        let sent = suspend_aware_now();
        let answer = timeout(time.answer, link.ask(message)).await;
        let mut answer = match answer.unwrap_or(Err(LinkError::Silent)) {
            Ok(answer) => answer,
            Err(error) => {
                // What is left of a failed transaction goes with it.
                self.link = None;
                return match error {
                    LinkError::Closed(_) if is_old => Err(Setback::Stale),
                    LinkError::Sql { code, .. } if code == SqlState::UNIQUE_VIOLATION => Ok((Reply::SlotTaken, sent)),
                    error => Err(self.judge(error)),
                };
            }
        };
        self.confirm(&answer.take_first())?;
        Ok((Reply::Done(answer), sent))
    }

    /// Whether the answer is the primary's, of the store that we talk to.
    fn confirm(&mut self, rows: &Rows) -> Result<(), Setback> {
        let Some(store) = schema::StoreRow::read(rows) else {
            return Err(Setback::Refused(self.schema.is_missing()));
        };
        if store.is_standby {
            return Err(Setback::Fault(Fault::not_answered("it is a standby")));
        }
        if store.format > schema::FORMAT {
            return Err(Setback::Refused(format!(
                "a newer lockrun made the tables: they have format {}, this lockrun knows up to {}; update lockrun on \
                 this host",
                store.format,
                schema::FORMAT
            )));
        }
        let expected = self.identity.get_or_insert_with(|| store.id.clone());
        if *expected != store.id {
            return Err(Setback::Fault(Fault::refused(format!(
                "belongs to another store ({} instead of {expected})",
                store.id
            ))));
        }
        Ok(())
    }

    async fn make_tables(&mut self, time: TryTime) -> Result<(), Trouble> {
        let link = match Link::open(&mut self.dialer, &self.login, time).await {
            Ok(link) => link,
            // The next try will say what is wrong.
            Err(_) => return Ok(()),
        };
        let made = timeout(time.answer, link.ask(&self.schema.creation())).await;
        match made {
            Ok(Err(LinkError::Sql { code, text })) if code == SqlState::INSUFFICIENT_PRIVILEGE => {
                Err(Trouble::Refused(format!("{text}; {}", self.schema.is_missing())))
            }
            _ => Ok(()),
        }
    }

    fn judge(&self, error: LinkError) -> Setback {
        let (code, text) = match error {
            LinkError::Fault(fault) => return Setback::Fault(fault),
            LinkError::Refused(text) => return Setback::Refused(text),
            LinkError::Silent => return Setback::Fault(Fault::not_answered("no answer in time")),
            LinkError::Closed(text) => return Setback::Fault(Fault::not_answered(text)),
            LinkError::Sql { code, text } => (code, text),
        };
        let class = code.code().get(..2).unwrap_or_default();
        match code {
            SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME => Setback::NoTables,
            SqlState::INSUFFICIENT_PRIVILEGE => Setback::Refused(format!("{text}; {}", self.schema.rights())),
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                Setback::Refused(format!("PostgreSQL says: {text}"))
            }
            SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::LOCK_NOT_AVAILABLE
            | SqlState::READ_ONLY_SQL_TRANSACTION => Setback::Fault(Fault::not_answered(text)),
            // A standby.
            SqlState::FEATURE_NOT_SUPPORTED if text.contains("recovery") => Setback::Fault(Fault::not_answered(text)),
            _ if ["08", "53", "57"].contains(&class) => Setback::Fault(Fault::not_answered(text)),
            _ => Setback::Refused(format!("PostgreSQL says: {text}")),
        }
    }
}
