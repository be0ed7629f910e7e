//! The only place with `unsafe`: system calls that neither std nor rustix offers
//! safely, each wrapped in a function that cannot be misused. Errors are those of the
//! system call, as in its manual page.
//!
//! lockrun is single-threaded by design, and everything here relies on that: signal
//! masks, umask and `fork` act on the whole process.

#![allow(unsafe_code)]

#[cfg(feature = "net")]
mod async_ready;
#[cfg(feature = "net")]
mod async_sleep;
mod byte_lock;
#[cfg(test)]
mod byte_lock_model;
mod clock;
mod cohabit;
mod heap;
mod interrupter;
mod let_go;
mod process;
mod ready;
mod send;
mod shared;
mod signal;
mod signal_fd;
mod start;
mod timer;

#[cfg(feature = "net")]
pub use async_ready::Awaited;
#[cfg(feature = "net")]
pub use async_sleep::sleep_until;
pub use byte_lock::{ByteLock, Found, Kind};
#[cfg(test)]
pub use byte_lock_model::{Kernel as ModelledKernel, with_model};
pub use clock::suspend_aware_now;
pub use cohabit::{Cohabitant, asleep, descriptor_of_cohabitant, keep_the_baton};
pub use interrupter::{Interrupter, has_caught, take_caught};
pub use let_go::LetGo;
pub use process::{
    Exec, Forked, end_child, end_with, exit_now, fork, has_ended, has_executed, nap, spawn, without_umask,
};
#[cfg(feature = "net")]
pub use process::{fork_apart, reap_apart};
pub use ready::{is_readable, wait_until_ready};
pub use send::{ask_to_let_go, send, send_by_pidfd};
pub use shared::Shared;
pub use signal::{
    Arrived, Mask, STOPPING, block_all, default_on_child_death, discard, end_by, ignore_requests, is_ignored,
    let_signals_in, next_signal, pending, restore, stop_by, take_missed_stop, timer_signal,
};
pub use signal_fd::SignalFd;
pub use start::{
    above_stdio, arguments, become_waiter, close_all_but, close_on_exec, detach, duplicate, numbers_in,
    remember_arguments, retitle,
};
pub use timer::Timer;
