//! Which database of a Redis, and how lockrun uses it.

use std::time::Duration;

use crate::lock::server::account::Account;

/// What the URL of a Redis says beside what all URLs say.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `redis` or `valkey`, as it was written.
    pub scheme: &'static str,
    /// The number of the database.
    pub database: u32,
    /// For how long after the server's start nothing is granted; `None`: the lease's
    /// length and a second.
    pub grace: Option<Duration>,
    pub(super) account: Option<Account>,
}

impl Login {
    /// The URL of the database on these hosts.
    pub fn url(&self, hosts: &str, is_secret: bool) -> String {
        format!("{}{}://{hosts}/{}", self.scheme, if is_secret { "s" } else { "" }, self.database)
    }
}
