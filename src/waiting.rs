//! What people see while lockrun waits: a living line on a terminal, elsewhere a line
//! now and then.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use crate::child::Watch;
use crate::duration;
use crate::escape::shorten_middle;
use crate::lock::{Holder, Patience};
use crate::message;
use crate::table;

/// A shorter wait shows nothing on a terminal.
const A_MOMENT: Duration = Duration::from_millis(500);
/// How often the living line changes.
const A_SECOND: Duration = Duration::from_secs(1);
/// Elsewhere, the first line and the time between lines: rare for mail from cron, more
/// often for the log of a CI job.
const ELSEWHERE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];
const IN_CI: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
/// CI systems set it.
const CI: &str = "CI";
/// Columns left free for the `^C` that a terminal echoes: at its edge the echo would
/// wrap, and our line would stay.
const MARGIN: usize = 4;
/// A long name gets this fraction of a terminal's columns, to leave room for the
/// holder, but at least [`NAME_LEAST`].
const NAME_SHARE: usize = 4;
const NAME_LEAST: usize = 12;

/// How much to say about waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    Quiet,
    /// Long waits.
    Normal,
    /// Every wait, paths, times.
    Verbose,
}

/// Shows whom we wait for.
pub struct Waiting<F> {
    name: String,
    started: Instant,
    deadline: Option<Instant>,
    next: Option<Instant>,
    interval: Duration,
    /// Whether the terminal can erase a line.
    living: bool,
    shown: bool,
    holders: F,
}

impl<F: Fn() -> Vec<Holder>> Waiting<F> {
    /// `holders` is only called when there is something to show.
    pub fn new(name: String, verbosity: Verbosity, patience: Patience, holders: F) -> Self {
        let started = patience.since;
        let living = verbosity != Verbosity::Quiet && stderr().is_terminal() && !is_dumb() && in_foreground();
        let is_ci = std::env::var_os(CI).is_some_and(|value| !value.is_empty());
        let [first, interval] = schedule(living, verbosity, is_ci);
        let next = (verbosity != Verbosity::Quiet).then(|| started + first);
        Self { name, started, deadline: patience.deadline(), next, interval, living, shown: false, holders }
    }

    /// Times come first, so that a narrow terminal shows what changes.
    fn text(&self, now: Instant, name: &str) -> String {
        let mut text = String::from("waiting");
        let waited = now.saturating_duration_since(self.started);
        if waited >= A_SECOND {
            text += &format!(" for {}", duration::display(Duration::from_secs(waited.as_secs())));
        }
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(now).as_secs_f64().round() as u64;
            text += &format!(", {} left", duration::display(Duration::from_secs(left)));
        }
        text = text + ": " + name;
        let holders = (self.holders)();
        if holders.is_empty() { text } else { text + "; " + &message::held_by(&holders) }
    }
}

impl<F: Fn() -> Vec<Holder>> Watch for Waiting<F> {
    fn look(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.next.is_some_and(|next| next <= now) {
            if self.living {
                let columns = columns();
                let text = self.text(now, &shorten_middle(&self.name, (columns / NAME_SHARE).max(NAME_LEAST)));
                draw(&table::cut(&format!("lockrun: {text}"), columns.saturating_sub(MARGIN)));
                self.shown = true;
            } else {
                message::tell_in_passing(&self.text(now, &self.name));
            }
            self.next = Some(now + self.interval);
        }
        self.next
    }

    fn is_living(&self) -> bool {
        self.living
    }

    fn hide(&mut self) {
        if std::mem::take(&mut self.shown) {
            draw("");
        }
    }
}

/// The first line, and the time between lines.
fn schedule(living: bool, verbosity: Verbosity, is_ci: bool) -> [Duration; 2] {
    let [first, interval] = if is_ci { IN_CI } else { ELSEWHERE };
    match verbosity {
        _ if living => [A_MOMENT, A_SECOND],
        Verbosity::Verbose => [Duration::ZERO, interval],
        Verbosity::Normal | Verbosity::Quiet => [first, interval],
    }
}

fn draw(text: &str) {
    message::draw(&format!("\r{text}\x1b[K"));
}

fn columns() -> usize {
    match rustix::termios::tcgetwinsize(stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 80,
    }
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb")
}

/// Whether the terminal is ours to draw on: nobody watches a background job.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(stderr()).is_ok_and(|group| group == rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_the_times_that_the_manual_promises() {
        let seconds = |living, verbosity, is_ci| schedule(living, verbosity, is_ci).map(|time| time.as_secs_f64());
        assert_eq!(seconds(true, Verbosity::Normal, true), [0.5, 1.0]);
        assert_eq!(seconds(false, Verbosity::Normal, false), [60.0, 300.0]);
        assert_eq!(seconds(false, Verbosity::Normal, true), [5.0, 60.0]);
        assert_eq!(seconds(false, Verbosity::Verbose, false), [0.0, 300.0]);
        assert_eq!(seconds(false, Verbosity::Verbose, true), [0.0, 60.0]);
    }
}
