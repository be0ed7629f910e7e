//! What people see while lockrun waits: a living line on a terminal, one line
//! after a minute elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use crate::child::Watch;
use crate::duration;
use crate::lock::{Holder, Patience};
use crate::message;
use crate::table;

/// A wait shorter than this shows nothing on a terminal.
const A_MOMENT: Duration = Duration::from_millis(500);
/// A wait shorter than this shows nothing elsewhere: mail from cron should
/// mean something.
const A_MINUTE: Duration = Duration::from_secs(60);
/// How often the living line changes.
const A_SECOND: Duration = Duration::from_secs(1);
/// Columns that it leaves free: a terminal echoes `^C` there. At its edge the
/// echo would begin a line of its own, and ours would stay.
const MARGIN: usize = 4;

/// How much to say about waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Nothing.
    Quiet,
    /// Long waits.
    Normal,
    /// Every wait, paths, times.
    Verbose,
}

/// Tells people who we wait for.
pub struct Waiting<F> {
    name: String,
    started: Instant,
    deadline: Option<Instant>,
    /// When to show something for the first time, then the next time.
    next: Option<Instant>,
    /// On a terminal that can erase a line.
    living: bool,
    shown: bool,
    holders: F,
}

impl<F: Fn() -> Vec<Holder>> Waiting<F> {
    /// For a wait; `holders` is asked when there is
    /// something to show, and not before.
    pub fn new(name: String, verbosity: Verbosity, patience: Patience, holders: F) -> Self {
        let started = patience.since;
        let living = verbosity != Verbosity::Quiet && stderr().is_terminal() && !is_dumb() && in_foreground();
        let next = match verbosity {
            Verbosity::Quiet => None,
            _ if living => Some(started + A_MOMENT),
            Verbosity::Normal => Some(started + A_MINUTE),
            Verbosity::Verbose => Some(started),
        };
        Self { name, started, deadline: patience.deadline(), next, living, shown: false, holders }
    }

    fn text(&self, now: Instant) -> String {
        let mut text = format!("{}: waiting", self.name);
        let waited = now.saturating_duration_since(self.started);
        if waited >= A_SECOND {
            text += &format!(" for {}", duration::display(Duration::from_secs(waited.as_secs())));
        }
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(now).as_secs_f64().round() as u64;
            text += &format!(", {} left", duration::display(Duration::from_secs(left)));
        }
        let holders = (self.holders)();
        if holders.is_empty() { text } else { text + "; " + &message::held_by(&holders) }
    }
}

impl<F: Fn() -> Vec<Holder>> Watch for Waiting<F> {
    fn look(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.next.is_some_and(|next| next <= now) {
            let text = self.text(now);
            if self.living {
                draw(&table::cut(&format!("lockrun: {text}"), columns().saturating_sub(MARGIN)));
                self.shown = true;
            } else {
                message::tell(&text);
            }
            self.next = self.living.then(|| now + A_SECOND);
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

/// Puts a text in the place of the line; a terminal that is gone does not
/// matter.
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

/// Whether the terminal is ours to draw on: a job in the background is not
/// watched.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(stderr()).is_ok_and(|group| group == rustix::process::getpgrp())
}
