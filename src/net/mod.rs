//! Connections to a server that has several addresses: names, TCP, TLS, retries.
//!
//! An *address* is a host and a port as given; a *try* is one request at one address; a
//! *fault* is why a try failed. All requests must be idempotent, because a try whose
//! answer was lost is repeated at the next address.
//!
//! Everything is asynchronous on a tokio runtime of one thread. Nothing here starts a
//! thread or blocks for longer than its limit.

#[cfg(feature = "etcd")]
pub mod http;
mod names;
mod stream;
mod tls;
mod tries;

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::path::Path;

pub use stream::{Dialer, Stream};
pub use tls::{TlsFiles, refusal};
pub use tries::{Limits, Tries, TryTime, Unreachable, pause_randomly};

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name, or an IP address without brackets; or the path of a socket.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// The socket on this machine that it is.
    pub fn socket(&self) -> Option<&Path> {
        Some(Path::new(&self.host)).filter(|path| path.is_absolute())
    }

    /// Whether what is sent there stays on this machine.
    pub fn is_local(&self) -> bool {
        let is_loopback = |ip: IpAddr| ip.is_loopback();
        self.socket().is_some()
            || self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse().is_ok_and(is_loopback)
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            _ if self.socket().is_some() => f.write_str(&self.host),
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why a try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For messages: `connection refused`.
    pub text: String,
    /// How far the try came.
    pub kind: FaultKind,
}

/// How far a try came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No connection: the request was not sent.
    NotConnected,
    /// No usable answer: the request may have been carried out.
    NotAnswered,
    /// It will fail until somebody changes something: an untrusted certificate, an
    /// unreadable file.
    Refused,
}

impl Fault {
    /// No connection that could be used.
    pub fn not_connected(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: FaultKind::NotConnected }
    }

    /// The connection brought no usable answer.
    pub fn not_answered(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: FaultKind::NotAnswered }
    }

    /// Another try would not help.
    pub fn refused(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: FaultKind::Refused }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    /// On a runtime like the program's own.
    pub fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_ipv6_address_is_shown_in_brackets() {
        let shown = |host: &str| Address { host: host.into(), port: 2379 }.to_string();
        assert_eq!(shown("::1"), "[::1]:2379");
        assert_eq!(shown("a.example"), "a.example:2379");
    }
}
