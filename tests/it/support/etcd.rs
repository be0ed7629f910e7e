//! etcd servers for tests: real ones.

use super::server::{GUARD, freeze, host, memory, next_address, signal, start_under};
use super::{Authority, LIMIT, Outcome, Sandbox, eventually};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// An etcd server. Dropping it ends it and removes its data.
pub struct Etcd {
    guard: Child,
    pid: i32,
    address: String,
    data: PathBuf,
    tls: Option<Tls>,
}

/// The certificates of a server with TLS, made for it by openssl(1).
#[derive(Clone)]
pub struct Tls {
    /// The authority's.
    pub cacert: PathBuf,
    /// A client's, without a common name: the gateway refuses one that has it.
    pub cert: PathBuf,
    /// The client's key.
    pub key: PathBuf,
}

impl Etcd {
    /// A server that speaks plain HTTP and is ready. Leases last at least 1 s.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these options beside its own.
    pub fn start_with(options: &[&str]) -> Self {
        Self::launch(options, None)
    }

    /// One that requires TLS and client certificates.
    pub fn start_with_tls(sandbox: &Sandbox) -> Self {
        let tls = Tls::make(sandbox, "tls");
        let path = |name: &str| tls.cacert.with_file_name(name).display().to_string();
        let options = [
            format!("--cert-file={}", path("server.pem")),
            format!("--key-file={}", path("server.key")),
            format!("--trusted-ca-file={}", path("ca.pem")),
            "--client-cert-auth".to_owned(),
        ];
        Self::launch(&options.each_ref().map(String::as_str), Some(tls))
    }

    /// Puts the certificates of another authority where the old ones were. The server
    /// wants its clients' from when it is started again.
    pub fn renew_certificates(&self, sandbox: &Sandbox) {
        let (old, new) = (self.tls.as_ref().unwrap(), Tls::make(sandbox, "new-tls"));
        for file in fs::read_dir(new.cacert.parent().unwrap()).unwrap().map(|entry| entry.unwrap()) {
            fs::copy(file.path(), old.cacert.with_file_name(file.file_name())).unwrap();
        }
    }

    /// Switches users on: root, and `lockrun` who may do everything below `jobs/`.
    pub fn switch_users_on(&self, sandbox: &Sandbox, password: &str) {
        for args in [
            &["user", "add", "root:secret"][..],
            &["user", "add", &format!("lockrun:{password}")],
            &["role", "add", "jobs"],
            &["role", "grant-permission", "jobs", "--prefix=true", "readwrite", "jobs/"],
            &["user", "grant-role", "lockrun", "jobs"],
            &["user", "grant-role", "root", "root"],
            &["auth", "enable"],
        ] {
            self.etcdctl(sandbox, args).assert_code(0);
        }
    }

    /// Of the user `lockrun`. All tokens die with the old one.
    pub fn change_password(&self, sandbox: &Sandbox, password: &str) {
        let change = ["--user=root:secret", "user", "passwd", "lockrun", "--interactive=false"];
        self.etcdctl_command(sandbox, &change).input(&format!("{password}\n")).run().assert_code(0);
    }

