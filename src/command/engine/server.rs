//! The engine of servers as commands use it. No other file outside of it names it.

pub use crate::lock::server::url::{self, Server};
pub use crate::lock::server::{
    Details, Progress, ServerEngine, ServerHeld, ServerQueued, ServerStore, Tell, TokenAnswer, is_keeper, is_our_keeper,
};
