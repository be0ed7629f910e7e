//! Streams of changes.

use std::collections::VecDeque;

use data_encoding::BASE64;
use serde_json::json;
use tokio::sync::watch::Receiver;

use super::answers::{KeyValue, Watched};
use super::calls::{Calls, Revision, Span};
use crate::lock::server::store::Trouble;
use crate::net::Limits;
use crate::net::http::Lines;

/// Keys to watch.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which.
    pub span: Span,
    /// Whether only their removal matters.
    pub only_removal: bool,
    /// Later changes are reported, so that nothing between a look and the watch is
    /// missed.
    pub after: Revision,
}

/// One open request with an answer that never ends.
pub struct Watch {
    lines: Lines,
    /// Changes when requests go to another server.
    turns: Receiver<u64>,
    /// Read, and not yet returned.
    heard: VecDeque<Heard>,
}

/// What a watch reports.
#[derive(Debug)]
pub enum Heard {
    /// A key was made or written.
    Changed(KeyValue),
    /// A key was removed.
    Removed(String),
    /// The last event: the connection broke, the server lost its cluster, or the
    /// history was compacted. Look again.
    Ended(String),
}

impl Calls {
    /// Begins a watch of all these keys.
    pub async fn watch(&mut self, wishes: &[Wish], limits: Limits) -> Result<Watch, Trouble> {
        // The gateway cannot add a watch later: all of them go into one body.
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
    /// The next event. May be dropped without loss.
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
