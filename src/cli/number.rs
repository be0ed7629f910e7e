//! Whole numbers on the command line, with errors that say what they may be.

use std::os::fd::RawFd;

use crate::lock::MAX_SLOTS;

/// For `--conflict-exit-code`.
pub fn exit_code(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| "not an exit code; write a whole number from 0 to 255".into())
}

/// For `--slots`.
pub fn slots(text: &str) -> Result<u32, String> {
    let slots = text.parse().ok().filter(|slots| (1..=MAX_SLOTS).contains(slots));
    slots.ok_or_else(|| format!("not a number of slots; write a whole number from 1 to {MAX_SLOTS}"))
}

/// For `--max-waiters`. A number that is too large means no limit.
pub fn waiters(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(waiters) => Ok(waiters),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(u32::MAX),
        Err(_) => Err("not a number of waiters; write a whole number, 0 or more".into()),
    }
}

/// For `--owner`.
pub fn pid(text: &str) -> Result<i32, String> {
    let pid = text.parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| "not a process id; write a whole number, in a script $$".into())
}

/// For `--fd`.
pub fn descriptor(text: &str) -> Result<RawFd, String> {
    let descriptor = text.parse().ok().filter(|descriptor| *descriptor >= 0);
    descriptor.ok_or_else(|| "not a descriptor; write its number, 9 for one opened by 'exec 9<>FILE'".into())
}
