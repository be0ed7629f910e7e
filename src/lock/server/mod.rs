//! The engine of locks on a server: one queue of rows, whatever keeps them.
//!
//! - [`queue`]: the rule, pure
//! - [`row`]: what a row is made of
//! - [`store`]: what a server has to offer
//! - `etcd`: that server
//! - [`url`]: what names a server
//! - [`contend`]: from a request to its grant
//! - [`hold`]: from the grant to its end
//! - [`lease`]: when to renew, and when to end a command in time
//! - [`keeper`]: the process that does both; `wrapper`: the process beside it
//! - [`page`], [`news`]: between the two

pub mod contend;
pub mod engine;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod hold;
mod inspect;
pub mod keeper;
pub mod last_resort;
pub mod lease;
pub mod looks;
pub mod news;
pub mod page;
pub mod queue;
pub mod request;
pub mod row;
pub mod store;
pub mod summon;
pub mod url;
mod wrapper;

pub use engine::{Details, ServerEngine};
pub use inspect::ServerStore;
pub use wrapper::held::ServerHeld;
pub use wrapper::is_our_keeper;
pub use wrapper::queued::{Progress, ServerQueued};
