//! The `lockrun` program: nothing but the entry to the library.
//!
//! `main` is our own, because std's start-up costs a tenth of a whole run and changes
//! what COMMAND inherits (SIGPIPE, closed standard descriptors). std works without it,
//! but with a libc other than glibc it does not learn the command line.

#![no_main]

use std::ffi::{c_char, c_int};

/// Called by the C runtime.
#[allow(unsafe_code)]
// SAFETY: `main` is defined nowhere else in this program, and has the type that the C
// runtime calls it with.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *mut *mut c_char) -> c_int {
    lockrun::sys::remember_arguments(count, arguments);
    let code = lockrun::main();
    // Without the C library's exit handlers: none are ours, and our parent would wait
    // for them.
    lockrun::sys::exit_now(code.into())
}
