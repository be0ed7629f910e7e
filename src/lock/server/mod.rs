//! The engine of locks on a server: one queue of rows, whatever keeps them.
//!
//! - [`queue`]: the rule, pure; [`row`]: what a row is made of
//! - [`store`]: what a server has to offer; `etcd`, `postgres` and `redis` offer it;
//!   `any_store`: which of them; [`url`]: what names a server
//! - `contend`: from a request to its grant; `hold`: from the grant to its end; `vigil`:
//!   the same for a token; `tokens`: what the commands do with one
//! - `lease`: when to renew, and when to end a command in time; `pause`: that it was too
//!   late
//! - `keeper`: the process that does both; `wrapper`: the process beside it; `page`,
//!   `news`, `ties`: between the two

pub mod account;
mod announcement;
mod any_store;
mod contend;
mod engine;
#[cfg(feature = "etcd")]
pub mod etcd;
mod hold;
mod inspect;
mod keeper;
mod last_resort;
mod lease;
mod looks;
#[cfg(test)]
mod memory;
mod news;
mod page;
mod pause;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod queue;
#[cfg(feature = "redis")]
pub mod redis;
mod request;
pub mod row;
pub mod store;
mod summon;
mod ties;
mod tokens;
pub mod url;
mod vigil;
mod wrapper;

pub use announcement::is_keeper;
pub use engine::{Details, ServerEngine};
pub use inspect::ServerStore;
pub use tokens::TokenAnswer;
pub use wrapper::Tell;
pub use wrapper::held::ServerHeld;
pub use wrapper::is_our_keeper;
pub use wrapper::queued::{Progress, ServerQueued};
