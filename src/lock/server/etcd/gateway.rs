//! etcd's HTTP/JSON gateway: one request, tried at every address until the right
//! cluster answers. Every request must be idempotent, because an answer may be lost.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answers::{Headed, Header, Login, Problem, Renewal};
use crate::lock::server::account::Account;
use crate::lock::server::store::Trouble;

use crate::net::http::{Answer, Client, Lines, Post};
use crate::net::{Address, Fault, FaultKind, Limits, Tries, TryTime};

/// What the cluster answered.
pub enum Reply<T> {
    /// It has done what was asked.
    Done(T),
    /// The lease in the request does not exist.
    NoSuchLease,
    /// An earlier try made the lease.
    LeaseExists,
}

/// Requests to one cluster.
pub struct Gateway {
    client: Client,
    account: Option<Account>,
    /// For the account, until etcd rejects it.
    token: Option<HeaderValue>,
    /// Whether the cluster has no users, though we have an account.
    is_open: bool,
    /// The first cluster that answered, or the one that has to.
    cluster: Option<u64>,
    /// The number of the connection that is known to lead to it.
    confirmed: Option<u64>,
    /// Counts how often we left a server.
    turns: watch::Sender<u64>,
}

/// Whether a request is sent as a user.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// With the account's token, if there is one.
    Shown,
    /// Without: leases belong to nobody, and a renewal must not depend on a password
    /// that was changed meanwhile.
    Hidden,
}

/// Why a try brought no reply.
enum Setback {
    /// At this address, now.
    Fault(Fault),
    /// etcd rejects our token: it has expired, or users were switched on.
    Unknown(String),
    /// Another try would not help.
    Refused(String),
}

/// How often etcd may reject a token that it has just given.
const MOST_LOGINS: u32 = 3;

/// A lease that never exists: ours are random and larger.
const NO_LEASE: &str = "1";

impl Gateway {
    /// `cluster`: the only one to talk to, if it is known.
    pub fn new(client: Client, account: Option<Account>, cluster: Option<u64>) -> Self {
        Self { client, account, token: None, is_open: false, cluster, confirmed: None, turns: watch::Sender::new(0) }
    }

    /// After the first answer.
    pub fn cluster(&self) -> Option<u64> {
        self.cluster
    }

    /// The number of the connection that answers come from.
    pub fn connection(&self) -> u64 {
        self.client.connections()
    }

    /// Where the last answer came from.
    pub fn address(&self) -> &Address {
        self.client.address()
    }

    /// One request: its answer, and when the try that was answered was sent.
    pub async fn ask<T: Headed>(
        &mut self,
        path: &str,
        body: &Value,
        identity: Identity,
        limits: Limits,
    ) -> Result<(Reply<T>, Duration), Trouble> {
        let mut post = Post { path: format!("/v3/{path}"), headers: Vec::new(), body: Bytes::from(body.to_string()) };
        let mut tries = Tries::new(limits, self.client.addresses());
        let mut logins = 0;
        loop {
            let time = tries.next()?;
            match self.attempt(&mut post, identity, time).await {
                Ok(reply) => return Ok(reply),
                Err(setback) => self.after(setback, &mut tries, &mut logins).await?,
            }
        }
    }

    /// An answer of many lines, on a connection of its own. It ends with an error if
    /// the server loses its cluster.
    pub async fn stream(&mut self, path: &str, body: Bytes, limits: Limits) -> Result<Lines, Trouble> {
        let mut post = Post { path: format!("/v3/{path}"), headers: Vec::new(), body };
        let mut tries = Tries::new(limits, self.client.addresses());
        let mut logins = 0;
        loop {
            let time = tries.next()?;
            match self.begin(&mut post, time).await {
                Ok(lines) => return Ok(lines),
                Err(setback) => self.after(setback, &mut tries, &mut logins).await?,
            }
        }
    }

    /// The next request logs in again.
    pub fn forget_token(&mut self) {
        self.token = None;
        self.is_open = false;
    }

