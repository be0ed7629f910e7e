//! Redis servers for tests: real ones, on loopback addresses that only this process
//! uses.

use super::server::{GUARD, freeze, host, memory, next_address, signal, start_under};
use super::{Authority, Outcome, Sandbox, eventually};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server with its own data. Dropping it ends it and removes its data.
pub struct Redis {
    guard: Child,
    pid: i32,
    /// `HOST:PORT`, without TLS.
    pub address: String,
    tls_port: Option<u16>,
    data: PathBuf,
}

/// Keys on a server that other tests use as well.
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// A prefix that nobody has used.
    pub fn unused() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self { prefix: format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed)) }
    }

    /// For `--store`. The server has not run for long enough to do without `grace`.
    pub fn url(&self) -> String {
        Redis::shared().url(&format!("grace=0&prefix={}", self.prefix))
    }

    /// What redis-cli(1) says to this.
    #[track_caller]
    pub fn cli(&self, sandbox: &Sandbox, words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| word.replace("PREFIX", &self.prefix)).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Redis::shared().cli(sandbox, &words).assert_code(0).stdout.trim_end().to_owned()
    }
}

impl Redis {
    /// A server that all tests of this process use.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// One that is ready, with these options beside its own; it keeps nothing on disk
    /// unless they say so.
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(options, None)
    }

    /// One that speaks TLS as well.
    pub fn start_with_tls(authority: &Authority) -> Self {
        let (cert, key) = authority.sign("server", &format!("subjectAltName=IP:{}", host()));
        let (_, port) = next_address();
        let [cert, key, ca] = [&cert, &key, authority.cert()].map(|path| path.to_str().unwrap());
        let options = ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca];
        let port_text = port.to_string();
        let options = [&options[..], &["--tls-auth-clients", "no", "--tls-port", &port_text]].concat();
        Self::start_with(&options, Some(port))
    }

    fn start_with(options: &[&str], tls_port: Option<u16>) -> Self {
        let (host, port) = next_address();
        let data = memory().join(format!("lockrun-test-{}-redis-{port}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&data)
            .args(["redis-server", "--bind", &host, "--port", &port.to_string(), "--save", "", "--dir"])
            .arg(&data)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let pid = start_under(&mut guard);
        let server = Self { guard, pid, address: format!("{host}:{port}"), tls_port, data };
        server.until_ready();
        server
    }

    /// For `--store`, with these parameters.
    pub fn url(&self, parameters: &str) -> String {
        format!("redis://{}?{parameters}", self.address)
    }

    /// The same with TLS.
    pub fn tls_url(&self, parameters: &str) -> String {
        format!("rediss://{}:{}?{parameters}", host(), self.tls_port.expect("it speaks TLS"))
    }

    /// redis-cli(1) with these words.
    pub fn cli(&self, sandbox: &Sandbox, words: &[&str]) -> Outcome {
        let (host, port) = self.address.split_once(':').unwrap();
        sandbox.command("redis-cli", &[&["-h", host, "-p", port], words].concat()).run()
    }

    /// Ends it without warning.
    pub fn kill(&self) {
        signal(self.pid, libc::SIGKILL);
        eventually("the server has ended", || std::net::TcpStream::connect(&self.address).is_err());
    }

    /// Starts it again, with what it has on disk.
    pub fn restart(&mut self) {
        self.pid = start_under(&mut self.guard);
        self.until_ready();
    }

    /// Stops all its threads.
    pub fn freeze(&self) {
        freeze(self.pid);
    }

    /// The opposite.
    pub fn thaw(&self) {
        signal(self.pid, libc::SIGCONT);
    }

    fn until_ready(&self) {
        eventually("Redis is ready", || {
            let log = || fs::read_to_string(self.data.join("log")).unwrap_or_default();
            assert!(super::is_alive(self.pid), "Redis ended: {}", log());
            std::net::TcpStream::connect(&self.address).is_ok()
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        signal(self.pid, libc::SIGKILL);
        self.guard.stdin = None;
        let _ = self.guard.wait();
    }
}
