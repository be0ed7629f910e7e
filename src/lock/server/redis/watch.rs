//! Being told of changes: by what is published, and by the clock where a lease ends,
//! because the server removes no row by itself.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::link::Link;
use super::resp::Value;
use super::rows::{Found, grace_id, read};
use super::session::Answer;
use crate::lock::server::queue::{State, Until};
use crate::lock::server::store::{self, Event, Subject, Watched};
use crate::sys::{sleep_until, suspend_aware_now};

/// A lease that has ended is looked at a moment later.
const MARGIN: Duration = Duration::from_millis(5);
/// One that has ended but counts nevertheless, because a clock was set.
const AGAIN: Duration = Duration::from_secs(1);

/// A watch of rows.
pub struct RedisWatch {
    /// What is published; `None`: the connection has ended.
    heard: UnboundedReceiver<Value>,
    reader: JoinHandle<()>,
    watched: Vec<Watched>,
    /// Where changes of each are published; empty for what is not there.
    channels: Vec<Vec<u8>>,
    /// What happened and was not yet asked for.
    events: VecDeque<Event>,
    /// When to look without being told.
    look_at: Duration,
}

/// Whether this is the time after the server's start, of which nothing is published.
pub fn is_grace(watched: &Watched) -> bool {
    matches!(&watched.subject, Subject::Row { id, .. } if *id == grace_id())
}

impl RedisWatch {
    /// `answer`: how it was after the link was listening, of all that is not the grace
    /// period.
    pub fn new(link: Link, watched: &[Watched], channels: Vec<Vec<u8>>, answer: &Answer) -> Self {
        let (sender, heard) = unbounded_channel();
        let reader = tokio::spawn(async move {
            let mut link = link;
            while let Ok(value) = link.next().await {
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let (watched, events) = (watched.to_vec(), VecDeque::new());
        let mut watch = Self { heard, reader, watched, channels, events, look_at: Duration::MAX };
        watch.compare(answer);
        watch
    }

    /// What has happened since the look that each subject was seen in.
    fn compare(&mut self, answer: &Answer) {
        let now = suspend_aware_now();
        let mut seen = answer.value(0).list().iter();
        let mut watched = std::mem::take(&mut self.watched);
        for watched in &mut watched {
            if is_grace(watched) {
                self.look_in(now, answer.grace);
                continue;
            }
            let seen = seen.next().unwrap_or(&Value::Nil);
            match &watched.subject {
                Subject::Anything => {
                    let (last, soonest) = (seen.list().first(), seen.list().get(1));
                    if last.and_then(Value::number).unwrap_or(0) > watched.since {
                        self.events.push_back(Event::Moved);
                    }
                    match soonest.and_then(Value::number).unwrap_or(0) {
                        0 => {}
                        at if at <= answer.now => self.look_in(now, AGAIN),
                        at => self.look_in(now, Duration::from_micros(at - answer.now)),
                    }
                    if !answer.grace.is_zero() {
                        self.look_in(now, answer.grace);
                    }
                }
                Subject::Row { key, .. } => {
                    let found = read(&super::rows::key_of(key), seen.bytes(), answer.now);
                    self.look_in(now, found.expires_in);
                    self.hear(watched, seen.bytes());
                }
                Subject::Own(..) => self.hear(watched, seen.bytes()),
            }
        }
        self.watched = watched;
    }

    fn look_in(&mut self, now: Duration, time: Duration) {
        self.look_at = self.look_at.min(now.saturating_add(time).saturating_add(MARGIN));
    }

    /// `text`: the row as it is now; empty if it is gone.
    fn hear(&mut self, watched: &mut Watched, text: &[u8]) {
        let Found { row, .. } = read(key(watched).as_bytes(), text, 0);
        match &watched.subject {
            Subject::Anything => self.events.push_back(Event::Moved),
            Subject::Row { until, .. } => {
                if text.is_empty() || *until == Until::Settled && row.contender.state != State::Waiting {
                    self.events.push_back(Event::Moved);
                }
            }
            Subject::Own(id, _) if text.is_empty() => self.events.push_back(Event::Lost(*id)),
            Subject::Own(id, _) => {
                if row.version > watched.since {
                    watched.since = row.version;
                    self.events.push_back(Event::Called(*id, Box::new(row.note)));
                }
            }
        }
    }

    fn hear_message(&mut self, message: &Value) {
        let [kind, channel, text] = message.list() else { return };
        if kind.bytes() != b"message" {
            return;
        }
        let mut watched = std::mem::take(&mut self.watched);
        for (watched, on) in watched.iter_mut().zip(self.channels.clone()) {
            if on == channel.bytes() {
                self.hear(watched, text.bytes());
            }
        }
        self.watched = watched;
    }
}

/// The key of the row that is watched.
pub fn key(watched: &Watched) -> String {
    match &watched.subject {
        Subject::Row { key, .. } => key.clone(),
        Subject::Own(id, _) => id.to_string(),
        Subject::Anything => String::new(),
    }
}

impl store::Watch for RedisWatch {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            tokio::select! {
                message = self.heard.recv() => match message {
                    Some(message) => self.hear_message(&message),
                    None => return Event::Ended,
                },
                () = sleep_until(self.look_at) => {
                    self.look_at = Duration::MAX;
                    return Event::Moved;
                }
            }
        }
    }
}

impl Drop for RedisWatch {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
