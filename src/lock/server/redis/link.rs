//! One connection to one server.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::login::Login;
use super::resp::{Value, command, read};
use crate::net::{Dialer, Fault, Stream, TryTime, refusal};
use crate::sys::suspend_aware_now;

/// uptime_in_seconds has no fractions.
const UPTIME_STEP: Duration = Duration::from_secs(1);

/// The end of what is said to a user without a right.
pub const RIGHTS: &str = "lockrun-store(7) has the rights that a user needs";

/// Why there is no answer.
#[derive(Debug)]
pub enum LinkError {
    /// Not here and now.
    Fault(Fault),
    /// The connection broke.
    Closed(String),
    /// Not until somebody changes something.
    Refused(String),
}

/// A connection, logged in.
pub struct Link {
    stream: BufReader<Stream>,
    about: About,
}

/// What the server says about itself.
#[derive(Clone, Debug)]
pub struct About {
    /// `Redis 7.0.15`.
    pub version: String,
    /// Another one after each start.
    pub run: String,
    /// When it was started at the latest, on our clock.
    pub started: Duration,
}

impl Link {
    /// Connects to the dialer's current address and logs in.
    pub async fn open(dialer: &mut Dialer, login: &Login, time: TryTime) -> Result<Self, LinkError> {
        let stream = BufReader::new(dialer.dial(time).await.map_err(LinkError::Fault)?);
        let about = About { version: String::new(), run: String::new(), started: Duration::MAX };
        let mut link = Self { stream, about };
        let hello = timeout(time.answer, link.say_hello(login)).await;
        hello.unwrap_or_else(|_| Err(LinkError::Fault(Fault::not_answered("no answer in time"))))?;
        Ok(link)
    }

    /// What the server said about itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// One round trip: who we are, and who the server is.
    async fn say_hello(&mut self, login: &Login) -> Result<(), LinkError> {
        let mut words = Vec::new();
        if let Some(account) = &login.account {
            let password = account.password().map_err(LinkError::Refused)?;
            words.extend(command(&["AUTH", &account.user, password.reveal()]));
        }
        if login.database > 0 {
            words.extend(command(&["SELECT", &login.database.to_string()]));
        }
        for section in ["server", "replication", "memory"] {
            words.extend(command(&["INFO", section]));
        }
        self.send(&words).await?;
        words.fill(0);
        for _ in 0..usize::from(login.account.is_some()) + usize::from(login.database > 0) {
            self.next().await?;
        }
        let mut info = String::new();
        for _ in 0..3 {
            info.push_str(&self.next().await?.text().unwrap_or_default());
        }
        self.about = about(&info)?;
        Ok(())
    }

    /// Sends a command and waits for its answer, which is no error.
    pub async fn ask(&mut self, words: &[Vec<u8>]) -> Result<Value, LinkError> {
        self.send(&command(words)).await?;
        self.next().await
    }

    /// Sends what [`command`] has made.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let sent = async {
            self.stream.get_mut().write_all(bytes).await?;
            self.stream.get_mut().flush().await
        };
        sent.await.map_err(|error| broken(&error))
    }

    /// The next value that the server sends.
    pub async fn next(&mut self) -> Result<Value, LinkError> {
        match read(&mut self.stream).await {
            Ok(Value::Error(text)) => Err(judge(&text)),
            Ok(value) => Ok(value),
            Err(error) => Err(broken(&error)),
        }
    }
}

fn broken(error: &io::Error) -> LinkError {
    match refusal(error) {
        Some(fault) => LinkError::Fault(fault),
        None if error.kind() == io::ErrorKind::InvalidData => LinkError::Fault(Fault::refused(error.to_string())),
        None => LinkError::Closed(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
            _ => format!("the connection broke: {error}"),
        }),
    }
}

/// Whether lockrun can keep locks there.
fn about(info: &str) -> Result<About, LinkError> {
    let answered = suspend_aware_now();
    let field = |name: &str| {
        info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
    };
    let refused = |text: String| Err(LinkError::Fault(Fault::refused(text)));
    match field("redis_mode") {
        "sentinel" => return refused("it is a Sentinel; name the Redis server itself".into()),
        "cluster" => {
            return refused("it is a Redis Cluster, which lockrun cannot use; name a server of its own".into());
        }
        _ => {}
    }
    if ["slave", "replica"].contains(&field("role")) {
        return Err(LinkError::Fault(Fault::not_connected("it is a read-only replica; name the primary")));
    }
    let policy = field("maxmemory_policy");
    if policy.starts_with("allkeys") && field("maxmemory") != "0" {
        return refused(format!(
            "it may evict locks (maxmemory-policy {policy}); set noeviction or volatile-lru, or use a server of its own"
        ));
    }
    let version = match field("valkey_version") {
        "" => format!("Redis {}", field("redis_version")),
        version => format!("Valkey {version}"),
    };
    let Ok(uptime) = field("uptime_in_seconds").parse() else {
        return refused("INFO does not say how long the server has run".into());
    };
    let started = answered.saturating_sub(Duration::from_secs(uptime));
    Ok(About { version, run: field("run_id").into(), started: started.saturating_add(UPTIME_STEP).min(answered) })
}

