//! What `--store` and LOCKRUN_STORE may say.

pub(super) mod parts;

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::account::Account;
use crate::net::{Address, TlsFiles};

/// For error messages.
pub(super) const FORMS: &str = "write etcd://HOST[:2379][,HOST...][/PREFIX], etcds://... for TLS, \
                     postgres://[USER@]HOST[:5432][,HOST...][/DATABASE], \
                     redis://HOST[:6379][/NUMBER], or file: for lock files";

/// Looks up an environment variable.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A kind of server, and what only such a one needs.
#[derive(Clone, PartialEq, Eq)]
pub enum Service {
    /// etcd.
    #[cfg(feature = "etcd")]
    Etcd,
    /// PostgreSQL: the user and the database. [`Server::prefix`] is the schema.
    #[cfg(feature = "postgres")]
    Postgres(Box<super::postgres::login::Login>),
    /// Redis or Valkey: which database.
    #[cfg(feature = "redis")]
    Redis(Box<super::redis::login::Login>),
}

/// A server with locks.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// Of which kind.
    pub service: Service,
    /// At least one.
    pub addresses: Vec<Address>,
    /// `None`: no TLS.
    pub tls: Option<TlsFiles>,
    /// `None`: no login.
    pub account: Option<Account>,
    /// All keys begin with this and a slash.
    pub prefix: String,
    /// The lease's length.
    pub ttl: Duration,
    /// How long to try for the first answer.
    pub connect: Duration,
}

impl Server {
    /// What a token says of it: `etcd://a:2379,b:2379`, `postgres://me@a:5432/app`. No
    /// password, no file.
    pub fn reference(&self) -> String {
        match &self.service {
            #[cfg(feature = "etcd")]
            Service::Etcd => format!("{}://{}", if self.tls.is_some() { "etcds" } else { "etcd" }, self.hosts()),
            #[cfg(feature = "postgres")]
            Service::Postgres(login) => login.url(&self.hosts()) + super::postgres::url::tls_of_token(self),
            #[cfg(feature = "redis")]
            Service::Redis(login) => login.url(&self.hosts(), self.tls.is_some()),
        }
    }

    fn hosts(&self) -> String {
        self.addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(",")
    }
}

/// For messages: without user, password and parameters.
impl Display for Server {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.service {
            #[cfg(feature = "etcd")]
            Service::Etcd => write!(f, "{}/{}", self.reference(), self.prefix),
            #[cfg(feature = "postgres")]
            Service::Postgres(login) => write!(f, "postgres://{}/{}", self.hosts(), login.database),
            #[cfg(feature = "redis")]
            Service::Redis(_) => f.write_str(&self.reference()),
        }
    }
}

/// The source of a URL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `--store`, which all users of the host can read.
    CommandLine,
    /// `LOCKRUN_STORE`.
    Environment,
    /// A token.
    Token,
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "--store",
            Self::Environment => "LOCKRUN_STORE",
            Self::Token => "the token's store",
        })
    }
}

/// What a URL means.
pub enum Store {
    /// Lock files on this machine.
    Files,
    /// A server.
    Server(Box<Server>),
}

/// Reads a URL; `variable` looks up etcd's own environment variables. An error says
/// what is wrong and what to write, without the password.
pub fn parse(url: &str, origin: Origin, variable: impl Fn(&str) -> Option<String>) -> Result<Store, String> {
    read(url, origin, &variable).map_err(|error| format!("{origin}={}: {error}", shown(url)))
}

