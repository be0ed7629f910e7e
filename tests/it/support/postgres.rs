//! PostgreSQL servers for tests: real ones, on loopback addresses that only this
//! process uses.

use super::server::{FAKETIME, GUARD, freeze, memory, next_address, own_clock, set_clock, signal, start_under};
use super::{Authority, Outcome, Sandbox, eventually};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server with its own data, where everybody is trusted. Dropping it ends it and
/// removes its data.
pub struct Postgres {
    guard: Child,
    pid: i32,
    host: String,
    port: u16,
    data: PathBuf,
}

/// Tables on a server.
pub struct Schema {
    name: String,
    /// `None`: the one that other tests use as well.
    own: Option<Postgres>,
}

impl Schema {
    /// A name that nobody has used; the tables are not there yet.
    pub fn unused() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self { name: format!("lockrun_{}", NUMBER.fetch_add(1, Ordering::Relaxed)), own: None }
    }

    /// The same on a server of its own, to which anything may be done.
    pub fn on(server: Postgres) -> Self {
        Self { own: Some(server), ..Self::unused() }
    }

    /// For `--store`.
    pub fn url(&self) -> String {
        self.server().url(&format!("schema={}", self.name))
    }

    /// Where they are.
    pub fn server(&self) -> &Postgres {
        self.own.as_ref().unwrap_or_else(|| Postgres::shared())
    }

    /// Its own server.
    #[track_caller]
    pub fn own_server(&mut self) -> &mut Postgres {
        self.own.as_mut().expect("a server of its own")
    }

    /// What psql(1) says to this, without a heading.
    #[track_caller]
    pub fn psql(&self, sandbox: &Sandbox, sql: &str) -> String {
        let sql = sql.replace("SCHEMA", &self.name);
        self.server().psql(sandbox, "postgres", &sql).assert_code(0).stdout.trim().to_owned()
    }
}

impl Postgres {
    /// A server that all tests of this process use.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server that is ready, and where everybody is trusted.
    pub fn start() -> Self {
        Self::start_with("", &[])
    }

    /// One that wants to know this password, if it is one, and has these options beside
    /// its own.
    pub fn start_with(password: &str, options: &[&str]) -> Self {
        Self::launch(password, options, None)
    }

    /// One whose clock can be set.
    pub fn start_with_clock() -> Self {
        Self::launch("", &[], Some(Path::new(FAKETIME)))
    }

