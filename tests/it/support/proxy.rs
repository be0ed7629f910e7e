//! A way to a server that can be cut, swallow everything, or lose the answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// It listens on a port of its own until it is dropped.
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    way: Way,
    /// Both ends of each connection.
    open: BTreeMap<usize, [TcpStream; 2]>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    /// Nothing gets through, and neither side learns of it.
    BlackHole,
    /// What the server answers is lost.
    Deaf,
    Closed,
}

impl Proxy {
    /// To this `HOST:PORT`.
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap().to_string(), shared: Arc::default() };
        let (server, shared) = (server.to_owned(), Arc::clone(&proxy.shared));
        thread::spawn(move || {
            for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
                if shared.state.lock().unwrap().way == Way::Closed {
                    break;
                }
                let (server, shared) = (server.clone(), Arc::clone(&shared));
                thread::spawn(move || shared.connect(number, client, &server));
            }
        });
        proxy
    }

    /// Its own `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Lets nothing through until [`open`](Self::open).
    pub fn swallow(&self) {
        self.shared.turn(Way::BlackHole);
    }

    /// Lets requests through and no answers, until [`open`](Self::open).
    pub fn lose_answers(&self) {
        self.shared.turn(Way::Deaf);
    }

    /// Lets everything through. Connections that have lost something are cut.
    pub fn open(&self) {
        let was_deaf = self.shared.state.lock().unwrap().way == Way::Deaf;
        self.shared.turn(Way::Open);
        if was_deaf {
            self.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.turn(Way::Closed);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn turn(&self, way: Way) {
        self.state.lock().unwrap().way = way;
        self.changed.notify_all();
    }

    fn cut(&self) {
        for stream in self.state.lock().unwrap().open.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn connect(self: Arc<Self>, number: usize, client: TcpStream, server: &str) {
        let Ok(server) = TcpStream::connect(server) else { return };
        let both = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
        self.state.lock().unwrap().open.insert(number, both());
        let answers = {
            let (shared, [client, server]) = (Arc::clone(&self), both());
            thread::spawn(move || shared.carry(server, client, true))
        };
        self.carry(client, server, false);
        let _ = answers.join();
        self.state.lock().unwrap().open.remove(&number);
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, are_answers: bool) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let way = self.changed.wait_while(self.state.lock().unwrap(), |state| state.way == Way::BlackHole);
            let is_lost = are_answers && way.unwrap().way == Way::Deaf;
            if !is_lost && to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
