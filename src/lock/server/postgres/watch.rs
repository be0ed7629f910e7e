//! Being told of changes: by NOTIFY, and by the clock where a lease ends, because
//! the server removes no row by itself.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, number, text};
use super::link::Link;
use super::rows::{Found, found};
use super::sql::{Sql, channel};
use crate::lock::server::queue::{Id, State, Until};
use crate::lock::server::store::{self, Event, Subject, Watched};
use crate::sys::{sleep_until, suspend_aware_now};

/// Behind a pooler nobody is notified: everything is looked at this often.
const POLL: Duration = Duration::from_secs(1);
/// A lease that has ended is looked at a moment later.
const MARGIN: Duration = Duration::from_millis(5);

/// The id that is watched; `None`: everything about the lock is.
pub fn row_of(watched: &Watched) -> Option<Id> {
    match &watched.subject {
        Subject::Row { id, .. } | Subject::Own(id, _) => Some(*id),
        Subject::Anything => None,
    }
}

/// A watch of rows.
pub struct PostgresWatch {
    link: Arc<Link>,
    sql: Sql,
    watched: Vec<Watched>,
    /// What happened and was not yet asked for.
    events: VecDeque<Event>,
    /// Our own rows that have changed in a way that is not yet known.
    changed: BTreeSet<usize>,
    /// When to look without being told.
    look_at: Duration,
}

impl PostgresWatch {
    /// From the answer to [`Sql::watch`].
    pub fn new(link: Arc<Link>, sql: Sql, watched: &[Watched], answer: Answer) -> Self {
        let is_pooled = link.is_pooled();
        let mut watch = Self {
            link,
            sql,
            watched: watched.to_vec(),
            events: VecDeque::new(),
            changed: BTreeSet::new(),
            look_at: Duration::MAX,
        };
        watch.compare(answer);
        if is_pooled {
            watch.look_at = watch.look_at.min(suspend_aware_now() + POLL);
        }
        watch
    }

    /// What has happened since the look that each subject was seen in.
    fn compare(&mut self, answer: Answer) {
        let mut answer = answer.last(2);
        let (Some(numbers), Some(rows)) = (answer.pop(), answer.pop()) else {
            self.events.push_back(Event::Ended);
            return;
        };
        let there = found(&rows);
        let now = suspend_aware_now();
        for watched in &mut self.watched {
            let row = row_of(watched).and_then(|id| there.iter().find(|found| found.row.contender.id == id));
            match (&watched.subject, row) {
                (Subject::Row { until, .. }, Some(found)) => {
                    if *until == Until::Settled && found.row.contender.state != State::Waiting {
                        self.events.push_back(Event::Moved);
                    }
                    self.look_at = self.look_at.min(now.saturating_add(found.expires_in + MARGIN));
                }
                (Subject::Row { .. }, None) => self.events.push_back(Event::Moved),
                (Subject::Own(id, _), None) => self.events.push_back(Event::Lost(*id)),
                (Subject::Own(id, _), Some(Found { row, .. })) => {
                    if row.version > watched.since {
                        watched.since = row.version;
                        self.events.push_back(Event::Called(*id, Box::new(row.note.clone())));
                    }
                }
                (Subject::Anything, _) => {
                    let name = watched.lock.encoded();
                    let found = numbers.iter().find(|columns| text(columns, 0) == Some(name));
                    let last: u64 = found.and_then(|columns| number(columns, 1)).unwrap_or(0);
                    if last > watched.since {
                        watched.since = last;
                        self.events.push_back(Event::Moved);
                    }
                }
            }
        }
    }

    fn hear(&mut self, channels: &BTreeSet<String>) {
        for (place, watched) in self.watched.iter().enumerate() {
            if !channels.contains(&channel(watched)) {
                continue;
            }
            match watched.subject {
                Subject::Own(..) => drop(self.changed.insert(place)),
                Subject::Row { .. } | Subject::Anything => self.events.push_back(Event::Moved),
            }
        }
    }
}

impl store::Watch for PostgresWatch {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if !self.changed.is_empty() {
                let message = self.sql.watch(&self.watched);
                let Ok(answer) = self.link.ask(&message).await else { return Event::Ended };
                self.changed.clear();
                self.compare(answer);
                continue;
            }
            let heard = self.link.heard();
            tokio::select! {
                channels = heard.next() => match channels {
                    Some(channels) => self.hear(&channels),
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