    /// Leaves a server that has lost its cluster.
    pub fn turn_away(&mut self) {
        self.client.turn_away();
        self.turns.send_modify(|turns| *turns += 1);
    }

    /// Changes when we leave a server. Streams from it may stay silent for ever,
    /// because it has lost its cluster.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    async fn after(&mut self, setback: Setback, tries: &mut Tries, logins: &mut u32) -> Result<(), Trouble> {
        match setback {
            Setback::Refused(text) => return Err(Trouble::Refused(text)),
            Setback::Unknown(_) if self.account.is_none() => {
                return Err(Trouble::Refused("etcd requires a user: give ?user= and a password".into()));
            }
            Setback::Unknown(text) => {
                self.forget_token();
                *logins += 1;
                if *logins == MOST_LOGINS {
                    return Err(Trouble::Refused(text));
                }
            }
            Setback::Fault(mut fault) => {
                let address = self.client.address().clone();
                if fault.kind == FaultKind::NotAnswered && self.cluster.is_none() && !self.client.is_secret() {
                    fault.text.push_str(" (if it wants TLS, write etcds://)");
                }
                self.turn_away();
                tries.failed(&address, fault).await?;
            }
        }
        Ok(())
    }

    async fn attempt<T: Headed>(
        &mut self,
        post: &mut Post,
        identity: Identity,
        time: TryTime,
    ) -> Result<(Reply<T>, Duration), Setback> {
        post.headers.clear();
        if identity == Identity::Shown {
            post.headers.extend(self.login(time).await?.map(|token| (AUTHORIZATION, token)));
        }
        let answer = self.client.post(post, time).await.map_err(Setback::Fault)?;
        let reply = understand::<T>(&answer)?;
        match &reply {
            Reply::Done(done) => self.confirm(done.header())?,
            // Such an answer does not name its cluster.
            Reply::NoSuchLease | Reply::LeaseExists => self.confirm_connection(time).await?,
        }
        Ok((reply, answer.sent))
    }

    async fn begin(&mut self, post: &mut Post, time: TryTime) -> Result<Lines, Setback> {
        let has_leader = (HeaderName::from_static("grpc-metadata-hasleader"), HeaderValue::from_static("true"));
        post.headers = vec![has_leader];
        post.headers.extend(self.login(time).await?.map(|token| (AUTHORIZATION, token)));
        let mut lines = self.client.stream(post, time).await.map_err(Setback::Fault)?;
        if lines.status == 200 {
            return Ok(lines);
        }
        let line = timeout(time.answer, lines.next()).await.ok().and_then(Result::ok).flatten().unwrap_or_default();
        Err(explain(lines.status, &line))
    }

    /// The token to send, if one is needed.
    async fn login(&mut self, time: TryTime) -> Result<Option<HeaderValue>, Setback> {
        let Some(account) = self.account.as_ref().filter(|_| !self.is_open && self.token.is_none()) else {
            return Ok(self.token.clone());
        };
        let password = account.password().map_err(Setback::Refused)?;
        let body = json!({"name": account.user, "password": password.reveal()}).to_string();
        let post = Post { path: "/v3/auth/authenticate".into(), headers: Vec::new(), body: body.into() };
        let answer = self.client.post(&post, time).await.map_err(Setback::Fault)?;
        if answer.status != 200 && String::from_utf8_lossy(&answer.body).contains("authentication is not enabled") {
            self.is_open = true;
            return Ok(None);
        }
        let Reply::Done(login) = understand::<Login>(&answer)? else {
            return Err(Setback::Fault(Fault::not_answered("etcd gave no token")));
        };
        self.confirm(login.header())?;
        let mut token = HeaderValue::from_str(&login.token)
            .map_err(|_| Setback::Fault(Fault::not_answered("etcd gave no usable token")))?;
        token.set_sensitive(true);
        self.token = Some(token.clone());
        Ok(Some(token))
    }

    /// Checks that an answer comes from our cluster, which the first answer determines.
    fn confirm(&mut self, header: &Header) -> Result<(), Setback> {
        if header.cluster_id == 0 {
            return Ok(());
        }
        let expected = *self.cluster.get_or_insert(header.cluster_id);
        if header.cluster_id != expected {
            let other = header.cluster_id;
            return Err(Setback::Fault(Fault::refused(format!(
                "belongs to another cluster ({other:x} instead of {expected:x})"
            ))));
        }
        self.confirmed = Some(self.client.connections());
        Ok(())
    }

    async fn confirm_connection(&mut self, time: TryTime) -> Result<(), Setback> {
        let asked = self.client.connections();
        if self.confirmed == Some(asked) {
            return Ok(());
        }
        let body = json!({"ID": NO_LEASE}).to_string();
        let post = Post { path: "/v3/lease/keepalive".into(), headers: Vec::new(), body: body.into() };
        let answer = self.client.post(&post, time).await.map_err(Setback::Fault)?;
        if let Reply::Done(renewal) = understand::<Renewal>(&answer)? {
            self.confirm(renewal.header())?;
        }
        match self.confirmed == Some(asked) {
            true => Ok(()),
            false => Err(Setback::Fault(Fault::not_answered("the connection broke"))),
        }
    }
}

