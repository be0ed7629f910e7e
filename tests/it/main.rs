//! The product's promise as tests: real processes, real locks, one behaviour
//! a file. Each test owns a [`support::Sandbox`]; whatever takes time is waited
//! for as a condition, never slept for.
//!
//! Run them with `cargo test`. As root they also cover what needs a second user
//! or a mount; without root those tests say so and pass (with `CI` set they
//! fail instead).

/// The harness itself: what the other tests lean on does what it says.
mod harness;
/// Sandboxes, processes under test, and ways to watch them.
mod support;
