//! HTTP/1.1 with bodies that are sent at once, and answers that are read whole or line
//! by line.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::{Address, Dialer, Fault, TryTime};
use crate::sys::suspend_aware_now;

/// In bytes.
const LONGEST_ANSWER: usize = 256 << 20;
/// In bytes.
const LONGEST_LINE: usize = 64 << 20;

/// How long a broken connection may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A POST request.
#[derive(Clone)]
pub struct Post {
    /// `/v3/kv/range`
    pub path: String,
    /// In addition to those of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub body: Bytes,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
    /// Since boot (CLOCK_BOOTTIME), just before the request was sent.
    pub sent: Duration,
}

/// Sends requests to one of a server's addresses, over one connection that is kept.
pub struct Client {
    dialer: Dialer,
    connection: Option<Connection>,
    connections: u64,
}

impl Client {
    /// Not connected yet.
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, connection: None, connections: 0 }
    }

    /// Where requests go.
    pub fn address(&self) -> &Address {
        self.dialer.address()
    }

    /// The number of addresses.
    pub fn addresses(&self) -> usize {
        self.dialer.addresses()
    }

    /// Whether connections use TLS.
    pub fn is_secret(&self) -> bool {
        self.dialer.is_secret()
    }

    /// The number of connections so far: while it stays the same, answers come over the
    /// same connection.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Leaves the address for the next one.
    pub fn turn_away(&mut self) {
        self.connection = None;
        self.dialer.turn_away();
    }

    /// One try. A kept connection that the server has closed meanwhile is replaced.
    /// After an error there is none.
    pub async fn post(&mut self, post: &Post, time: TryTime) -> Result<Answer, Fault> {
        let started = Instant::now();
        let until = started + time.answer;
        if let Some(mut kept) = self.connection.take() {
            match kept.exchange(post, until).await {
                Ok(answer) => {
                    self.connection = Some(kept);
                    return Ok(answer);
                }
                Err(fault) if Instant::now() >= until => return Err(fault),
                Err(_) => {}
            }
        }
        let mut fresh = self.connect(started, time).await?;
        self.connections += 1;
        let answer = fresh.exchange(post, until).await?;
        self.connection = Some(fresh);
        Ok(answer)
    }

    /// Opens another connection, sends the request, and waits for the head of the
    /// answer.
    pub async fn stream(&mut self, post: &Post, time: TryTime) -> Result<Lines, Fault> {
        let started = Instant::now();
        let mut connection = self.connect(started, time).await?;
        let response = connection.head(post, started + time.answer).await?;
        let status = response.status().as_u16();
        Ok(Lines { status, body: response.into_body(), buffer: Vec::new(), searched: 0, _connection: connection })
    }

    async fn connect(&mut self, started: Instant, time: TryTime) -> Result<Connection, Fault> {
        let spent = started.elapsed();
        let left = |time: Duration| time.saturating_sub(spent);
        let left = TryTime { connect: left(time.connect), answer: left(time.answer) };
        let stream = self.dialer.dial(left).await?;
        let (sender, driver) =
            handshake(TokioIo::new(stream)).await.map_err(|error| Fault::not_answered(describe(&error)))?;
        let driver = tokio::spawn(driver);
        Ok(Connection { host: self.dialer.address().to_string(), sender, driver })
    }
}

/// One connection, and the task that moves its bytes.
struct Connection {
    host: String,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    async fn exchange(&mut self, post: &Post, until: Instant) -> Result<Answer, Fault> {
        let sent = suspend_aware_now();
        let response = self.head(post, until).await?;
        let status = response.status().as_u16();
        let body = timeout_at(until, Limited::new(response.into_body(), LONGEST_ANSWER).collect()).await;
        let body = body.map_err(|_| Fault::not_answered("the answer did not end in time"))?;
        let body = body.map_err(|error| Fault::not_answered(format!("the answer broke off: {error}")))?;
        Ok(Answer { status, body: body.to_bytes(), sent })
    }

    async fn head(&mut self, post: &Post, until: Instant) -> Result<Response<Incoming>, Fault> {
        let request = self.request(post)?;
        let sending = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        match timeout_at(until, sending).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.fault(error, until).await),
            Err(_) => Err(Fault::not_answered("no answer in time")),
        }
    }

    /// A request on a connection that broke learns only that it is closed; the driver
    /// knows why.
    async fn fault(&mut self, error: hyper::Error, until: Instant) -> Fault {
        let until = until.min(Instant::now() + LAST_WORDS);
        let error = match timeout_at(until, &mut self.driver).await {
            Ok(Ok(Err(cause))) if io_error(&error).is_none() => cause,
            _ => error,
        };
        io_error(&error).and_then(super::refusal).unwrap_or_else(|| Fault::not_answered(describe(&error)))
    }

    fn request(&self, post: &Post) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = Request::post(&post.path).header(HOST, &self.host).header(CONTENT_TYPE, "application/json");
        for (name, value) in &post.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(post.body.clone())).map_err(|error| Fault::refused(error.to_string()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer read line by line. Dropping it closes its connection.
pub struct Lines {
    /// HTTP status.
    pub status: u16,
    body: Incoming,
    buffer: Vec<u8>,
    /// How much of the buffer has no end of a line.
    searched: usize,
    _connection: Connection,
}

impl Lines {
    /// The next line, without its end; `None` at the end of the answer. May be dropped
    /// without loss.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            if let Some(line) = self.buffered_line() {
                return Ok(Some(line));
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(Fault::not_answered("a line of the answer is too long"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Fault::not_answered(describe(&error))),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(std::mem::take(&mut self.buffer)));
                }
            }
        }
    }

    fn buffered_line(&mut self) -> Option<Vec<u8>> {
        let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let mut line: Vec<u8> = self.buffer.drain(..=self.searched + end).collect();
        line.pop();
        self.searched = 0;
        Some(line)
    }
}

