//! The engine of locks on a server: one queue of rows, whatever keeps them.
//!
//! - [`queue`]: the rule, pure
//! - [`row`]: what a row is made of
//! - [`store`]: what a server has to offer
//! - [`url`]: what names a server
//! - `etcd`: that server

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod queue;
pub mod row;
pub mod store;
pub mod url;
