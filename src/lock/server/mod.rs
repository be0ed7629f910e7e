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
//! - [`page`], [`news`]: between the keeper, which runs all this, and its wrapper

pub mod contend;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod hold;
pub mod last_resort;
pub mod lease;
pub mod news;
pub mod page;
pub mod queue;
pub mod row;
pub mod store;
pub mod url;
