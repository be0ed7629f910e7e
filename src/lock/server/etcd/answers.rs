//! etcd's answers. Numbers of 64 bits are strings in this JSON, and what is zero
//! or empty is left out.

use std::str::FromStr;

use data_encoding::BASE64;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An answer with etcd's header.
pub trait Headed: DeserializeOwned {
    /// The header.
    fn header(&self) -> &Header;
}

/// About the cluster at the moment of the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Which cluster.
    #[serde(deserialize_with = "number")]
    pub cluster_id: u64,
    /// Of the whole store.
    #[serde(deserialize_with = "number")]
    pub revision: i64,
    /// Rises with every election.
    #[serde(deserialize_with = "number")]
    pub raft_term: u64,
}

/// A key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    /// Its name.
    #[serde(deserialize_with = "base64")]
    pub key: Vec<u8>,
    /// What it holds.
    #[serde(deserialize_with = "base64")]
    pub value: Vec<u8>,
    /// When it was made.
    #[serde(deserialize_with = "number")]
    pub create_revision: i64,
    /// When it was last written.
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
    /// What was found, in the order that was asked for.
    pub kvs: Vec<KeyValue>,
    /// How many there are, whatever the limit.
    #[serde(deserialize_with = "number")]
    pub count: i64,
    /// Whether the limit left some out.
    pub more: bool,
}

/// To `kv/txn`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Txn {
    header: Header,
    /// Whether all that was compared was so.
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
    /// The store's.
    pub fn revision(&self) -> i64 {
        self.header.revision
    }
}

impl Txn {
    /// The store's.
    pub fn revision(&self) -> i64 {
        self.header.revision
    }

    /// In which it was answered.
    pub fn term(&self) -> u64 {
        self.header.raft_term
    }

    /// What its reads found, in order.
    pub fn ranges(self) -> impl Iterator<Item = Range> {
        self.responses.into_iter().filter_map(|response| response.response_range)
    }
}

/// To `lease/grant`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Granted {
    header: Header,
    /// In seconds; may be more than was asked for.
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
    /// In seconds from now on; 0: there is no such lease.
    pub fn ttl(&self) -> u64 {
        self.result.ttl
    }

    /// In which it was answered.
    pub fn term(&self) -> u64 {
        self.result.header.raft_term
    }
}

/// To `lease/revoke` and others of which only the header counts.
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
    /// What happened.
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

/// What happened to the keys that are watched.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Happened {
    /// The first line of each watch.
    pub created: bool,
    /// It has ended: compacted, or not permitted.
    pub canceled: bool,
    /// Why, for people.
    pub cancel_reason: String,
    /// In order.
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    #[serde(rename = "type")]
    kind: String,
    /// Of a removed key only the name is here.
    pub kv: KeyValue,
}

impl Event {
    /// Whether the key has gone.
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

headed! { Range: header; Txn: header; Granted: header; Plain: header; Status: header; Login: header; Renewal: result.header; }

/// An error, in one of the two forms that the gateway has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    error: Value,
    code: i64,
}

impl Problem {
    /// gRPC's.
    pub fn code(&self) -> i64 {
        self.error["grpc_code"].as_i64().unwrap_or(self.code)
    }

    /// For people.
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
