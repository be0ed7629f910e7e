//! What `--store` and LOCKRUN_STORE may say.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

use super::account::{Account, Secret};
use crate::duration;
use crate::net::{Address, TlsFiles};

/// How long a server keeps the lock of a host that it does not hear from.
pub(super) const TTL: Duration = Duration::from_secs(20);
/// Ordinary delays would end shorter leases.
const SHORTEST_TTL: Duration = Duration::from_secs(2);
/// A lock that is stuck for longer after a crash helps nobody.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long all addresses are tried for the first answer.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
const ETCD_PORT: u16 = 2379;
/// Prefix of a URL without path.
pub(super) const PREFIX: &str = "lockrun";
/// For error messages.
pub(super) const FORMS: &str = "write etcd://HOST[:2379][,HOST...][/PREFIX], etcds://... for TLS, \
                     postgres://[USER@]HOST[:5432][,HOST...][/DATABASE], or file: for lock files";

/// A kind of server, and what only such a one needs.
#[derive(Clone, PartialEq, Eq)]
pub enum Service {
    /// etcd.
    Etcd,
    /// PostgreSQL: as whom to log in, and where. [`Server::prefix`] is the schema.
    #[cfg(feature = "postgres")]
    Postgres(Box<super::postgres::login::Login>),
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
            Service::Etcd => format!("{}://{}", if self.tls.is_some() { "etcds" } else { "etcd" }, self.hosts()),
            #[cfg(feature = "postgres")]
            Service::Postgres(login) => login.url(&self.hosts()),
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
            Service::Etcd => write!(f, "{}/{}", self.reference(), self.prefix),
            #[cfg(feature = "postgres")]
            Service::Postgres(login) => write!(f, "postgres://{}/{}", self.hosts(), login.database),
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
    parts(url, origin, &variable).map_err(|error| format!("{origin}={}: {error}", shown(url)))
}

fn parts(url: &str, origin: Origin, variable: &dyn Fn(&str) -> Option<String>) -> Result<Store, String> {
    if url.is_empty() {
        return Err(format!("it is empty; {FORMS}, or leave it out"));
    }
    let Some((scheme, rest)) = url.split_once(':') else { return Err(format!("this is not a URL; {FORMS}")) };
    let tls = match scheme {
        "etcd" => false,
        "etcds" => true,
        "file" if rest.is_empty() => return Ok(Store::Files),
        "file" => return Err("file: means the default directory; for another one give --dir DIR".into()),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let server = crate::lock::server::postgres::url::read(rest, origin, variable)?;
            return Ok(Store::Server(Box::new(server)));
        }
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => {
            return Err("this lockrun was built without PostgreSQL (cargo feature postgres)".into());
        }
        "redis" | "rediss" | "valkey" | "valkeys" => {
            return Err(format!("this version has no Redis and no Valkey yet; {FORMS}"));
        }
        _ => return Err(format!("the scheme {scheme} is unknown; {FORMS}")),
    };
    if cfg!(not(feature = "etcd")) {
        return Err("this lockrun was built without etcd (cargo feature etcd)".into());
    }
    let Some(rest) = rest.strip_prefix("//") else { return Err(format!("// is missing; {FORMS}")) };
    if rest.contains('#') {
        return Err("a # has no meaning here; write %23 in a prefix or password".into());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let addresses = hosts.split(',').map(|host| address(host, ETCD_PORT)).collect::<Result<Vec<_>, _>>()?;
    let mut parameters = Parameters::read(query)?;
    if !tls && (parameters.cacert.is_some() || parameters.cert.is_some() || parameters.key.is_some()) {
        return Err("cacert, cert and key belong to TLS: write etcds://".into());
    }
    parameters.fill_in(tls, variable);
    let identity = match (parameters.cert.take(), parameters.key.take()) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err("cert and key go together".into()),
    };
    Ok(Store::Server(Box::new(Server {
        service: Service::Etcd,
        addresses,
        tls: tls.then_some(TlsFiles { cacert: parameters.cacert.take(), identity, trusts_anybody: false }),
        account: account(login, &mut parameters, origin, variable)?,
        prefix: prefix(path)?,
        ttl: parameters.ttl.unwrap_or(TTL),
        connect: parameters.connect.unwrap_or(CONNECT),
    })))
}

pub(super) fn address(text: &str, default_port: u16) -> Result<Address, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, rest)) = rest.split_once(']') else { return Err(format!("{text}: ] is missing")) };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("{host} is not an IPv6 address"));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(format!("{text}: only a port may follow ]")),
            }
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(format!("a host is missing; {FORMS}"));
    }
    if port.is_some_and(|port| port.contains(':')) {
        return Err(format!("{text}: write an IPv6 address in brackets, [::1]"));
    }
    if !text.starts_with('[') && !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return Err(format!("{host} is not a host name"));
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(port @ 1..) => port,
            _ => return Err(format!("{port} is not a port")),
        },
    };
    Ok(Address { host: host.into(), port })
}

