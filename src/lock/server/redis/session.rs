//! A session with Redis: one request, sent at every address until one has answered it.
//!
//! Requests can be repeated, so one whose answer was lost is sent again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::timeout;

use super::link::{About, Link, LinkError, RIGHTS};
use super::login::Login;
use super::resp::{Value, command};
use super::script::{Adopts, Call, Circumstances};
use crate::lock::server::store::Trouble;
use crate::net::{Address, Dialer, Fault, Limits, Tries, TryTime};
use crate::sys::suspend_aware_now;

/// The format of what this lockrun writes, and the newest that it knows.
const FORMAT: u64 = 1;
/// Beyond the lease's length, for what the server's start takes.
const MARGIN: Duration = Duration::from_secs(1);

/// What the script said.
pub struct Answer {
    /// The server's clock, in microseconds.
    pub now: u64,
    /// For how long it grants nothing yet.
    pub grace: Duration,
    /// When the request was sent.
    pub sent: Duration,
    values: Vec<Value>,
}

impl Answer {
    /// One of its values, or nothing.
    pub fn value(&self, place: usize) -> &Value {
        self.values.get(place + 3).unwrap_or(&Value::Nil)
    }
}

/// A session.
pub struct Session {
    dialer: Dialer,
    login: Login,
    prefix: String,
    ttl: Duration,
    link: Option<Link>,
    /// The first store that answered, or the one that has to.
    identity: Option<String>,
    /// The server process that last answered as that store.
    run: Option<String>,
    version: Option<String>,
    spare: String,
}

/// Why a try brought no answer.
enum Setback {
    /// Here and now.
    Fault(Fault),
    /// The connection had been cut before, while it was idle.
    Stale,
    /// For good.
    Refused(String),
}

impl Session {
    /// `identity`: the only store to talk to, where it is known.
    pub fn new(dialer: Dialer, login: Login, prefix: &str, ttl: Duration, identity: Option<&str>) -> Self {
        let mut bytes = [0; 16];
        // All zero, it would be a name as well.
        let _ = getrandom(&mut bytes, GetRandomFlags::empty());
        let spare = data_encoding::HEXLOWER.encode(&bytes);
        let identity = identity.map(str::to_owned);
        let (link, run, version) = (None, None, None);
        Self { dialer, login, prefix: prefix.to_owned(), ttl, link, identity, run, version, spare }
    }

    /// Which store it is, after its first answer.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Where the last answer came from.
    pub fn address(&self) -> &Address {
        self.dialer.address()
    }

    /// What kind of server, of which version, after its first answer.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Has the script carry out a request.
    ///
    /// # Errors
    /// There is no answer that could be used.
    pub async fn ask(&mut self, call: &Call, limits: Limits) -> Result<Answer, Trouble> {
        let mut tries = Tries::new(limits, self.dialer.addresses());
        loop {
            let time = tries.next()?;
            match self.attempt(call, time).await {
                Ok(answer) => {
                    if self.identity.is_none() && call.reads() {
                        self.name_the_store(time).await?;
                    }
                    return Ok(answer);
                }
                Err(setback) => self.set_back(&mut tries, setback).await?,
            }
        }
    }

    /// Another connection to the same address, on which these channels are heard.
    pub async fn listen(&mut self, channels: &[Vec<u8>], limits: Limits) -> Result<Link, Trouble> {
        let mut tries = Tries::new(limits, self.dialer.addresses());
        loop {
            let time = tries.next()?;
            let listening = timeout(time.answer, self.subscribe(channels, time)).await;
            match listening.unwrap_or_else(|_| Err(silent())) {
                Ok(link) => return Ok(link),
                Err(error) => self.set_back(&mut tries, setback(error)).await?,
            }
        }
    }

    async fn subscribe(&mut self, channels: &[Vec<u8>], time: TryTime) -> Result<Link, LinkError> {
        let mut link = Link::open(&mut self.dialer, &self.login, time).await?;
        let words: Vec<_> = [b"SUBSCRIBE".to_vec()].into_iter().chain(channels.iter().cloned()).collect();
        link.send(&command(&words)).await?;
        for _ in channels {
            link.next().await?;
        }
        Ok(link)
    }

    async fn set_back(&mut self, tries: &mut Tries, setback: Setback) -> Result<(), Trouble> {
        match setback {
            Setback::Stale => Ok(()),
            Setback::Refused(text) => Err(Trouble::Refused(text)),
            Setback::Fault(fault) => {
                let address = self.dialer.address().clone();
                self.link = None;
                self.dialer.turn_away();
                Ok(tries.failed(&address, fault).await?)
            }
        }
    }

