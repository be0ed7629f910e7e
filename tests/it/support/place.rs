//! Where a test's locks are: what holds for files holds on a server.

use super::postgres::{Postgres, Schema};
use super::redis::Keys;
use super::{Etcd, Holder, Invocation, Running, Sandbox, eventually};

/// Lock files, or a server of its own.
pub enum Place {
    /// In the sandbox.
    Files,
    /// On this server.
    Etcd(Etcd),
    /// In these tables.
    Postgres(Schema),
    /// In these keys.
    Redis(Keys),
}

impl Place {
    /// One of each.
    pub fn all() -> [Self; 4] {
        [Self::Files, Self::Etcd(Etcd::start()), Self::Postgres(Schema::unused()), Self::Redis(Keys::unused())]
    }

    /// One of each kind whose rows a test can see, on a server that is not harmed.
    pub fn servers() -> [Self; 2] {
        [Self::Etcd(Etcd::start()), Self::Postgres(Schema::unused())]
    }

    /// One of each on a server of its own, to which anything may be done.
    pub fn own_servers() -> [Self; 2] {
        [Self::Etcd(Etcd::start()), Self::Postgres(Schema::on(Postgres::start()))]
    }

    /// For `--store`; `None`: lock files.
    pub fn url(&self) -> Option<String> {
        match self {
            Self::Files => None,
            Self::Etcd(etcd) => Some(etcd.url("jobs")),
            Self::Postgres(schema) => Some(schema.url()),
            Self::Redis(keys) => Some(keys.url()),
        }
    }

    /// The server of a place that is one.
    pub fn server(&self) -> &Etcd {
        match self {
            Self::Etcd(etcd) => etcd,
            Self::Files | Self::Postgres(_) | Self::Redis(_) => panic!("no etcd"),
        }
    }

    /// The server's `HOST:PORT`.
    pub fn address(&self) -> String {
        match self {
            Self::Files | Self::Redis(_) => panic!("no server of its own"),
            Self::Etcd(etcd) => etcd.address().to_owned(),
            Self::Postgres(schema) => schema.server().address(),
        }
    }

    /// Stops the server: it answers nothing, and its connections stay open.
    pub fn freeze(&self) {
        match self {
            Self::Files | Self::Redis(_) => panic!("no server of its own"),
            Self::Etcd(etcd) => etcd.freeze(),
            Self::Postgres(schema) => schema.server().freeze(),
        }
    }

    /// Continues it.
    pub fn thaw(&self) {
        match self {
            Self::Files | Self::Redis(_) => panic!("no server of its own"),
            Self::Etcd(etcd) => etcd.thaw(),
            Self::Postgres(schema) => schema.server().thaw(),
        }
    }

    /// Ends it without warning.
    pub fn kill(&self) {
        match self {
            Self::Files | Self::Redis(_) => panic!("no server of its own"),
            Self::Etcd(etcd) => etcd.kill(),
            Self::Postgres(schema) => schema.server().kill(),
        }
    }

    /// Starts it again, with the data that it had.
    pub fn restart(&mut self) {
        match self {
            Self::Files | Self::Redis(_) => panic!("no server of its own"),
            Self::Etcd(etcd) => etcd.restart(),
            Self::Postgres(schema) => schema.own_server().restart(),
        }
    }

    /// Sets its clock this many seconds ahead of ours.
    pub fn set_clock(&self, ahead: i64) {
        match self {
            Self::Files | Self::Etcd(_) | Self::Redis(_) => panic!("no clock of its own"),
            Self::Postgres(schema) => schema.server().set_clock(ahead),
        }
    }

    /// What the server has of all locks, a line for each row.
    pub fn rows(&self, sandbox: &Sandbox) -> Vec<String> {
        match self {
            Self::Files | Self::Redis(_) => panic!("no server of its own"),
            Self::Etcd(etcd) => etcd.keys(sandbox, "jobs/"),
            Self::Postgres(schema) => {
                let found = schema.psql(sandbox, "SELECT id FROM SCHEMA.contender ORDER BY name, ord");
                found.lines().map(str::to_owned).collect()
            }
        }
    }

