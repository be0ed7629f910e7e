//! What each command does, one file each; beside them what those share that
//! take a lock.

pub mod acquire;
pub mod break_lock;
pub mod check;
pub mod completions;
mod descriptor;
mod ended;
mod engine;
mod environment;
pub mod flock;
mod grantee;
pub mod help;
pub mod list;
pub mod path;
pub mod prune;
pub mod release;
pub mod renew;
mod report;
mod request;
pub mod run;
mod selection;
pub mod status;
mod stdout;
mod take;
mod tokens;
pub mod wait;
mod wait_in_queue;
#[cfg(feature = "etcd")]
mod wait_on_server;
