//! What each command does, one file each, and what the commands that take a lock share.
//!
//! A command returns how lockrun ends. Its error is whatever kept it from doing its
//! job; `lib.rs` turns that into a line and an exit code.

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
mod renewals;
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
#[cfg(feature = "net")]
mod wait_on_server;