    fn launch(password: &str, options: &[&str], clock: Option<&Path>) -> Self {
        let (host, port) = next_address();
        let data = memory().join(format!("lockrun-test-{}-postgres-{port}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        let user = user();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&data, Some(uid), Some(gid)).unwrap();
        }
        let (cluster, password_file) = (data.join("cluster"), data.join("password"));
        fs::write(&password_file, format!("{password}\n")).unwrap();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&password_file, Some(uid), Some(gid)).unwrap();
        }
        let how = match password {
            "" => vec!["-A", "trust"],
            _ => vec!["-A", "scram-sha-256", "--pwfile", password_file.to_str().unwrap()],
        };
        let initdb = as_user(user, &program("initdb"))
            .args(["--no-sync", "--no-instructions", "-U", "postgres", "-E", "UTF8", "-D"])
            .arg(&cluster)
            .args(how)
            .current_dir("/")
            .output()
            .expect("initdb");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let mut server = as_user(user, Path::new("env"));
        if let Some(library) = clock {
            server.args(own_clock(library, &data.join("clock")));
        }
        server.arg(program("postgres"));
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&data)
            .arg(server.get_program())
            .args(server.get_args())
            .arg("-D")
            .arg(&cluster)
            .args(["-h", &host, "-p", &port.to_string(), "-k"])
            .arg(&data)
            .args(options.iter().flat_map(|option| ["-c", option]))
            .args([
                "-F",
                "-c",
                "dynamic_shared_memory_type=mmap",
                "-c",
                "max_connections=300",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "log_min_messages=log",
            ])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let pid = start_under(&mut guard);
        let server = Self { guard, pid, host, port, data };
        server.until_ready();
        server
    }

    /// For `--store`, with these parameters.
    pub fn url(&self, parameters: &str) -> String {
        format!("postgres://postgres@{}:{}/postgres?{parameters}", self.host, self.port)
    }

    /// A certificate for it, of this authority, where it can read it: for the option
    /// `ssl_cert_file`, and `ssl_key_file`.
    pub fn certificate(sandbox: &Sandbox, authority: &Authority) -> [String; 2] {
        let (cert, key) = authority.sign("server", "subjectAltName=DNS:localhost");
        let directory = sandbox.make_dir("postgres-tls", 0o755);
        [(cert, "ssl_cert_file"), (key, "ssl_key_file")].map(|(from, option)| {
            let to = directory.join(option);
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = user() {
                std::os::unix::fs::chown(&to, Some(uid), Some(gid)).unwrap();
            }
            format!("{option}={}", to.display())
        })
    }

    /// A pooler in transaction mode in front of it.
    pub fn pooler(&self, sandbox: &Sandbox) -> Pooler {
        let (host, port) = next_address();
        let config = sandbox.path("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr={host}\nlisten_port={port}\n\
             auth_type=any\npool_mode=transaction\ndefault_pool_size=2\nunix_socket_dir=\n",
            self.host, self.port
        );
        let text = text.replacen("* = ", "postgres = user=postgres ", 1);
        fs::write(&config, text).unwrap();
        let mut command = as_user(user(), Path::new("pgbouncer"));
        let child = command.arg("-q").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let pooler = Pooler { child: child.expect("pgbouncer"), address: format!("{host}:{port}") };
        eventually("the pooler listens", || std::net::TcpStream::connect(&pooler.address).is_ok());
        pooler
    }

    /// psql(1) as a user, without headings.
    pub fn psql(&self, sandbox: &Sandbox, user: &str, sql: &str) -> Outcome {
        let port = self.port.to_string();
        let psql = program("psql");
        let args = ["-XAtq", "-h", &self.host, "-p", &port, "-U", user, "-d", "postgres", "-c", sql];
        sandbox.command(psql.to_str().unwrap(), &args).run()
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Sets its clock this many seconds ahead of ours.
    pub fn set_clock(&self, ahead: i64) {
        set_clock(&self.data.join("clock"), ahead);
    }

    /// Stops it with SIGSTOP: it answers nothing, and its connections stay open.
    pub fn freeze(&self) {
        freeze(self.pid);
        // The first can start no more of the others.
        super::children(self.pid).into_iter().for_each(freeze);
    }

    /// Continues it.
    pub fn thaw(&self) {
        self.processes().for_each(|pid| signal(pid, libc::SIGCONT));
    }

    fn processes(&self) -> impl Iterator<Item = i32> {
        super::children(self.pid).into_iter().chain([self.pid])
    }

    /// Ends it without warning.
    pub fn kill(&self) {
        // One that was started meanwhile would keep the old memory in use.
        freeze(self.pid);
        let all: Vec<_> = self.processes().collect();
        all.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
        eventually("the server has ended", || !all.iter().any(|pid| super::is_alive(*pid)));
    }

    /// Starts it again, with the data that it had.
    pub fn restart(&mut self) {
        // The old one is not reaped yet, and would be taken for alive.
        let socket = format!(".s.PGSQL.{}", self.port);
        for of_the_old in ["cluster/postmaster.pid", &socket, &format!("{socket}.lock")] {
            let _ = fs::remove_file(self.data.join(of_the_old));
        }
        self.pid = start_under(&mut self.guard);
        self.until_ready();
    }

    fn until_ready(&self) {
        eventually("PostgreSQL is ready", || {
            let log = || fs::read_to_string(self.data.join("log")).unwrap_or_default();
            assert!(super::is_alive(self.pid), "PostgreSQL ended: {}", log());
            let port = self.port.to_string();
            let ready = Command::new(program("pg_isready")).args(["-q", "-h", &self.host, "-p", &port]).status();
            ready.expect("pg_isready").success()
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        // Immediate shutdown: its children end, too.
        signal(self.pid, libc::SIGQUIT);
        eventually("PostgreSQL has ended", || !super::is_alive(self.pid));
        self.guard.stdin = None;
        let _ = self.guard.wait();
    }
}

/// A running pgbouncer(1).
pub struct Pooler {
    child: Child,
    /// `HOST:PORT`.
    pub address: String,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian keeps the programs out of PATH.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

/// The server refuses to run as root.
fn user() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then_some(())?;
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = |name: &str| passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).map(str::to_owned);
    let line = line("postgres").or_else(|| line("nobody")).expect("a user for PostgreSQL");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().unwrap());
    Some((numbers.next()?, numbers.next()?))
}

fn as_user(user: Option<(u32, u32)>, program: &Path) -> Command {
    let Some((uid, gid)) = user else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]).arg(program);
    command
}