    /// How many calls of this method of etcd's API it has answered: `Range`, `Txn`.
    pub fn calls(&self, method: &str) -> u64 {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let wanted = format!("grpc_method=\"{method}\"");
        let counts = lines.filter(|line| line.starts_with("grpc_server_handled_total{") && line.contains(&wanted));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    fn launch(options: &[&str], tls: Option<Tls>) -> Self {
        let (host, port) = next_address();
        let data = memory().join(format!("lockrun-test-{}-etcd-{port}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (client, peer) = (format!("{scheme}://{host}:{port}"), format!("http://{host}:{}", port + 1));
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&data)
            .args(["etcd", "--log-level=error", "--heartbeat-interval=10", "--election-timeout=100"])
            .arg(format!("--data-dir={}/data", data.display()))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(options)
            .current_dir(&data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let pid = start_under(&mut guard);
        let server = Self { guard, pid, address: format!("{host}:{port}"), data, tls };
        server.until_ready();
        server
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// For `--store`, with this prefix.
    pub fn url(&self, prefix: &str) -> String {
        match &self.tls {
            None => format!("etcd://{}/{prefix}", self.address),
            Some(tls) => {
                let [cacert, cert, key] = [&tls.cacert, &tls.cert, &tls.key].map(|path| path.display());
                format!("etcds://{}/{prefix}?cacert={cacert}&cert={cert}&key={key}", self.address)
            }
        }
    }

    /// Its certificates, if it uses TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// etcdctl with these arguments, to its end.
    #[track_caller]
    pub fn etcdctl(&self, sandbox: &Sandbox, args: &[&str]) -> Outcome {
        self.etcdctl_command(sandbox, args).run()
    }

    /// etcdctl with these arguments, before it is started.
    pub fn etcdctl_command(&self, sandbox: &Sandbox, args: &[&str]) -> super::Invocation {
        let mut command = sandbox.command("etcdctl", args).env("ETCDCTL_API", "3");
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        command = command.env("ETCDCTL_ENDPOINTS", format!("{scheme}://{}", self.address));
        if let Some(tls) = &self.tls {
            command = command.env("ETCDCTL_CACERT", &tls.cacert);
            command = command.env("ETCDCTL_CERT", &tls.cert).env("ETCDCTL_KEY", &tls.key);
        }
        command
    }

    /// All keys below a prefix.
    #[track_caller]
    pub fn keys(&self, sandbox: &Sandbox, prefix: &str) -> Vec<String> {
        let outcome = self.etcdctl(sandbox, &["get", "--prefix", "--keys-only", prefix]);
        outcome.assert_code(0).stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Stops it with SIGSTOP: it answers nothing, and its connections stay open.
    pub fn freeze(&self) {
        freeze(self.pid);
    }

    /// Continues it.
    pub fn thaw(&self) {
        signal(self.pid, libc::SIGCONT);
    }

    /// Ends it without warning.
    pub fn kill(&self) {
        signal(self.pid, libc::SIGKILL);
        eventually("the server's port is closed", || TcpStream::connect(&self.address).is_err());
    }

    /// Starts it again, with the data that it had.
    pub fn restart(&mut self) {
        self.pid = start_under(&mut self.guard);
        self.until_ready();
    }

    fn until_ready(&self) {
        let address = self.address.to_socket_addrs().unwrap().next().unwrap();
        eventually("etcd listens", || {
            let log = || fs::read_to_string(self.data.join("log")).unwrap_or_default();
            assert!(super::is_alive(self.pid), "etcd ended: {}", log());
            TcpStream::connect_timeout(&address, LIMIT).is_ok()
        });
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        signal(self.pid, libc::SIGKILL);
        self.guard.stdin = None;
        let _ = self.guard.wait();
    }
}

/// The next request or answer, whole. `None`: the connection has ended.
pub fn http_message(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    let mut until = |end: &[u8]| {
        let (start, mut byte) = (read.len(), [0]);
        while !read[start..].ends_with(end) {
            from.read_exact(&mut byte).ok()?;
            read.push(byte[0]);
        }
        Some(String::from_utf8_lossy(&read[start..]).to_lowercase())
    };
    let head = until(b"\r\n\r\n")?;
    if head.contains("transfer-encoding: chunked") {
        until(b"\r\n0\r\n")?;
        // Trailers.
        while until(b"\r\n")? != "\r\n" {}
        return Some(read);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    Some([read, body].concat())
}

/// The process that keeps the lock of this wrapper.
pub fn keeper_of(wrapper: i32) -> i32 {
    let mut found = None;
    eventually("there is a keeper", || {
        found = super::children(wrapper).into_iter().find(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with("lockrun: keeps calc")
        });
        found.is_some()
    });
    found.unwrap()
}

impl Tls {
    /// An authority, and what it signs for the servers of this process and for clients.
    fn make(sandbox: &Sandbox, directory: &str) -> Self {
        let authority = Authority::in_directory(sandbox, directory);
        authority.sign("server", &format!("subjectAltName=IP:{},DNS:localhost", host()));
        let (cert, key) = authority.sign("client", "extendedKeyUsage=clientAuth");
        Self { cacert: authority.cert().clone(), cert, key }
    }
}