fn read(url: &str, origin: Origin, variable: Variable<'_>) -> Result<Store, String> {
    if url.is_empty() {
        return Err(format!("it is empty; {FORMS}, or leave it out"));
    }
    let Some((scheme, rest)) = url.split_once(':') else { return Err(format!("this is not a URL; {FORMS}")) };
    let server = match scheme {
        "file" if rest.is_empty() => return Ok(Store::Files),
        "file" => return Err("file: means the default directory; for another one give --dir DIR".into()),
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => super::etcd::url::read(rest, scheme == "etcds", origin, variable)?,
        #[cfg(not(feature = "etcd"))]
        "etcd" | "etcds" => return Err("this lockrun was built without etcd (cargo feature etcd)".into()),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => super::postgres::url::read(rest, origin, variable)?,
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => {
            return Err("this lockrun was built without PostgreSQL (cargo feature postgres)".into());
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "valkey" | "valkeys" => super::redis::url::read(scheme, rest, origin, variable)?,
        #[cfg(not(feature = "redis"))]
        "redis" | "rediss" | "valkey" | "valkeys" => {
            return Err("this lockrun was built without Redis (cargo feature redis)".into());
        }
        _ => return Err(format!("the scheme {scheme} is unknown; {FORMS}")),
    };
    Ok(Store::Server(Box::new(server)))
}

/// The URL without what may be a password.
fn shown(url: &str) -> String {
    let (start, rest) = url.split_once("//").unwrap_or(("", url));
    let slashes = if start.is_empty() { "" } else { "//" };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    // An @ after a slash: a password that was not encoded.
    let rest = match rest.rfind('@') {
        Some(at) => format!("...@{}", &rest[at + 1..]),
        None => rest[..end].to_owned() + rest[end..].split('?').next().unwrap_or_default(),
    };
    format!("{start}{slashes}{}", rest.split('?').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parts::{CONNECT, TTL};
    use super::*;

    fn server(url: &str) -> Result<Server, String> {
        with(url, Origin::Environment, &[])
    }

    fn with(url: &str, origin: Origin, variables: &[(&str, &str)]) -> Result<Server, String> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        match parse(url, origin, variable)? {
            Store::Server(server) => Ok(*server),
            Store::Files => Err("files".into()),
        }
    }

    fn error(url: &str) -> String {
        server(url).err().unwrap_or_else(|| panic!("{url} is accepted"))
    }

    #[test]
    fn hosts_prefix_and_parameters() {
        let read = server("etcd://a:2379,b,[::1]:99/jobs/nightly?ttl=5&connect=500ms").ok().unwrap();
        assert_eq!(read.to_string(), "etcd://a:2379,b:2379,[::1]:99/jobs/nightly");
        assert_eq!((read.ttl, read.connect), (Duration::from_secs(5), Duration::from_millis(500)));
        let plain = server("etcd://a").ok().unwrap();
        assert_eq!((plain.prefix.as_str(), plain.ttl, plain.connect), ("lockrun", TTL, CONNECT));
        assert!(plain.tls.is_none() && plain.account.is_none());
        assert_eq!(server("etcd://a/j%6Fbs/").ok().unwrap().prefix, "jobs");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        for wrong in [
            "",
            "a:2379",
            "etcd",
            "etcd:a",
            "etcd://",
            "etcd://:2379",
            "etcd://a:0",
            "etcd://a:x",
            "etcd://a,,b",
            "etcd://::1",
            "etcd://[::1",
            "etcd://[x]",
            "etcd://a b",
            "etcd://a#b",
            "http://a",
            "etcd://a//b",
            "file:///x",
            "etcd://a?ttl=1",
            "etcd://a?ttl=2d",
            "etcd://a?x=1",
            "etcd://a?ttl",
            "etcd://a?cacert=/c",
            "etcds://a?cert=/c",
            "etcd://u@a",
            "etcd://a?password-file=/f",
            "etcd://u:p@a?user=v",
            "etcd://u:p@a?password-file=/f",
            "etcd://a/%zz",
            "postgres:///b",
            "redis://a/b",
            "valkeys:a",
            "ETCD://a",
        ] {
            assert!(error(wrong).starts_with("LOCKRUN_STORE="), "{wrong}");
        }
        assert!(error("http://a").contains("etcd://HOST"));
    }

    #[test]
    fn a_password_is_never_shown_and_never_taken_from_the_command_line() {
        for url in
            ["etcd://u:geheim@a:x", "etcd://u:ge/geheim@a:x", "etcd://u:geheim@a?x=1", "foo://u:geheim@a", "u:geheim@a"]
        {
            assert!(!error(url).contains("geheim"), "{}", error(url));
        }
        let refused = with("etcd://u:geheim@a", Origin::CommandLine, &[]).err().unwrap();
        assert!(refused.contains("password-file") && !refused.contains("geheim"), "{refused}");
        assert!(!server("etcd://u:geheim@a").ok().unwrap().to_string().contains("geheim"));
    }

    #[test]
    fn where_a_password_comes_from() {
        let word = |url, variables: &[(&str, &str)]| {
            let account = with(url, Origin::Environment, variables).ok().unwrap().account.unwrap();
            (account.user.clone(), account.password().map(|word| word.reveal().to_owned()))
        };
        assert_eq!(word("etcd://u:a%40b@h", &[]), ("u".into(), Ok("a@b".into())));
        assert_eq!(word("etcd://h", &[("ETCDCTL_USER", "root:x:y")]), ("root".into(), Ok("x:y".into())));
        assert_eq!(word("etcd://u@h", &[("ETCDCTL_PASSWORD", "p")]), ("u".into(), Ok("p".into())));
        let file = std::env::temp_dir().join(format!("lockrun-password-{}", std::process::id()));
        std::fs::write(&file, "first\n").unwrap();
        let url = format!("etcd://h?user=u&password-file={}", file.display());
        let account = with(&url, Origin::CommandLine, &[]).ok().unwrap().account.unwrap();
        assert_eq!(account.password().ok().unwrap().reveal(), "first");
        std::fs::write(&file, "second").unwrap();
        assert_eq!(account.password().ok().unwrap().reveal(), "second");
        std::fs::remove_file(&file).unwrap();
        assert!(account.password().is_err());
    }

    #[test]
    fn tls_by_the_scheme_and_etcdctls_variables() {
        let read = with(
            "etcds://a",
            Origin::Environment,
            &[("ETCDCTL_CACERT", "/ca"), ("ETCDCTL_CERT", "/c"), ("ETCDCTL_KEY", "/k")],
        );
        let tls = read.ok().unwrap().tls.unwrap();
        assert_eq!((tls.cacert, tls.identity), (Some("/ca".into()), Some(("/c".into(), "/k".into()))));
        assert!(with("etcd://a", Origin::Environment, &[("ETCDCTL_CACERT", "/ca")]).ok().unwrap().tls.is_none());
    }

    proptest! {
        #[test]
        fn no_url_makes_it_panic(url in ".{0,40}", tail in "[a-z/?&=%@:,0-9\\[\\]]{0,40}") {
            let _ = parse(&url, Origin::Environment, |_| None);
            let _ = parse(&format!("etcd://{tail}"), Origin::CommandLine, |_| None);
        }
    }
}
