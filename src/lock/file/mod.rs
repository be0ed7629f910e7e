//! The engine of lock files: flock(2) on a file is the lock, and byte-range locks on
//! the same file are its queue.
//!
//! One file per lock, `DIR/NAME.lock`, is locked in four independent ways:
//!
//! | what | how | held |
//! |---|---|---|
//! | the lock | flock(2), exclusive or shared | while COMMAND lives |
//! | the door | one byte, write | for microseconds, never while waiting |
//! | a ticket | a byte range, numbered in order of arrival | while waiting |
//! | a ticket's wait byte | by the next waiter | in passing |
//!
//! All four vanish with their process, so a crash leaves nothing to clean up, and
//! waiting writes nothing. The rules:
//!
//! - Under the door, a lock is taken only if no ticket conflicts and flock(2) succeeds
//!   at once; otherwise a ticket is drawn. So a new request never overtakes a waiter.
//! - A waiter sleeps on the ticket before its own, or, at the head of the queue, on the
//!   lock itself. So a release wakes one process, however long the queue.
//! - A ticket is returned only after the grant, so the next waiter comes to the lock
//!   after us.
//! - After each grant, the locked file is compared with the one at the path. If the
//!   file was removed or replaced, the request starts over.
//!
//! For `--file PATH` the lock is on PATH, which is never written to; door, tickets and
//! record are in a file in DIR, named after PATH's identity.

mod around;
mod contender;
pub mod descriptor;
mod dir;
mod files;
mod floor;
mod held;
mod history;
mod holders;
mod holding;
mod identity;
mod kernel;
mod lanes;
mod ledger;
mod lock_file;
mod lockruns;
#[cfg(test)]
mod model;
mod nesting;
mod open;
mod probe;
mod prune;
mod queue;
mod queued;
mod request;
mod rival;
mod rivals;
mod script;
mod slots;
pub mod standing;
mod store;
mod survey;
mod taking;

pub use around::{LockAround, locks_around};
pub use dir::Dir;
pub use held::FileHeld;
pub use lockruns::is_token_keeper;
pub use queued::FileQueued;
pub use request::FileEngine;
pub use store::{FileStore, make_lock_file, record_of_grant};
