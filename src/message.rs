//! What lockrun says on stderr, in one voice: `lockrun: LOCK: what happened`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::advice::Advice;
use crate::duration;
use crate::escape::{printable, shorten, shorten_middle};
use crate::lock::Holder;
use crate::process;
use crate::sys;

/// Characters of a holder's command line.
const COMMAND_SHOWN: usize = 120;
/// Characters of a lock's name.
const NAME_SHOWN: usize = 80;

/// Writes one line to stderr; a stderr that is closed or full changes nothing about the
/// lock. A line that is not read within a second is lost, so that it costs nobody a
/// turn.
pub fn tell(text: &str) {
    write(&format!("lockrun: {text}\n"), A_SECOND);
}

/// Writes one line to stderr if that takes no time, because another process waits for
/// us.
pub fn tell_in_passing(text: &str) {
    write(&format!("lockrun: {text}\n"), NO_TIME);
}

/// Writes one line in the name of flock(1), for its command line.
pub fn tell_as_flock(text: &str) {
    write(&format!("flock: {text}\n"), A_SECOND);
}

/// Writes a text to stderr unchanged, if that takes no time.
pub fn draw(text: &str) {
    write(text, NO_TIME);
}

const A_SECOND: Duration = Duration::from_secs(1);
const NO_TIME: Duration = Duration::ZERO;

/// Whether stderr took nothing for a second; later lines get no second.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// A pipe that is ready takes at least this many bytes at once (`PIPE_BUF`).
const PIECE: usize = 4096;

fn write(text: &str, limit: Duration) {
    let stderr = rustix::stdio::stderr();
    let limit = if IS_STUCK.load(Ordering::Relaxed) { NO_TIME } else { limit };
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        if sys::wait_until_ready(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(limit)) != Ok(1) {
            IS_STUCK.fetch_or(limit != NO_TIME, Ordering::Relaxed);
            return;
        }
        match rustix::io::write(stderr, &rest[..rest.len().min(PIECE)]) {
            Ok(0) => return,
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => {
                // Our own write raised these signals; they must not kill us.
                sys::discard(libc::SIGPIPE);
                sys::discard(libc::SIGXFSZ);
                return;
            }
        }
    }
}

pub fn tell_about(name: &str, text: &str) {
    tell(&format!("{name}: {text}"));
}

pub fn tell_deadlock(name: &str, holders: &[Holder], reentrant_helps: bool) {
    let taken = held_by(holders);
    let advice = if reentrant_helps { "; --reentrant runs it without taking the lock again" } else { "" };
    tell_about(name, &format!("would deadlock: this command already runs under the lock, {taken}{advice}"));
}

/// Writes an error: its causes from the outermost in, then what to do next.
pub fn tell_error(error: &anyhow::Error) {
    tell(&describe(error));
}

/// The line for an error, without `lockrun:`.
pub fn describe(error: &anyhow::Error) -> String {
    let advice = error.downcast_ref::<Advice>().map(|advice| advice.0.as_ref());
    let causes = error.chain().map(|cause| plain(&cause.to_string())).filter(|cause| Some(cause.as_str()) != advice);
    let mut text = printable(causes.collect::<Vec<_>>().join(": ").as_bytes());
    if let Some(advice) = advice {
        text = text + "; " + advice;
    }
    text
}

/// Drops the error number.
fn plain(cause: &str) -> String {
    match cause.find(" (os error ") {
        Some(number) if cause.ends_with(')') => cause[..number].to_owned(),
        _ => cause.to_owned(),
    }
}

pub fn os_error(errno: i32) -> String {
    plain(&std::io::Error::from_raw_os_error(errno).to_string())
}

/// A signal's name, or its number where it has none.
pub fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

pub fn shown_name(name: &[u8]) -> String {
    shorten_middle(&printable(name), NAME_SHOWN)
}

/// A process that signalled us: `pid 4242 (lockrun --replace …), user root`, as far as
/// it is visible.
pub fn by(pid: i32) -> String {
    if pid == 0 {
        return "a process that is not visible from here".into();
    }
    let mut text = format!("pid {pid}");
    if let Some(line) = process::command_line(pid) {
        text += &format!(" ({})", shorten(&printable(&line), COMMAND_SHOWN));
    }
    if let Some(user) = process::user(pid) {
        text += &format!(", user {}", printable(user.as_bytes()));
    }
    text
}

/// `held by pid 4242 (backup.sh --all), user root, for 3m12s`.
pub fn held_by(holders: &[Holder]) -> String {
    let Some(first) = holders.first() else {
        return "held by a process that is not visible from here".into();
    };
    let mut text = String::from("held by");
    match first.pid {
        Some(pid) => text += &format!(" pid {pid}"),
        None if first.is_token => text += " a token, taken",
        None => text += " an unknown process",
    }
    if let Some(host) = &first.host {
        text += &format!(" on {}", printable(host.as_bytes()));
    }
    if let Some(command) = &first.command {
        text += &format!(" ({})", shorten(&printable(command.as_bytes()), COMMAND_SHOWN));
    }
    if let Some(user) = &first.user {
        text += &format!(", user {}", printable(user.as_bytes()));
    }
    if first.is_ancestor {
        text += ", an ancestor of this command";
    }
    if let Some(age) = first.age {
        text += &format!(", for {}", duration::display(age));
    }
    if let Some(until) = &first.kept_until {
        text += &format!(", which has ended; kept until {}", printable(until.as_bytes()));
    }
    if let Some(owner) = first.owner {
        text += &format!(", until pid {owner} ends");
    }
    if let Some(expires) = &first.expires {
        text += &format!(", expires {}", printable(expires.as_bytes()));
    }
    match holders.len() {
        1 => {}
        2 => text += ", and by another",
        more => text += &format!(", and by {} others", more - 1),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_described_as_far_as_it_is_known() {
        let holder = Holder {
            pid: Some(4242),
            command: Some("backup.sh --all".into()),
            user: Some("root".into()),
            age: Some(Duration::from_secs(192)),
            ..Holder::default()
        };
        assert_eq!(held_by(std::slice::from_ref(&holder)), "held by pid 4242 (backup.sh --all), user root, for 3m12s");
        assert!(held_by(&[holder.clone(), holder.clone(), holder]).ends_with("for 3m12s, and by 2 others"));
        assert_eq!(held_by(&[]), "held by a process that is not visible from here");
    }

    #[test]
    fn an_error_ends_with_what_to_do() {
        let error = anyhow::Error::from(std::io::Error::from_raw_os_error(13))
            .context("cannot open \x1b")
            .context(Advice::new("try another"));
        assert_eq!(describe(&error), "cannot open \\x1b: Permission denied; try another");
    }
}
