//! What a keeper and its clients say: one line of JSON each way.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::sys;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    Release,
    /// Expire this long from now.
    Renew {
        /// `None`: as long as it was taken for; `Some(None)`: never.
        #[serde(with = "double_option")]
        lease: Option<Option<Duration>>,
    },
    Check,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub secret: String,
    pub ask: Ask,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    Released { lost: Option<String> },
    State(TokenState),
    WrongSecret,
    NotYours,
}

/// How a lock stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenState {
    /// RFC 3339; `None`: never.
    pub expires: Option<String>,
    pub remaining: Option<Duration>,
    /// Why others could take it nevertheless.
    pub lost: Option<String>,
}

pub enum Answer {
    Released {
        /// How it was lost before.
        lost: Option<String>,
    },
    State(TokenState),
    Gone,
}

/// `None`, `Some(None)` and `Some(Some(x))` as the lists `[]`, `[null]` and `[x]`.
mod double_option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Option<Duration>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Duration>>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.pop())
    }
}

/// Where a keeper listens, and what gives us the right to ask it.
pub struct Contact<'a> {
    pub id: &'a str,
    pub secret: &'a str,
    /// Its user; answers of other users are ignored.
    pub uid: u32,
    /// For messages: `the token's keeper`.
    pub called: &'a str,
}

fn address(id: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("lockrun/{id}"))
}

/// The socket of the keeper with this id. Fails without memory or descriptors.
pub fn listen(id: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&address(id)?)?;
    Ok(sys::above_stdio(OwnedFd::from(listener))?.into())
}

/// Most clients that are not accepted yet; std's number.
const BACKLOG: i32 = 128;

/// Makes the kernel name this process to clients, instead of the one that made the
/// socket.
pub fn take_over(listener: &UnixListener) -> io::Result<()> {
    Ok(rustix::net::listen(listener, BACKLOG)?)
}

/// A keeper may hang up, as on the slowest of very many clients.
const TRIES: usize = 5;
/// Longest answer, in bytes.
const LONGEST_ANSWER: u64 = 1 << 16;
/// A keeper that is silent for longer may have been stopped, and gets CONT.
const SILENCE: Duration = Duration::from_secs(1);
/// If it is still silent then, it is frozen or hangs in the kernel.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// Asks a keeper. Fails if it rejects us: it belongs to another user, or has another
/// secret. No message shows a secret.
pub fn ask(contact: &Contact, ask: Ask) -> Result<Answer> {
    let mut request = serde_json::to_vec(&Request { secret: contact.secret.to_owned(), ask })?;
    request.push(b'\n');
    let mut line = String::new();
    for _ in 0..TRIES {
        let Some((stream, keeper)) = connect(contact)? else { return Ok(Answer::Gone) };
        line = exchange(stream, keeper, &request, contact.called)?;
        if !line.is_empty() {
            break;
        }
    }
    let called = contact.called;
    if line.is_empty() {
        bail!("{called} does not answer");
    }
    match serde_json::from_str(&line)
        .map_err(|_| anyhow!("cannot understand {called}: it is another version of lockrun"))?
    {
        Reply::Released { lost } => Ok(Answer::Released { lost }),
        Reply::State(state) => Ok(Answer::State(state)),
        Reply::WrongSecret => bail!("this is not the token that the lock was acquired with"),
        Reply::NotYours => bail!("belongs to user {}: only that user and root may use the token", contact.uid),
    }
}

/// A connection to the keeper, and its process as the kernel knows it; `None`: it is
/// gone.
fn connect(contact: &Contact) -> Result<Option<(UnixStream, Option<Pid>)>> {
    let stream = match UnixStream::connect_addr(&address(contact.id)?) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot reach {}", contact.called)),
    };
    // A process that listens there in place of the keeper gets no secret.
    let peer = rustix::net::sockopt::socket_peercred(&stream)
        .with_context(|| format!("cannot identify {}", contact.called))?;
    // 0: it is in a pid namespace that we cannot see into.
    let pid = Some(peer.pid).filter(|pid| pid.as_raw_nonzero().get() > 0);
    Ok((peer.uid.as_raw() == contact.uid).then_some((stream, pid)))
}

/// The keeper's answer; empty if it hung up.
fn exchange(mut stream: UnixStream, keeper: Option<Pid>, request: &[u8], called: &str) -> Result<String> {
    let mut line = String::new();
    // A keeper that refuses us answers before it reads.
    let said = stream.write_all(request);
    let mut reader = BufReader::new((&stream).take(LONGEST_ANSWER));
    stream.set_read_timeout(Some(SILENCE))?;
    let mut heard = reader.read_line(&mut line);
    if let Err(e) = &heard
        && e.kind() == ErrorKind::WouldBlock
    {
        wake(&stream, keeper);
        stream.set_read_timeout(Some(LONGEST_SILENCE))?;
        heard = reader.read_line(&mut line);
    }
    match (said, heard) {
        _ if !line.is_empty() => Ok(line),
        (_, Err(e)) if e.kind() == ErrorKind::WouldBlock => {
            let pid = keeper.map(|pid| format!(", pid {pid},")).unwrap_or_default();
            bail!("{called}{pid} does not answer: it is stopped or hangs, and holds the lock until it continues")
        }
        (Err(e), _) | (_, Err(e)) if !ended(&e) => Err(e).with_context(|| format!("cannot talk to {called}")),
        _ => Ok(line),
    }
}

/// Continues a keeper that was stopped.
fn wake(stream: &UnixStream, keeper: Option<Pid>) {
    let Some(Ok(process)) = keeper.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return };
    // It has not hung up, so it lives, and the process that we opened is the keeper:
    // its id cannot have been reused.
    if sys::is_readable(stream, Some(Duration::ZERO)) == Ok(false) {
        let _ = pidfd_send_signal(&process, Signal::CONT);
    }
}

fn ended(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hostile_words_to_and_from_a_keeper_are_understood_or_refused(
            text in crate::hostile::text(include_str!("../../tests/corpus/keeper")),
        ) {
            if let Ok(request) = serde_json::from_slice::<Request>(&text) {
                let again = serde_json::to_vec(&request).unwrap();
                let again = serde_json::from_slice::<Request>(&again).unwrap();
                prop_assert_eq!(format!("{:?}", again.ask), format!("{:?}", request.ask));
            }
            if let Ok(reply) = serde_json::from_slice::<Reply>(&text) {
                prop_assert!(serde_json::to_vec(&reply).is_ok());
            }
        }
    }
}
