//! One connection to one server.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::{io, mem};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage};

use super::answer::{Answer, number};
use super::login::Login;
use crate::net::{Dialer, Fault, Stream, TryTime, refusal};

/// Why there is no answer.
#[derive(Debug)]
pub enum LinkError {
    /// There is no connection.
    Fault(Fault),
    /// There will be none until somebody changes something.
    Refused(String),
    /// The connection broke.
    Closed(String),
    /// No answer in time.
    Silent,
    /// The server refuses the message.
    Sql {
        /// Its code.
        code: SqlState,
        /// What it says.
        text: String,
    },
}

/// A connection.
pub struct Link {
    client: Client,
    /// Reads what the server sends.
    reader: JoinHandle<()>,
    heard: Arc<Heard>,
    is_pooled: bool,
    version: Option<String>,
}

/// Notifications that nobody has asked for yet.
#[derive(Default)]
pub struct Heard {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    channels: BTreeSet<String>,
    has_ended: bool,
}

impl Heard {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channels on which something was heard since the last call; `None`: the
    /// connection has ended. Loses nothing if it is dropped before it is ready.
    pub async fn next(&self) -> Option<BTreeSet<String>> {
        loop {
            let news = self.news.notified();
            {
                let mut state = self.state();
                if !state.channels.is_empty() {
                    return Some(mem::take(&mut state.channels));
                }
                if state.has_ended {
                    return None;
                }
            }
            news.await;
        }
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.news.notify_one();
    }
}

impl Link {
    /// Connects to the dialer's current address and logs in.
    pub async fn open(dialer: &mut Dialer, login: &Login, time: TryTime) -> Result<Self, LinkError> {
        let stream = dialer.dial(time).await.map_err(LinkError::Fault)?;
        let password = login.password(dialer.address()).map_err(LinkError::Refused)?;
        let mut config = Config::new();
        config.user(&login.user).dbname(&login.database).application_name("lockrun");
        if let Some(password) = &password {
            config.password(password.reveal());
        }
        let process = Arc::default();
        let stream = Tap { stream, seen: Vec::new(), process: Arc::clone(&process) };
        let connected = timeout(time.answer, config.connect_raw(stream, NoTls)).await;
        let (client, connection) = connected.map_err(|_| LinkError::Silent)?.map_err(|error| describe(&error))?;
        let version = connection.parameter("server_version").map(str::to_owned);
        let heard = Arc::<Heard>::default();
        let reader = tokio::spawn(read(connection, Arc::clone(&heard)));
        let mut link = Self { client, reader, heard, is_pooled: false, version };
        let told = process.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0);
        // Between two renewals the connection is idle. Servers older than 14 have no limit,
        // and one behind a pooler is not ours to set.
        let message = format!(
            "SELECT pg_backend_pid(), CASE WHEN pg_backend_pid() = {told} \
             AND current_setting('idle_session_timeout', true) IS NOT NULL \
             THEN set_config('idle_session_timeout', '0', false) END"
        );
        let asked = timeout(time.answer, link.ask(&message)).await;
        let served_by = asked.map_err(|_| LinkError::Silent)??.take_first();
        link.is_pooled = served_by.first().and_then(|row| number(row, 0)) != Some(told);
        Ok(link)
    }

    /// Sends a message and waits for its answer.
    pub async fn ask(&self, message: &str) -> Result<Answer, LinkError> {
        let messages = self.client.simple_query(message).await.map_err(|error| describe(&error))?;
        let mut answer = Answer::default();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(_) => answer.begin(),
                SimpleQueryMessage::Row(row) => {
                    let columns = (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect();
                    answer.add(columns);
                }
                _ => {}
            }
        }
        Ok(answer)
    }

    /// What is heard over it.
    pub fn heard(&self) -> Arc<Heard> {
        Arc::clone(&self.heard)
    }

    /// Whether a pooler answers, and perhaps another server process each time.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// The server's version.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut connection: Connection<Tap, tokio_postgres::tls::NoTlsStream>, heard: Arc<Heard>) {
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                heard.tell(|state| state.channels.extend([notification.channel().to_owned()]));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return heard.tell(|state| state.has_ended = true),
        }
    }
}

fn describe(error: &tokio_postgres::Error) -> LinkError {
    use std::error::Error;
    match error.as_db_error() {
        Some(db) => LinkError::Sql { code: db.code().clone(), text: db.message().to_owned() },
        None => {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            match io.and_then(refusal) {
                Some(fault) => LinkError::Fault(fault),
                None if io.is_some() || error.is_closed() => {
                    LinkError::Closed(format!("the connection broke: {cause}"))
                }
                None => LinkError::Refused(format!("PostgreSQL: {cause}")),
            }
        }
    }
}

/// A stream on which the number of the server process is overheard, as the server
/// says it at the start. A pooler says another number than the process that answers.
struct Tap {
    stream: Stream,
    /// The beginning of what the server said; empty once the number is known.
    seen: Vec<u8>,
    process: Arc<Mutex<Option<i32>>>,
}

/// BackendKeyData.
const KEY_DATA: u8 = b'K';
/// A log-in takes less.
const LONGEST_LOGIN: usize = 64 * 1024;

impl Tap {
    fn overhear(&mut self, new: &[u8]) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if process.is_some() || self.seen.len() > LONGEST_LOGIN {
            return;
        }
        self.seen.extend_from_slice(new);
        *process = process_in(&self.seen);
        if process.is_some() {
            self.seen = Vec::new();
        }
    }
}

/// The process in the server's messages: a kind, a length that counts itself, and
/// what belongs to it.
fn process_in(mut messages: &[u8]) -> Option<i32> {
    loop {
        let (kind, rest) = messages.split_first()?;
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let content = rest.get(4..length)?;
        if *kind == KEY_DATA {
            return Some(i32::from_be_bytes(content.get(..4)?.try_into().ok()?));
        }
        messages = &rest[length..];
    }
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut tap.stream).poll_read(cx, buf);
        tap.overhear(&buf.filled()[before..]);
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::process_in;

    #[test]
    fn the_number_of_the_server_process_is_overheard() {
        let messages = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x09a\0bc\0K\0\0\0\x0c\0\0\x10\x92\0\0\0\x01Z\0\0\0\x05I";
        assert_eq!(process_in(messages), Some(4242));
        for cut in 0..30 {
            let process = process_in(&messages[..cut]);
            assert!(process.is_none() || cut >= 28, "{cut}: {process:?}");
        }
        assert_eq!(process_in(b"R\0\0\0\0"), None);
    }
}
