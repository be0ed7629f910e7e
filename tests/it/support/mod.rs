//! What every test builds on.
//!
//! - [`Sandbox`]: directories and a clean environment that nobody else sees.
//! - [`Invocation`] -> [`Outcome`]: a command run to its end, and what it did.
//! - [`Running`], [`Holder`]: a command in the background, one that holds a lock.
//! - [`Form`]: a lock taken around a command, or for a token.
//! - [`Timeline`]: who was under the lock when.
//! - [`Terminal`]: a command on a terminal, and somebody who types.
//! - [`SHELLS`]: the shells that scripts are written for.
//! - [`SignalReporter`]: a command that says which signals reach it.
//! - [`eventually`], [`is_held`]: waiting for, and looking at, the real state.
//! - [`Sandbox::acquire`], [`holder_of`], [`altered`]: tokens, who is behind them, forged ones.
//! - [`Example`]: what README.md and the manual show.
//! - [`packages`]: what `make deb` and its like make of the program under test.
//! - [`Etcd`], [`Cluster`]: a server of its own, three of them on a network of their own.
//! - [`Place`]: where a lock is, for what holds for every engine.
//! - [`Proxy`]: a way to a server that can be cut, or lose what is sent.
//! - [`interrupt`]: a process killed or delayed between any two system calls.
//! - [`may_act_as_root`], [`with_mounts`]: what needs root or a namespace of its own.

#[cfg(feature = "net")]
mod authority;
#[cfg(feature = "net")]
mod cluster;
#[cfg(feature = "net")]
mod etcd;
mod example;
mod form;
mod invocation;
mod observe;
mod outcome;
mod packages;
#[cfg(feature = "net")]
mod place;
#[cfg(feature = "net")]
pub mod postgres;
mod privilege;
#[cfg(feature = "net")]
mod proxy;
mod random;
#[cfg(feature = "net")]
pub mod redis;
mod running;
mod sandbox;
#[cfg(feature = "net")]
mod server;
mod shells;
mod signal_reporter;
mod terminal;
mod timeline;
mod token;
mod tracer;

#[cfg(feature = "net")]
pub use authority::Authority;
#[cfg(feature = "net")]
pub use cluster::{Cluster, NODES, Node};
#[cfg(feature = "net")]
pub use etcd::{Etcd, http_message, keeper_of};
pub use example::Example;
pub use form::{Asked, Form, end_of_stubborn, stubborn_holder};
pub use invocation::Invocation;
pub use observe::{LIMIT, children, eventually, is_alive, is_held, sleeps_in_a_lock_call, status_field};
pub use outcome::Outcome;
pub use packages::packages;
#[cfg(feature = "net")]
pub use place::Place;
pub use privilege::{am_root, in_pid_namespace, may_act_as_root, with_mounts};
#[cfg(feature = "net")]
pub use proxy::Proxy;
pub use random::Random;
pub use running::{Holder, Running};
pub use sandbox::Sandbox;
#[cfg(feature = "net")]
pub use server::signal;
pub use shells::{SHELLS, Shell};
pub use signal_reporter::SignalReporter;
pub use terminal::{Terminal, visible_lines};
pub use timeline::Timeline;
pub use token::{altered, holder_of, part};
pub use tracer::{Interruption, interrupt};
