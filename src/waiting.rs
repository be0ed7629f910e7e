//! What people see while lockrun waits: a living line on a terminal, one line
//! after a minute elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::child::Watch;
use crate::duration;
use crate::lock::Holder;
use crate::message;

/// A wait shorter than this shows nothing on a terminal.
const A_MOMENT: Duration = Duration::from_millis(500);
/// A wait shorter than this shows nothing elsewhere: mail from cron should
/// mean something.
const A_MINUTE: Duration = Duration::from_secs(60);
/// How often the living line changes.
const A_SECOND: Duration = Duration::from_secs(1);

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
    line: Option<ProgressBar>,
    holders: F,
}

impl<F: Fn() -> Vec<Holder>> Waiting<F> {
    /// For a wait that began at `started`; `holders` is asked when there is
    /// something to show, and not before.
    pub fn new(name: String, verbosity: Verbosity, started: Instant, deadline: Option<Instant>, holders: F) -> Self {
        let terminal = verbosity != Verbosity::Quiet && stderr().is_terminal() && in_foreground();
        let next = match verbosity {
            Verbosity::Quiet => None,
            _ if terminal => Some(started + A_MOMENT),
            Verbosity::Normal => Some(started + A_MINUTE),
            Verbosity::Verbose => Some(started),
        };
        let line = terminal.then(|| {
            let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{wide_msg}");
            line.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            line
        });
        Self { name, started, deadline, next, line, holders }
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
            self.next = match &self.line {
                Some(line) => {
                    line.set_message(format!("lockrun: {text}"));
                    line.tick();
                    Some(now + A_SECOND)
                }
                None => {
                    message::tell(&text);
                    None
                }
            };
        }
        self.next
    }

    fn is_living(&self) -> bool {
        self.line.is_some()
    }

    fn hide(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

/// Whether the terminal is ours to draw on: a job in the background is not
/// watched.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(stderr()).is_ok_and(|group| group == rustix::process::getpgrp())
}
