//! Locks of any engine, for commands that take none.

use std::time::Duration;

use anyhow::{Error, Result};

#[cfg(feature = "net")]
use super::ServerStore;
use super::location::{Location, Place};
use super::{AnyStore, FileStore};
use crate::lock::{Seen, Store, Target};

impl AnyStore {
    /// The locks of a directory or server.
    pub fn choose(location: Location) -> Result<Self> {
        Ok(match location.place()? {
            Place::Files(dir) => Self::Files(FileStore::open(dir)?),
            #[cfg(feature = "net")]
            Place::Server(server) => Self::Server(ServerStore::open(*server)?),
        })
    }
}

impl Store for AnyStore {
    fn location(&self) -> String {
        match self {
            Self::Files(store) => store.location(),
            #[cfg(feature = "net")]
            Self::Server(store) => store.location(),
        }
    }

    fn look(&self, targets: &[Target]) -> Result<Vec<Seen>> {
        match self {
            Self::Files(store) => store.look(targets),
            #[cfg(feature = "net")]
            Self::Server(store) => store.look(targets),
        }
    }

    fn require_usable(&self, targets: &[Target]) -> Result<()> {
        match self {
            Self::Files(store) => store.require_usable(targets),
            #[cfg(feature = "net")]
            Self::Server(store) => store.require_usable(targets),
        }
    }

    fn names(&self) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::Files(store) => store.names(),
            #[cfg(feature = "net")]
            Self::Server(store) => store.names(),
        }
    }

    fn would_wait_for_itself(&self, target: &Target, waits_forever: bool) -> Result<bool> {
        match self {
            Self::Files(store) => store.would_wait_for_itself(target, waits_forever),
            #[cfg(feature = "net")]
            Self::Server(store) => store.would_wait_for_itself(target, waits_forever),
        }
    }

    fn wait_for_change(&self, targets: &[Target], limit: Option<Duration>) -> Result<bool> {
        match self {
            Self::Files(store) => store.wait_for_change(targets, limit),
            #[cfg(feature = "net")]
            Self::Server(store) => store.wait_for_change(targets, limit),
        }
    }

    fn make_let_go(&self, target: &Target, kill_after: Duration) -> Result<bool> {
        match self {
            Self::Files(store) => store.make_let_go(target, kill_after),
            #[cfg(feature = "net")]
            Self::Server(store) => store.make_let_go(target, kill_after),
        }
    }

    fn prune(&self, only_look: bool, older: Duration, tell: &mut dyn FnMut(Result<Vec<u8>>)) -> Result<Option<Error>> {
        match self {
            Self::Files(store) => store.prune(only_look, older, tell),
            #[cfg(feature = "net")]
            Self::Server(store) => store.prune(only_look, older, tell),
        }
    }
}
