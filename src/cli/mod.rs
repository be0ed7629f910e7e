//! What can be typed, and its help; no behaviour.

mod command;
mod fast_path;
mod flock;
mod friedl;
mod goodwill;
mod look;
mod number;
mod parse;
mod run;
mod spelling;
mod suggestion;
mod token;
mod usage_error;
mod words;

pub use command::{Command, tree};
pub use flock::{Flock, FlockCommand, FlockLock, NotFlock, Operation};
pub use look::{Break, Completions, List, LockPath, Prune, Selection, Shell, Status, Wait};
pub use parse::parse;
pub use run::{Hold, Lock, Run};
pub use token::{Acquire, Check, Release, Renew};
pub use usage_error::UsageError;
