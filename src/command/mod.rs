//! What each command does, one file each; beside them what those share that
//! take a lock.

mod asked;
pub mod run;
