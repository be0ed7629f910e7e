//! A connection, with or without TLS, to one of a server's addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::names::resolve;
use super::tls::secure;
use super::{Address, Fault, TlsFiles, TryTime};

/// A connection.
pub enum Stream {
    /// Not encrypted.
    Plain(TcpStream),
    /// With TLS.
    Secret(Box<TlsStream<TcpStream>>),
    /// A socket on this machine.
    Local(UnixStream),
}

/// Connects to one of several addresses and stays with one that works.
pub struct Dialer {
    addresses: Vec<Target>,
    current: usize,
    tls: Option<TlsFiles>,
    /// What has to be said before TLS, and the byte that agrees.
    tls_request: Option<(&'static [u8], u8)>,
}

struct Target {
    address: Address,
    /// Its name resolved; empty after a connection failed.
    resolved: Vec<IpAddr>,
}

impl Dialer {
    /// Starts with a random address, so that clients spread over the servers. `tls`:
    /// `None` for plain text.
    ///
    /// # Panics
    /// There is no address.
    pub fn new(addresses: Vec<Address>, tls: Option<TlsFiles>) -> Self {
        assert!(!addresses.is_empty(), "a server has an address");
        let current = super::tries::random_below(addresses.len());
        let target = |address| Target { address, resolved: Vec::new() };
        Self { addresses: addresses.into_iter().map(target).collect(), current, tls, tls_request: None }
    }

    /// For a protocol that begins in plain text and asks for TLS.
    pub fn asking_for_tls(self, request: &'static [u8], agreed: u8) -> Self {
        Self { tls_request: Some((request, agreed)), ..self }
    }

    /// Where the next connection goes.
    pub fn address(&self) -> &Address {
        &self.addresses[self.current].address
    }

    /// The number of addresses.
    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// Whether connections use TLS.
    pub fn is_secret(&self) -> bool {
        self.tls.is_some()
    }

    /// Leaves the current address for the next one.
    pub fn turn_away(&mut self) {
        self.current = (self.current + 1) % self.addresses.len();
    }

    /// Connects to the current address.
    pub async fn dial(&mut self, time: TryTime) -> Result<Stream, Fault> {
        let now = Instant::now();
        let (until, until_secured) = (now + time.connect, now + time.answer);
        let target = &mut self.addresses[self.current];
        if let Some(path) = target.address.socket() {
            let local = timeout_at(until, UnixStream::connect(path)).await;
            let local = local.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            return local.map(Stream::Local).map_err(|error| Fault::not_connected(describe(&error)));
        }
        if target.resolved.is_empty() {
            target.resolved = resolve(&target.address.host, time.connect).await?;
        }
        let tcp = match connect_to_one(&target.resolved, target.address.port, until).await {
            Ok(tcp) => tcp,
            Err(fault) => {
                target.resolved.clear();
                return Err(fault);
            }
        };
        // Small requests must not wait for the acknowledgement of earlier ones.
        tcp.set_nodelay(true).map_err(|error| Fault::not_connected(error.to_string()))?;
        let Some(files) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let secured = async {
            let tcp = match self.tls_request {
                Some(request) => ask_for_tls(tcp, request).await?,
                None => tcp,
            };
            secure(files, &target.address.host, tcp).await
        };
        let secured = timeout_at(until_secured, secured).await;
        let secured = secured.unwrap_or_else(|_| Err(Fault::not_answered("no answer to the TLS handshake")))?;
        Ok(Stream::Secret(Box::new(secured)))
    }
}

async fn ask_for_tls(mut tcp: TcpStream, (request, agreed): (&[u8], u8)) -> Result<TcpStream, Fault> {
    let answer = async {
        tcp.write_all(request).await?;
        tcp.read_u8().await
    };
    match answer.await {
        Ok(answer) if answer == agreed => Ok(tcp),
        Ok(_) => Err(Fault::refused("the server has no TLS")),
        Err(error) => Err(Fault::not_answered(format!("no answer to the request for TLS: {}", describe(&error)))),
    }
}

/// Each IP address gets an equal share of the time that is left.
async fn connect_to_one(addresses: &[IpAddr], port: u16, until: Instant) -> Result<TcpStream, Fault> {
    let mut fault = Fault::not_connected("no address");
    for (tried, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = until.saturating_duration_since(now) / (addresses.len() - tried) as u32;
        fault = match timeout_at(now + share, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => Fault::not_connected(describe(&error)),
            Err(_) => Fault::not_connected("no answer to the connection request"),
        };
    }
    Err(fault)
}

/// Without "(os error 111)".
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::HostUnreachable => "no route to the host".into(),
        io::ErrorKind::NetworkUnreachable => "the network is unreachable".into(),
        io::ErrorKind::TimedOut => "the connection timed out".into(),
        _ => error.to_string(),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secret(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Secret(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Local(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secret(stream) => Pin::new(stream).poll_flush(cx),
            Self::Local(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secret(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
