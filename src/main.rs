//! The `lockrun` program: nothing but the entry to the library.
//!
//! `main` is our own, because std's start-up costs a tenth of what the whole
//! program may cost, and changes what COMMAND inherits (SIGPIPE, closed
//! standard descriptors). std works without it. Only the command line is for
//! us to remember: but for glibc's, no loader tells std.

#![no_main]

use std::ffi::{c_char, c_int};

/// Called by the C runtime.
#[allow(unsafe_code)]
// SAFETY: `main` is defined nowhere else in this program, and has the type
// that the C runtime calls it with.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *mut *mut c_char) -> c_int {
    lockrun::sys::remember_arguments(count, arguments);
    let code = lockrun::main();
    // Not through the C library's exit handlers: there are none of ours, and
    // whoever waits for our end waits for them.
    lockrun::sys::exit_now(code.into())
}