fn io_error(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error).and_then(|cause| cause.downcast_ref())
}

fn describe(error: &hyper::Error) -> String {
    match io_error(error) {
        Some(cause) => super::stream::describe(cause),
        None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
            "the server closed the connection".into()
        }
        None if error.is_parse() => "the answer is not HTTP".into(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::super::tests::run;
    use super::super::{FaultKind, TlsFiles};
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A server that gives each connection to `serve`, with its number.
    fn server(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for (number, connection) in listener.incoming().enumerate() {
                serve(number, connection.unwrap());
            }
        });
        Address { host: "127.0.0.1".into(), port }
    }

    /// Reads one request and returns its body.
    fn read_request(connection: &TcpStream) -> String {
        let mut reader = BufReader::new(connection);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    fn answer(mut connection: &TcpStream, body: &str) {
        write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    }

    fn client(address: Address, tls: Option<TlsFiles>) -> Client {
        Client::new(Dialer::new(vec![address], tls))
    }

    fn post(body: &'static str) -> Post {
        Post { path: "/path".into(), headers: Vec::new(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn one_connection_serves_several_requests() {
        let address = server(|number, connection| {
            for _ in 0..2 {
                let body = read_request(&connection);
                answer(&connection, &format!("{number} {body}"));
            }
        });
        run(async {
            let mut client = client(address, None);
            for (asked, expected) in [("a", "0 a"), ("b", "0 b"), ("c", "1 c")] {
                let answer = client.post(&post(asked), LONG.into()).await.unwrap();
                assert_eq!((answer.status, &answer.body[..]), (200, expected.as_bytes()));
            }
        });
    }

    #[test]
    fn a_kept_connection_that_the_server_has_closed_is_replaced() {
        let address = server(|number, connection| {
            let body = read_request(&connection);
            answer(&connection, &format!("{number} {body}"));
        });
        run(async {
            let mut client = client(address, None);
            for expected in ["0 x", "1 x", "2 x"] {
                assert_eq!(client.post(&post("x"), LONG.into()).await.unwrap().body, expected);
            }
        });
    }

    #[test]
    fn nobody_listens() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut client = client(Address { host: "127.0.0.1".into(), port: address.port() }, None);
        let fault = run(client.post(&post("x"), LONG.into())).unwrap_err();
        assert_eq!(fault, Fault { text: "connection refused".into(), kind: FaultKind::NotConnected });
    }

    #[test]
    fn a_silent_server_costs_no_more_than_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        for tls in [None, Some(TlsFiles::default())] {
            let fault =
                run(client(address.clone(), tls).post(&post("x"), Duration::from_millis(50).into())).unwrap_err();
            assert_eq!(fault.kind, FaultKind::NotAnswered, "{fault}");
        }
    }

    #[test]
    fn an_answer_that_breaks_off_is_none() {
        let address = server(|_, mut connection| {
            read_request(&connection);
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc").unwrap();
        });
        let fault = run(client(address, None).post(&post("x"), LONG.into())).unwrap_err();
        assert_eq!(fault.kind, FaultKind::NotAnswered, "{fault}");
    }

    #[test]
    fn lines_come_one_by_one_and_none_is_lost_by_a_reader_that_stops() {
        let address = server(|_, mut connection| {
            read_request(&connection);
            connection.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            for chunk in ["on", "e\ntwo\nth", "ree\n", "rest"] {
                write!(connection, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
            connection.write_all(b"0\r\n\r\n").unwrap();
        });
        run(async {
            let mut lines = client(address, None).stream(&post("x"), LONG.into()).await.unwrap();
            let mut read = Vec::new();
            let ended = loop {
                match tokio::time::timeout(Duration::from_millis(3), lines.next()).await {
                    Ok(Ok(Some(line))) => read.push(String::from_utf8(line).unwrap()),
                    Ok(end) => break end,
                    Err(_) => {}
                }
            };
            assert_eq!(read, ["one", "two", "three", "rest"]);
            assert_eq!(ended, Ok(None));
        });
    }

    #[test]
    fn plain_text_where_tls_is_expected_is_refused() {
        let address = server(|_, mut connection| {
            let mut hello = [0; 16];
            connection.read_exact(&mut hello).unwrap();
            connection.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").unwrap();
        });
        let cacert = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let fault = run(client(address.clone(), Some(TlsFiles { cacert: Some(cacert), ..TlsFiles::default() }))
            .post(&post("x"), LONG.into()))
        .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Refused);
        assert!(fault.text.contains("Cargo.toml: none found"), "{fault}");
    }
}
