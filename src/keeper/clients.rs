//! The clients of a process that is asked through a socket: who may ask, and what they
//! have said so far. Nothing here waits for a client.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::protocol::{Ask, Reply, Request, TokenState};
use crate::sys;

/// Most clients at once; one more hangs up on the oldest. Only processes of our own
/// user and root count: others are refused at once.
const CLIENTS: usize = 16;

/// Pause after a failed accept(2), which would otherwise be repeated at once.
const A_PAUSE: Duration = Duration::from_millis(100);

/// A socket and its clients.
pub struct Clients {
    listener: UnixListener,
    secret: String,
    clients: VecDeque<Client>,
}

/// A connected process of our user, or of root.
pub struct Client {
    stream: UnixStream,
    said: Vec<u8>,
}

impl Clients {
    /// Only clients that know the secret are heard.
    pub fn new(listener: UnixListener, secret: String) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, secret, clients: VecDeque::new() })
    }

    /// What to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::once(self.listener.as_fd()).chain(self.clients.iter().map(|client| client.stream.as_fd()))
    }

    /// Complete requests, in the order of their clients. `readable`: which of the
    /// [`descriptors`](Self::descriptors) are.
    pub fn hear(&mut self, readable: &[bool]) -> Vec<(Client, Ask)> {
        let [has_new, readable @ ..] = readable else { return Vec::new() };
        let mut heard = Vec::new();
        for (place, mut client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
            if !readable.get(place).copied().unwrap_or(false) {
                self.clients.push_back(client);
                continue;
            }
            match client.read_request() {
                Ok(Some(request)) if request.secret != self.secret => client.answer(&Reply::WrongSecret),
                Ok(Some(request)) => heard.push((client, request.ask)),
                Ok(None) => self.clients.push_back(client),
                // It hung up, or talks nonsense.
                Err(_) => {}
            }
        }
        if *has_new {
            self.accept();
        }
        heard
    }

    /// Hangs up on all clients, which then find nobody there.
    pub fn close(&self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }

    fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            // It hung up; the next poll reports other clients.
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::ConnectionAborted].contains(&e.kind()) => return,
            // No descriptor is left, and a client keeps knocking: the oldest one makes
            // room.
            Err(_) => {
                if self.clients.pop_front().is_none() {
                    sys::nap(A_PAUSE);
                }
                return;
            }
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let client = Client { stream, said: Vec::new() };
        let us = rustix::process::geteuid();
        let allowed = rustix::net::sockopt::socket_peercred(&client.stream)
            .is_ok_and(|peer| peer.uid == us || peer.uid.is_root());
        if !allowed {
            client.answer(&Reply::NotYours);
            return;
        }
        if self.clients.len() == CLIENTS {
            self.clients.pop_front();
        }
        self.clients.push_back(client);
    }
}

impl Client {
    /// The request, once it is complete.
    fn read_request(&mut self) -> io::Result<Option<Request>> {
        let mut buffer = [0; 512];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.said.extend_from_slice(&buffer[..length]),
            Err(e) if is_not_yet(&e) => return Ok(None),
            Err(e) => return Err(e),
        }
        if self.said.len() > 4 * buffer.len() {
            return Err(ErrorKind::InvalidData.into());
        }
        match self.said.strip_suffix(b"\n") {
            Some(line) => Ok(Some(serde_json::from_slice(line)?)),
            None => Ok(None),
        }
    }

    /// Answers how the lock stands.
    pub fn tell_state(self, state: TokenState) {
        self.answer(&Reply::State(state));
    }

    /// Answers that the lock is free now.
    pub fn tell_released(self, lost: Option<String>) {
        self.answer(&Reply::Released { lost });
    }

    fn answer(mut self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).unwrap_or_default();
        line.push(b'\n');
        // Fits into the socket's buffer; a client that hung up needs no answer.
        let _ = self.stream.write_all(&line);
    }
}

/// Whether a call that was refused for now may be repeated after the next poll.
pub fn is_not_yet(error: &io::Error) -> bool {
    [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind())
}