    /// A store that has been used by nobody has no name yet. A user who may only read
    /// can look all the same.
    async fn name_the_store(&mut self, time: TryTime) -> Result<(), Trouble> {
        match self.attempt(&Call::make(), time).await {
            Err(Setback::Refused(text)) if !text.ends_with(RIGHTS) => Err(Trouble::Refused(text)),
            _ => Ok(()),
        }
    }

    async fn attempt(&mut self, call: &Call, time: TryTime) -> Result<Answer, Setback> {
        // Taken out, so that a request that is dropped half way leaves no connection on
        // which its answer would be taken for another's.
        let (mut link, is_old) = match self.link.take() {
            Some(link) => (link, true),
            None => {
                let link = Link::open(&mut self.dialer, &self.login, time).await.map_err(setback)?;
                (link, false)
            }
        };
        let sent = suspend_aware_now();
        let answered = timeout(time.answer, self.run(&mut link, call, sent)).await;
        let (value, grace) = match answered.unwrap_or_else(|_| Err(silent())) {
            Ok(answered) => answered,
            Err(LinkError::Closed(_)) if is_old => return Err(Setback::Stale),
            Err(error) => return Err(setback(error)),
        };
        self.confirm(&value, link.about())?;
        self.link = Some(link);
        let Value::List(values) = value else { return Err(Setback::Fault(Fault::refused("not lockrun's script"))) };
        let now = values.get(2).and_then(Value::number).unwrap_or(0);
        Ok(Answer { now, grace, sent, values })
    }

    async fn run(&self, link: &mut Link, call: &Call, now: Duration) -> Result<(Value, Duration), LinkError> {
        let about = link.about();
        let grace = self.login.grace.unwrap_or(self.ttl + MARGIN);
        let left = |time: Duration| about.started.saturating_add(time).saturating_sub(now);
        let circumstances = Circumstances {
            store: self.identity.as_deref().unwrap_or_default(),
            spare: &self.spare,
            // It was emptied while we knew it, or forgot everything when it was started.
            adopts: match self.run.as_ref() == Some(&about.run) {
                true => Adopts::Any,
                false if left(self.ttl + MARGIN).is_zero() => Adopts::None,
                false => Adopts::Younger(now.saturating_sub(about.started) + MARGIN * 2),
            },
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            grace: left(grace),
            ttl: self.ttl,
        };
        let grace = circumstances.grace;
        match link.ask(&call.command(&self.prefix, &circumstances, true)).await {
            Err(LinkError::Refused(text)) if text.contains("NOSCRIPT") => {
                let value = link.ask(&call.command(&self.prefix, &circumstances, false)).await?;
                Ok((value, grace))
            }
            answered => answered.map(|value| (value, grace)),
        }
    }

    /// Whether the answer is of the store that we talk to.
    fn confirm(&mut self, value: &Value, about: &About) -> Result<(), Setback> {
        let texts: Vec<_> = value.list().iter().take(2).map(|value| value.text().unwrap_or_default()).collect();
        let [store, format] = texts.as_slice() else {
            return Err(Setback::Fault(Fault::refused("not lockrun's script")));
        };
        match format.parse::<u64>() {
            Ok(FORMAT) => {}
            Ok(format) if format > FORMAT => {
                return Err(Setback::Refused(format!(
                    "a newer lockrun uses this store: it has format {format}, this lockrun knows up to {FORMAT}; update \
                     lockrun on this host"
                )));
            }
            _ => return Err(Setback::Refused(format!("the key {}:store is damaged; remove it", self.prefix))),
        }
        self.version = Some(about.version.clone());
        if store.is_empty() {
            return Ok(());
        }
        let expected = self.identity.get_or_insert_with(|| store.clone());
        if expected != store {
            let text = format!("belongs to another store ({store} instead of {expected})");
            return Err(Setback::Fault(Fault::refused(text)));
        }
        self.run = Some(about.run.clone());
        Ok(())
    }
}

fn silent() -> LinkError {
    LinkError::Fault(Fault::not_answered("no answer in time"))
}

fn setback(error: LinkError) -> Setback {
    match error {
        LinkError::Fault(fault) => Setback::Fault(fault),
        LinkError::Closed(text) => Setback::Fault(Fault::not_answered(text)),
        LinkError::Refused(text) => Setback::Refused(text),
    }
}