fn prefix(path: &str) -> Result<String, String> {
    let prefix = decode(path.strip_suffix('/').unwrap_or(path))?;
    if prefix.starts_with('/') || prefix.contains("//") || prefix.chars().any(char::is_control) {
        return Err("the prefix has an empty part or a control character".into());
    }
    Ok(if prefix.is_empty() { PREFIX.into() } else { prefix })
}

/// What may follow `?`.
#[derive(Default)]
struct Parameters {
    ttl: Option<Duration>,
    connect: Option<Duration>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Parameters {
    fn read(query: &str) -> Result<Self, String> {
        let mut parameters = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = decode(value)?;
            if value.is_empty() {
                return Err(format!("the parameter {name} has no value"));
            }
            match name {
                "ttl" => parameters.ttl = Some(ttl(&value)?),
                "connect" => parameters.connect = Some(duration::parse(&value).map_err(|e| format!("connect: {e}"))?),
                "user" => parameters.user = Some(value),
                "password-file" => parameters.password_file = Some(absolute(value)),
                "cacert" => parameters.cacert = Some(absolute(value)),
                "cert" => parameters.cert = Some(absolute(value)),
                "key" => parameters.key = Some(absolute(value)),
                "password" => return Err("a password is not a parameter; give password-file=FILE".into()),
                _ => {
                    let known = "ttl, connect, user, password-file, cacert, cert, key";
                    return Err(format!("the parameter {name} is unknown; the parameters are {known}"));
                }
            }
        }
        Ok(parameters)
    }

    /// etcdctl's variables fill in what the URL leaves out.
    fn fill_in(&mut self, tls: bool, variable: &dyn Fn(&str) -> Option<String>) {
        let file = |name| variable(name).filter(|value| !value.is_empty()).map(absolute);
        if tls {
            // The keeper has no environment where rustls could find the last one.
            let cacert = || file("ETCDCTL_CACERT").or_else(|| file("SSL_CERT_FILE"));
            self.cacert = self.cacert.take().or_else(cacert);
            if self.cert.is_none() && self.key.is_none() {
                self.cert = file("ETCDCTL_CERT");
                self.key = file("ETCDCTL_KEY");
            }
        }
    }
}

pub(super) fn ttl(value: &str) -> Result<Duration, String> {
    match duration::parse(value).map_err(|error| format!("ttl: {error}"))? {
        ttl if ttl < SHORTEST_TTL => Err("ttl: at least 2 seconds".into()),
        ttl if ttl > LONGEST_TTL => Err("ttl: at most a day".into()),
        ttl => Ok(ttl),
    }
}

fn account(
    login: Option<&str>,
    parameters: &mut Parameters,
    origin: Origin,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Account>, String> {
    let (mut user, mut given) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, word)) => (Some(decode(user)?), Some(decode(word)?).filter(|word| !word.is_empty())),
        None => (None, None),
    };
    if given.is_some() && origin == Origin::CommandLine {
        return Err("everybody on this machine can read a password on the command line; \
            give ?password-file=FILE, or set LOCKRUN_STORE"
            .into());
    }
    match (&user, parameters.user.take()) {
        (Some(_), Some(_)) => return Err("the user is given twice".into()),
        (None, name) => user = name,
        _ => {}
    }
    if given.is_some() && parameters.password_file.is_some() {
        return Err("the password is given twice: in the URL and as password-file".into());
    }
    if user.is_none() && parameters.password_file.is_none() {
        // USER or USER:PASSWORD, as etcdctl reads it.
        if let Some(both) = variable("ETCDCTL_USER").filter(|both| !both.is_empty()) {
            let (name, word) = both.split_once(':').unwrap_or((&both, ""));
            user = Some(name.into());
            given = Some(word.to_owned()).filter(|word| !word.is_empty());
        }
    }
    let Some(user) = user.filter(|user| !user.is_empty()) else {
        return match given.is_some() || parameters.password_file.is_some() {
            true => Err("a password without a user; give user=NAME".into()),
            false => Ok(None),
        };
    };
    let environment = || variable("ETCDCTL_PASSWORD").filter(|word| !word.is_empty());
    match (given, parameters.password_file.take()) {
        (Some(word), _) => Ok(Some(Account::given(user, Secret::new(word)))),
        (None, Some(path)) => Ok(Some(Account::in_file(user, path))),
        (None, None) => match environment() {
            Some(word) => Ok(Some(Account::given(user, Secret::new(word)))),
            None => Err(format!("the user {user} has no password; give password-file=FILE")),
        },
    }
}

/// The keeper changes its directory.
pub(super) fn absolute(path: String) -> PathBuf {
    let path = PathBuf::from(path);
    std::path::absolute(&path).unwrap_or(path)
}

pub(super) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit().zip(digit()).map(|(high, low)| (high * 16 + low) as u8);
        decoded.push(value.ok_or("a % stands before two hexadecimal digits; write %25 for % itself")?);
    }
    String::from_utf8(decoded).map_err(|_| "its % sequences are not UTF-8".into())
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
            "redis://a",
            "valkeys://a",
            "ETCD://a",
        ] {
            assert!(error(wrong).starts_with("LOCKRUN_STORE="), "{wrong}");
        }
        assert!(error("http://a").contains("etcd://HOST"));
        assert!(error("redis://a").contains("this version has no Redis"));
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
