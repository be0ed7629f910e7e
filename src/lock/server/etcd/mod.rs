//! etcd.

pub mod answers;
pub mod calls;
pub mod gateway;
pub mod watch;
