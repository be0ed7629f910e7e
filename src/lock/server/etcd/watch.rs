//! Being told of changes.

use std::collections::VecDeque;

use data_encoding::BASE64;
use serde_json::json;
use tokio::sync::watch::Receiver;

use super::answers::{KeyValue, Watched};
use super::calls::{Calls, Revision, Span};
use crate::lock::server::store::Trouble;
use crate::net::Limits;
use crate::net::http::Lines;

/// Keys to be watched.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which.
    pub span: Span,
    /// Whether only their removal matters.
    pub only_removal: bool,
    /// From after this revision on, so that nothing between a look and the watch is
    /// missed.
    pub after: Revision,
}

/// One request that stays open, with one answer that never ends.
pub struct Watch {
    lines: Lines,
    /// Whether requests go to another server by now.
    turns: Receiver<u64>,
    /// What was heard and not yet asked for.
    heard: VecDeque<Heard>,
}

/// What came of a watch.
#[derive(Debug)]
pub enum Heard {
    /// A key was made or written.
    Changed(KeyValue),
    /// A key has gone.
    Removed(String),
    /// There will be no more: the connection broke, the server lost its cluster,
    /// or what happened in between was compacted away. Look again.
    Ended(String),
}

impl Calls {
    /// Watches keys.
    ///
    /// # Errors
    /// No server began to answer.
    pub async fn watch(&mut self, wishes: &[Wish], limits: Limits) -> Result<Watch, Trouble> {
        // The gateway has no way to add a watch later: all of them in one body.
        let body: String = wishes.iter().map(creation).collect();
        let lines = self.gateway.stream("watch", body.into(), limits).await?;
        Ok(Watch { lines, turns: self.gateway.turns(), heard: VecDeque::new() })
    }
}

fn creation(wish: &Wish) -> String {
    let mut create = json!({
        "key": BASE64.encode(wish.span.from.as_bytes()),
        "startRevision": (wish.after + 1).to_string(),
    });
    if let Some(to) = &wish.span.to {
        create["rangeEnd"] = BASE64.encode(to.as_bytes()).into();
    }
    if wish.only_removal {
        create["filters"] = json!(["NOPUT"]);
    }
    json!({"createRequest": create}).to_string()
}

impl Watch {
    /// The next event. Loses nothing if it is dropped before it is ready.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            let line = tokio::select! {
                line = self.lines.next() => line,
                _ = self.turns.changed() => return Heard::Ended("requests go to another server now".into()),
            };
            match line {
                Ok(Some(line)) => self.read(&line),
                Ok(None) => return Heard::Ended("the server ended the watch".into()),
                Err(fault) => return Heard::Ended(fault.to_string()),
            }
        }
    }

    fn read(&mut self, line: &[u8]) {
        let Ok(watched) = serde_json::from_slice::<Watched>(line) else {
            self.heard.push_back(Heard::Ended("the answer is not etcd's JSON".into()));
            return;
        };
        let Some(happened) = watched.result else {
            self.heard.push_back(Heard::Ended(watched.problem()));
            return;
        };
        for event in happened.events {
            let removed = event.is_removal();
            self.heard.push_back(match removed {
                true => Heard::Removed(super::calls::key_of(&event.kv)),
                false => Heard::Changed(event.kv),
            });
        }
        if happened.canceled {
            self.heard.push_back(Heard::Ended(match happened.cancel_reason.as_str() {
                "" => "what happened in between was compacted away".into(),
                reason => reason.into(),
            }));
        }
    }
}