    /// Removes the row that was entered first.
    pub fn remove_first_row(&self, sandbox: &Sandbox) {
        match self {
            Self::Files | Self::Redis(_) => panic!("no server of its own"),
            Self::Etcd(etcd) => {
                let oldest =
                    ["get", "--prefix", "--order=ASCEND", "--sort-by=CREATE", "--limit=1", "-w", "json", "jobs/"];
                let found = etcd.etcdctl(sandbox, &oldest);
                let found: serde_json::Value = serde_json::from_str(&found.assert_code(0).stdout).unwrap();
                let lease = found["kvs"][0]["lease"].as_u64().unwrap();
                etcd.etcdctl(sandbox, &["lease", "revoke", &format!("{lease:x}")]).assert_code(0);
            }
            Self::Postgres(schema) => {
                let first = "SELECT id FROM SCHEMA.contender ORDER BY ord LIMIT 1";
                schema.psql(sandbox, &format!("DELETE FROM SCHEMA.contender WHERE id = ({first})"));
            }
        }
    }

    fn options(&self, parameters: &str) -> Vec<String> {
        let Some(url) = self.url() else { return Vec::new() };
        // The URL may have some already.
        let parameters = if url.contains('?') { parameters.replacen('?', "&", 1) } else { parameters.into() };
        vec!["--store".into(), url + &parameters]
    }

    /// Options for a shell line.
    pub fn store(&self) -> String {
        self.store_with("")
    }

    /// The same with parameters of the URL, `?ttl=2`.
    pub fn store_with(&self, parameters: &str) -> String {
        self.options(parameters).iter().map(|word| format!("'{word}' ")).collect()
    }

    /// The token that `lockrun acquire OPTIONS` prints.
    #[track_caller]
    pub fn acquire(&self, sandbox: &Sandbox, options: &[&str]) -> String {
        let outcome = self.lockrun(sandbox, &[&["acquire"], options].concat()).run();
        outcome.assert_code(0).stdout.trim_end().to_owned()
    }

    /// lockrun with these arguments, on this place.
    pub fn lockrun(&self, sandbox: &Sandbox, args: &[&str]) -> Invocation {
        self.lockrun_with(sandbox, "", args)
    }

    /// The same with parameters of the URL, `?ttl=2`.
    pub fn lockrun_with(&self, sandbox: &Sandbox, parameters: &str, args: &[&str]) -> Invocation {
        let options = self.options(parameters);
        let (command, rest) = match args {
            [command, rest @ ..] if !command.starts_with('-') => (Some(*command), rest),
            _ => (None, args),
        };
        let words: Vec<_> =
            command.into_iter().chain(options.iter().map(String::as_str)).chain(rest.iter().copied()).collect();
        sandbox.lockrun(&words)
    }

    /// One that holds until it is told to end.
    pub fn hold(&self, sandbox: &Sandbox, options: &[&str]) -> Holder {
        self.hold_with(sandbox, "", options)
    }

    /// The same with parameters of the URL.
    pub fn hold_with(&self, sandbox: &Sandbox, parameters: &str, options: &[&str]) -> Holder {
        let args = [options, &["--", "sh", "-c", "echo holding; exec cat"]].concat();
        Holder::from(self.lockrun_with(sandbox, parameters, &args).input("").start().until_says("holding"))
    }

    /// Starts one that has to wait, and returns once it does.
    pub fn wait_in_queue(&self, sandbox: &Sandbox, args: &[&str], number: u64) -> Running {
        let waiter = self.lockrun(sandbox, args).start();
        self.until_waiting(sandbox, number);
        waiter
    }

    /// Returns once so many wait for the first lock of the list.
    pub fn until_waiting(&self, sandbox: &Sandbox, number: u64) {
        eventually(&format!("{number} wait"), || {
            let list = self.lockrun(sandbox, &["list", "--json"]).run();
            let locks: serde_json::Value = serde_json::from_str(&list.assert_code(0).stdout).unwrap();
            locks.as_array().unwrap().iter().any(|lock| lock["waiting"] == number)
        });
    }

    /// Returns once so many wait, for all locks together.
    pub fn until_all_wait(&self, sandbox: &Sandbox, number: u64) {
        eventually(&format!("{number} wait"), || {
            let list = self.lockrun(sandbox, &["list", "--json"]).run();
            let locks: serde_json::Value = serde_json::from_str(&list.assert_code(0).stdout).unwrap();
            let waiting = locks.as_array().unwrap().iter().map(|lock| lock["waiting"].as_u64().unwrap());
            waiting.sum::<u64>() == number
        });
    }
}
