//! Which servers there are: the store of rows for a URL, whatever keeps them.

use std::time::Duration;

#[cfg(feature = "etcd")]
use super::etcd::{Etcd, events::EtcdWatch};
#[cfg(feature = "postgres")]
use super::postgres::{Postgres, watch::PostgresWatch};
use super::queue::{Id, Mode};
#[cfg(feature = "redis")]
use super::redis::{Redis, watch::RedisWatch};
use super::row::{LockName, Note, Row};
use super::store::{
    Condition, Entered, Entry, Event, Granted, Kept, Lease, Look, Page, RowStore, Target, Trouble, Watch, Watched,
};
use super::url::{Server, Service};
use crate::net::Limits;

/// A store on one of the servers that lockrun knows.
pub enum AnyStore {
    /// etcd.
    #[cfg(feature = "etcd")]
    Etcd(Etcd),
    /// PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Postgres),
    /// Redis or Valkey.
    #[cfg(feature = "redis")]
    Redis(Redis),
}

/// A watch of rows there.
pub enum AnyWatch {
    /// Of etcd.
    #[cfg(feature = "etcd")]
    Etcd(EtcdWatch),
    /// Of PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(PostgresWatch),
    /// Of Redis or Valkey.
    #[cfg(feature = "redis")]
    Redis(RedisWatch),
}

impl AnyStore {
    /// The store that a URL names; not connected yet. `identity`: the only one to talk
    /// to, where it is known.
    pub fn new(server: &Server, identity: Option<&str>) -> Self {
        match &server.service {
            #[cfg(feature = "etcd")]
            Service::Etcd => Self::Etcd(Etcd::new(server, identity)),
            #[cfg(feature = "postgres")]
            Service::Postgres(login) => Self::Postgres(Postgres::new(server, login, identity)),
            #[cfg(feature = "redis")]
            Service::Redis(login) => Self::Redis(Redis::new(server, login, identity)),
        }
    }
}

/// The same call to whatever store it is.
macro_rules! to_store {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "etcd")]
            Self::Etcd($store) => $call,
            #[cfg(feature = "postgres")]
            Self::Postgres($store) => $call,
            #[cfg(feature = "redis")]
            Self::Redis($store) => $call,
        }
    };
}

impl Watch for AnyWatch {
    async fn next(&mut self) -> Event {
        to_store!(self, watch => watch.next().await)
    }
}

impl RowStore for AnyStore {
    type Watch = AnyWatch;

    fn description(&self) -> String {
        to_store!(self, store => store.description())
    }

    fn identity(&self) -> Option<String> {
        to_store!(self, store => store.identity())
    }

    fn address(&self) -> String {
        to_store!(self, store => store.address())
    }

    fn granted_ttl(&self, lease: Lease) -> Duration {
        to_store!(self, store => store.granted_ttl(lease))
    }

    async fn look(&mut self, lock: &LockName, limits: Limits) -> Result<Look, Trouble> {
        to_store!(self, store => store.look(lock, limits).await)
    }

    async fn enter(
        &mut self,
        lease: Lease,
        entries: &[Entry<'_>],
        condition: Condition<'_>,
        limits: Limits,
    ) -> Result<Entered, Trouble> {
        to_store!(self, store => store.enter(lease, entries, condition, limits).await)
    }

    async fn turn(&mut self, lock: &LockName, me: (Id, Mode), limits: Limits) -> Result<Look, Trouble> {
        to_store!(self, store => store.turn(lock, me, limits).await)
    }

    async fn grant(
        &mut self,
        lock: &LockName,
        me: Id,
        slot: Option<u32>,
        look: &Look,
        limits: Limits,
    ) -> Result<Granted, Trouble> {
        to_store!(self, store => store.grant(lock, me, slot, look, limits).await)
    }

    async fn keep(
        &mut self,
        lease: Lease,
        rows: &[(&LockName, &Row)],
        waits: &[Watched],
        limits: Limits,
    ) -> Result<Kept, Trouble> {
        to_store!(self, store => store.keep(lease, rows, waits, limits).await)
    }

    async fn move_to(
        &mut self,
        lease: Option<Lease>,
        rows: &[(&LockName, &Row)],
        limits: Limits,
    ) -> Result<Option<Duration>, Trouble> {
        to_store!(self, store => store.move_to(lease, rows, limits).await)
    }

    async fn amend(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        to_store!(self, store => store.amend(row, note, limits).await)
    }

    async fn left(&mut self, lock: &LockName, lease: u64, limits: Limits) -> Result<Option<Duration>, Trouble> {
        to_store!(self, store => store.left(lock, lease, limits).await)
    }

    async fn leave(&mut self, locks: &[&LockName], lease: u64, limits: Limits) -> Result<bool, Trouble> {
        to_store!(self, store => store.leave(locks, lease, limits).await)
    }

    async fn watch(&mut self, watched: &[Watched], limits: Limits) -> Result<AnyWatch, Trouble> {
        match self {
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.watch(watched, limits).await.map(AnyWatch::Etcd),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.watch(watched, limits).await.map(AnyWatch::Postgres),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.watch(watched, limits).await.map(AnyWatch::Redis),
        }
    }

    async fn call(&mut self, row: Target<'_>, note: &Note, limits: Limits) -> Result<bool, Trouble> {
        to_store!(self, store => store.call(row, note, limits).await)
    }

    async fn remove(&mut self, row: Target<'_>, limits: Limits) -> Result<bool, Trouble> {
        to_store!(self, store => store.remove(row, limits).await)
    }

    async fn list(&mut self, from: Option<&str>, limits: Limits) -> Result<Page, Trouble> {
        to_store!(self, store => store.list(from, limits).await)
    }

    async fn prune(&mut self, unused: Duration, dry_run: bool, limits: Limits) -> Result<usize, Trouble> {
        to_store!(self, store => store.prune(unused, dry_run, limits).await)
    }
}
