//! The engine of lock files: flock(2) on a file is the truth, byte-range
//! locks on the same file are the queue before it.
//!
//! One file per lock, `DIR/NAME.lock`, locked in four ways that never meet:
//!
//! | what | how | held |
//! |---|---|---|
//! | the lock | flock(2), exclusive or shared | while COMMAND lives |
//! | the door | one byte, write | for microseconds, never while waiting |
//! | a ticket | a byte range, numbered in order of arrival | while waiting |
//! | a ticket's wait byte | by the next in the queue | in passing |
//!
//! All four vanish with the process that held them, so no crash leaves
//! anything to clean up, and nothing has to be written to wait. The rules:
//!
//! - Under the door, a lock is taken only if no ticket conflicts and
//!   flock(2) succeeds at once; otherwise a ticket is drawn. So nobody who
//!   comes later passes anybody who waits.
//! - A waiter sleeps on the ticket before its own. Without one before it, it
//!   is at the head and sleeps on the lock itself. So one release wakes one
//!   process, whatever the depth of the queue.
//! - A ticket is given back only after the grant, so the next one comes to
//!   the lock after us.
//! - After each grant, the file behind the descriptor is compared with the
//!   one at the path. Who holds the lock of a removed file starts over.
//!
//! For `--file PATH` the lock is on PATH, which is never written to; door,
//! tickets and text are on a file in DIR that is named by PATH's identity.

mod contender;
pub mod descriptor;
mod dir;
mod files;
mod floor;
mod held;
mod holders;
mod holding;
mod identity;
mod kernel;
mod lanes;
mod ledger;
mod lock_file;
mod lockruns;
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

pub use dir::Dir;
pub use held::FileHeld;
pub use lockruns::is_token_keeper;
pub use queued::FileQueued;
pub use request::FileEngine;
pub use store::{FileStore, make_lock_file, record_of_grant};
