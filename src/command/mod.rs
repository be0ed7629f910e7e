//! What each command does, one file each; beside them what those share that
//! take a lock.

pub mod acquire;
mod asked;
pub mod check;
pub mod release;
pub mod renew;
pub mod run;
mod tokens;