/// etcd's answer to a request: the first line, even of a stream.
fn understand<T: DeserializeOwned>(answer: &Answer) -> Result<Reply<T>, Setback> {
    let line = answer.body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if answer.status == 200 && !line.starts_with(b"{\"error\"") {
        let done = serde_json::from_slice(line);
        return done.map(Reply::Done).map_err(|_| Setback::Fault(Fault::not_answered("the answer is not etcd's JSON")));
    }
    let problem: Problem = serde_json::from_slice(line).unwrap_or_default();
    match problem.code() {
        NOT_FOUND if problem.text().contains("lease not found") => Ok(Reply::NoSuchLease),
        FAILED_PRECONDITION if problem.text().contains("lease already exists") => Ok(Reply::LeaseExists),
        _ => Err(explain(answer.status, line)),
    }
}

/// gRPC's codes.
const INVALID_ARGUMENT: i64 = 3;
const NOT_FOUND: i64 = 5;
const PERMISSION_DENIED: i64 = 7;
const RESOURCE_EXHAUSTED: i64 = 8;
const FAILED_PRECONDITION: i64 = 9;
const UNAUTHENTICATED: i64 = 16;

fn explain(status: u16, line: &[u8]) -> Setback {
    let Ok(problem) = serde_json::from_slice::<Problem>(line) else {
        return explain_other_server(status);
    };
    let text = problem.text();
    let has = |words: &str| text.contains(words);
    match problem.code() {
        UNAUTHENTICATED => Setback::Unknown(text.into()),
        INVALID_ARGUMENT if has("user name is empty") || has("revision") => Setback::Unknown(text.into()),
        INVALID_ARGUMENT if has("invalid user ID or password") => {
            Setback::Refused("etcd knows no such user, or the password is wrong".into())
        }
        INVALID_ARGUMENT => Setback::Refused(text.into()),
        PERMISSION_DENIED => {
            Setback::Refused(format!("{text}: the user's role lacks permission for the keys of this lock"))
        }
        RESOURCE_EXHAUSTED if has("database space exceeded") => {
            Setback::Refused("etcd's database is full (alarm NOSPACE): compact it, then 'etcdctl alarm disarm'".into())
        }
        _ => Setback::Fault(Fault::not_answered(text)),
    }
}

/// Not etcd, or something in front of it.
fn explain_other_server(status: u16) -> Setback {
    let fault = match status {
        404 => Fault::refused("no HTTP/JSON gateway of etcd 3.4 or newer there (HTTP 404)"),
        300..500 => Fault::refused(format!("HTTP {status}")),
        _ => Fault::not_answered(format!("HTTP {status}")),
    };
    Setback::Fault(fault)
}
