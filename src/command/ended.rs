//! What is said about COMMAND's end, and the exit that follows from it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::child::{self, Cause, Ended, Outcome};
use crate::duration;
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::Lost;
use crate::message;

/// The lock `name` is given back. `lost`: how it had been lost without anybody
/// noticing; `expires`: what `--expires` was.
pub fn exit(name: &str, outcome: &Outcome, lost: Option<&Lost>, expires: Option<Duration>) -> Exit {
    let why = match &outcome.cause {
        None => match lost {
            None => return own_exit(outcome.ended),
            Some(lost) => format!("lost: {}", lost.how),
        },
        Some(cause) => format!("{}: ended the command and all it started", text_of(cause, expires)),
    };
    message::tell_about(name, &format!("{why}; the command ended with {}", text_of_end(outcome.ended)));
    Exit::Lost
}

fn own_exit(ended: Ended) -> Exit {
    match ended {
        Ended::Code(code) => Exit::Code(code),
        Ended::Signal(signal) => Exit::Signal(signal),
    }
}

fn text_of(cause: &Cause, expires: Option<Duration>) -> String {
    match cause {
        Cause::Expired => format!("expired after {}", duration::display(expires.unwrap_or_default())),
        Cause::Replaced(by) => format!("replaced by {}", message::by(*by)),
        Cause::Broken(by) => format!("broken by {}", message::by(*by)),
        Cause::Lost(lost) => format!("lost: {}", lost.how),
    }
}

fn text_of_end(ended: Ended) -> String {
    match ended {
        Ended::Code(code) => format!("exit code {code}"),
        Ended::Signal(signal) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => name.to_owned(),
            None => format!("signal {signal}"),
        },
    }
}

/// COMMAND could not be executed, for this `errno`.
pub fn not_executed(name: &str, program: &OsStr, errno: i32) -> Exit {
    let shown = printable(program.as_bytes());
    let is_there = child::is_there(program);
    // In PATH, a directory that is none or that we may not search has nothing.
    let is_searched = !program.as_bytes().contains(&b'/');
    let (exit, text) = match errno {
        libc::ENOENT if is_there => (
            Exit::NotFound,
            format!("cannot execute {shown}: its interpreter, behind #! or of its format, is not there"),
        ),
        libc::ENOENT => (Exit::NotFound, format!("command not found: {shown}")),
        libc::EACCES | libc::ENOTDIR if is_searched && !is_there => {
            (Exit::NotFound, format!("command not found: {shown}"))
        }
        _ => (Exit::CannotExecute, format!("cannot execute {shown}: {}", message::os_error(errno))),
    };
    message::tell_about(name, &text);
    exit
}