/// An error's first word is its code. From a script, older servers put it into a
/// sentence.
fn judge(text: &str) -> LinkError {
    let text = text.trim();
    let is = |code: &str| text.split([' ', ':', '-']).any(|word| word == code);
    let fault = |text: &str| LinkError::Fault(Fault::not_answered(text));
    if let Some((_, ours)) = text.split_once("LOCKRUN ") {
        return LinkError::Refused(match ours.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["ttl", ttl, ..] => {
                let seconds = ttl.parse().map_or(0.0, |ttl: f64| ttl / 1e6);
                format!("other hosts use it with ?ttl={seconds}; all hosts of a Redis need the same ttl")
            }
            _ => ours.to_owned(),
        });
    }
    if is("NOAUTH") {
        return LinkError::Refused(
            "the server wants a password; give ?password-file=FILE, or set REDISCLI_AUTH or LOCKRUN_STORE".into(),
        );
    }
    // As Redis and as Valkey say it of a call inside a script.
    let is_without_rights = ["The user executing the script", "ACL failure in script"].map(|said| text.contains(said));
    if is("NOPERM") || is_without_rights.contains(&true) {
        let said = text.split(" script: ").next().unwrap_or_default();
        return LinkError::Refused(format!("it says: {said}; {RIGHTS}"));
    }
    if is("OOM") {
        return LinkError::Refused("the server has no memory left (maxmemory); what is held stays held".into());
    }
    if is("READONLY") {
        return LinkError::Fault(Fault::not_connected("it is a read-only replica; name the primary"));
    }
    if is("MOVED") || is("ASK") || is("CROSSSLOT") {
        return LinkError::Refused(
            "this is a Redis Cluster, which lockrun cannot use; name a server of its own".into(),
        );
    }
    if is("WRONGTYPE") {
        return LinkError::Refused(
            "a key with this prefix is of another program; remove it, or give another ?prefix=".into(),
        );
    }
    let passes = ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS"];
    if passes.iter().any(|code| is(code)) || text.contains("max number of clients") {
        return fault(text);
    }
    LinkError::Refused(format!("it says: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_decides_whether_it_is_tried_again() {
        let kind = |text: &str| match judge(text) {
            LinkError::Fault(_) => "later",
            LinkError::Closed(_) => "closed",
            LinkError::Refused(_) => "never",
        };
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica. script: 1, on @user_script:1.",
            "ERR Error running script (call to f_1): @user_script:12: @user_script: 12: -MISCONF Redis is",
            "ERR max number of clients reached",
        ] {
            assert_eq!(kind(text), "later", "{text}");
        }
        for text in ["WRONGPASS invalid", "NOAUTH Authentication required.", "OOM command not allowed", "ERR x", ""] {
            assert_eq!(kind(text), "never", "{text}");
        }
        for text in [
            "NOPERM this user has no permissions to run the 'info' command",
            "ERR The user executing the script can't run this command or subcommand script: 1, on @user_script:31.",
            "ERR ACL failure in script: User eve has no permissions to run the 'publish' command script: 1",
        ] {
            let LinkError::Refused(said) = judge(text) else { panic!("{text}") };
            assert!(said.contains(RIGHTS), "{said}");
        }
    }

    #[test]
    fn servers_that_cannot_keep_locks_are_refused() {
        let plain = "redis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:abc\r\nuptime_in_seconds:7\r\nrole:master\r\n\
                     maxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
        let said = about(plain).unwrap();
        assert_eq!((said.version.as_str(), said.run.as_str()), ("Redis 7.0.15", "abc"));
        for (change, to) in [
            ("standalone", "cluster"),
            ("standalone", "sentinel"),
            ("role:master", "role:slave"),
            ("maxmemory:0\r\nmaxmemory_policy:noeviction", "maxmemory:99\r\nmaxmemory_policy:allkeys-lru"),
            ("uptime", "downtime"),
        ] {
            assert!(about(&plain.replace(change, to)).is_err(), "{to}");
        }
        assert!(about(&plain.replace("noeviction", "allkeys-lru")).is_ok());
        assert!(about(&plain.replace("maxmemory:0", "maxmemory:9").replace("noeviction", "volatile-ttl")).is_ok());
    }
}
