//! etcd's answers. In this JSON numbers of 64 bits are strings, and zero or empty
//! values are left out.

use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE64;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub trait Headed: DeserializeOwned {
    fn header(&self) -> &Header;
}

/// About the cluster at the moment of the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    #[serde(deserialize_with = "number")]
    pub cluster_id: u64,
    /// Of the whole store.
    #[serde(deserialize_with = "number")]
    pub revision: i64,
    /// Rises with every election.
    #[serde(deserialize_with = "number")]
    pub raft_term: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    #[serde(deserialize_with = "base64")]
    pub key: Vec<u8>,
    #[serde(deserialize_with = "base64")]
    pub value: Vec<u8>,
    #[serde(deserialize_with = "number")]
    pub create_revision: i64,
    #[serde(deserialize_with = "number")]
    pub mod_revision: i64,
    /// 0: none.
    #[serde(deserialize_with = "number")]
    pub lease: i64,
}

/// To `kv/range`, and in a transaction.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Range {
    header: Header,
    /// In the order of the request.
    pub kvs: Vec<KeyValue>,
    /// Regardless of the limit.
    #[serde(deserialize_with = "number")]
    pub count: i64,
    pub more: bool,
}

/// To `kv/txn`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Txn {
    header: Header,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// One for each operation.
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Option<Range>,
}

impl Range {
    pub fn revision(&self) -> i64 {
        self.header.revision
    }
}

impl Txn {
    pub fn revision(&self) -> i64 {
        self.header.revision
    }

    pub fn term(&self) -> u64 {
        self.header.raft_term
    }

    /// One for each read.
    pub fn ranges(self) -> impl Iterator<Item = Range> {
        self.responses.into_iter().filter_map(|response| response.response_range)
    }
}

/// To `lease/grant`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Granted {
    header: Header,
    /// Seconds; may be more than requested.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: u64,
}

/// To `lease/keepalive`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Renewal {
    result: Granted,
}

impl Renewal {
    /// Seconds from now; 0: no such lease.
    pub fn ttl(&self) -> u64 {
        self.result.ttl
    }

    pub fn term(&self) -> u64 {
        self.result.header.raft_term
    }
}

/// To `lease/timetolive`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Remaining {
    header: Header,
    /// -1: there is no such lease.
    #[serde(rename = "TTL", deserialize_with = "number")]
    ttl: i64,
}

impl Remaining {
    /// `None`: there is no such lease.
    pub fn left(&self) -> Option<Duration> {
        self.ttl.try_into().ok().map(Duration::from_secs)
    }
}

/// To `lease/revoke`, and wherever only the header counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Plain {
    header: Header,
}

/// To `auth/authenticate`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Login {
    header: Header,
    /// For the header `Authorization`.
    pub token: String,
}

/// To `maintenance/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    header: Header,
    /// `3.5.13`
    pub version: String,
}

/// A line of `watch`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Watched {
    pub result: Option<Happened>,
    /// The watch has ended.
    error: Option<Value>,
}

impl Watched {
    /// Why the watch has ended.
    pub fn problem(self) -> String {
        let problem = Problem { error: self.error.unwrap_or_default(), code: 0 };
        problem.text().to_owned()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Happened {
    /// The first line of each watch.
    pub created: bool,
    /// It has ended: compacted, or not permitted.
    pub canceled: bool,
    pub cancel_reason: String,
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    #[serde(rename = "type")]
    kind: String,
    /// Only the name if the key was removed.
    pub kv: KeyValue,
}

impl Event {
    pub fn is_removal(&self) -> bool {
        self.kind == "DELETE"
    }
}

macro_rules! headed {
    ($($answer:ty: $($field:ident).+;)*) => {
        $(impl Headed for $answer {
            fn header(&self) -> &Header {
                &self.$($field).+
            }
        })*
    };
}

headed! { Range: header; Txn: header; Granted: header; Plain: header; Status: header; Login: header; Renewal: result.header; Remaining: header; }

/// An error, in either form that the gateway has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    error: Value,
    code: i64,
}

impl Problem {
    /// gRPC's code.
    pub fn code(&self) -> i64 {
        self.error["grpc_code"].as_i64().unwrap_or(self.code)
    }

    /// For messages.
    pub fn text(&self) -> &str {
        let text = self.error["message"].as_str().or(self.error.as_str()).unwrap_or_default();
        text.trim_start_matches("etcdserver: ")
    }
}

fn number<'de, D: Deserializer<'de>, N: FromStr>(input: D) -> Result<N, D::Error> {
    let text = String::deserialize(input)?;
    text.parse().map_err(|_| D::Error::custom("not a number"))
}

fn base64<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(input)?;
    BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hostile_answers_are_read_or_refused(
            text in crate::hostile::text(include_str!("../../../../tests/corpus/etcd")),
        ) {
            if let Ok(txn) = serde_json::from_slice::<Txn>(&text) {
                let _ = (txn.revision(), txn.term(), txn.ranges().count());
            }
            let _ = serde_json::from_slice::<Range>(&text).map(|range| range.revision());
            let _ = serde_json::from_slice::<Renewal>(&text).map(|renewal| (renewal.ttl(), renewal.term()));
            let _ = serde_json::from_slice::<Granted>(&text);
            let _ = serde_json::from_slice::<Status>(&text);
            let _ = serde_json::from_slice::<Login>(&text);
            let _ = serde_json::from_slice::<Watched>(&text).map(Watched::problem);
            if let Ok(problem) = serde_json::from_slice::<Problem>(&text) {
                let _ = (problem.code(), problem.text());
            }
        }
    }
}
