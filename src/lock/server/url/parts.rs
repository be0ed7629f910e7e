//! What the URLs of all servers have in common:
//! `//[USER[:PASSWORD]@]HOSTS[/PATH][?PARAMETER=VALUE&...]`.

use std::path::PathBuf;
use std::time::Duration;

use super::{FORMS, Origin, Variable};
use crate::duration;
use crate::net::{Address, TlsFiles};

/// How long a server keeps the lock of a host that it does not hear from.
pub const TTL: Duration = Duration::from_secs(20);
/// Ordinary delays would end shorter leases.
const SHORTEST_TTL: Duration = Duration::from_secs(2);
/// A lock that is stuck for longer after a crash helps nobody.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long all addresses are tried for the first answer.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Prefix, or schema, where the URL names none.
pub const PREFIX: &str = "lockrun";
/// The parameters of every server.
const COMMON: [&str; 7] = ["ttl", "connect", "user", "password-file", "cacert", "cert", "key"];

/// A URL behind its scheme.
pub struct Parts<'a> {
    login: Option<&'a str>,
    /// Not decoded.
    pub hosts: &'a str,
    /// Not decoded.
    pub path: &'a str,
    /// What follows `?`.
    pub parameters: Parameters,
}

/// What follows `?`.
#[derive(Default)]
pub struct Parameters {
    ttl: Option<Duration>,
    connect: Option<Duration>,
    user: Option<String>,
    /// Where the password is.
    pub password_file: Option<PathBuf>,
    /// Certificates.
    pub tls: Certificates,
    own: Vec<(&'static str, String)>,
}

/// Files for TLS.
#[derive(Default)]
pub struct Certificates {
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Who to log in as, as far as the URL says.
pub struct Credentials {
    pub user: Option<String>,
    /// Not empty.
    pub password: Option<String>,
}

impl<'a> Parts<'a> {
    /// Takes a URL apart behind its scheme and colon. `own`: the parameters of this kind
    /// of server.
    pub fn read(rest: &'a str, own: &[&'static str]) -> Result<Self, String> {
        let Some(rest) = rest.strip_prefix("//") else { return Err(format!("// is missing; {FORMS}")) };
        if rest.contains('#') {
            return Err("a # has no meaning here; write %23 in a name, prefix or password".into());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        Ok(Self { login, hosts, path, parameters: Parameters::read(query, own)? })
    }

    /// Fails on a password that everybody can read: `instead` is what to do then.
    pub fn credentials(&mut self, origin: Origin, instead: &str) -> Result<Credentials, String> {
        let (user, password) = match self.login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, word)) => (Some(decode(user)?), Some(decode(word)?).filter(|word| !word.is_empty())),
            None => (None, None),
        };
        if password.is_some() && origin == Origin::CommandLine {
            return Err(format!("everybody on this machine can read a password on the command line; {instead}"));
        }
        let user = match (user, self.parameters.user.take()) {
            (Some(_), Some(_)) => return Err("the user is given twice".into()),
            (user, name) => user.or(name),
        };
        if password.is_some() && self.parameters.password_file.is_some() {
            return Err("the password is given twice: in the URL and as password-file".into());
        }
        Ok(Credentials { user, password })
    }
}

impl Parameters {
    fn read(query: &str, own: &[&'static str]) -> Result<Self, String> {
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
                "cacert" => parameters.tls.cacert = Some(absolute(value)),
                "cert" => parameters.tls.cert = Some(absolute(value)),
                "key" => parameters.tls.key = Some(absolute(value)),
                "password" => return Err("a password is not a parameter; give password-file=FILE".into()),
                _ => match own.iter().find(|own| **own == name) {
                    Some(name) => parameters.own.push((name, value)),
                    None => {
                        let known = [&COMMON, own].concat().join(", ");
                        return Err(format!("the parameter {name} is unknown; the parameters are {known}"));
                    }
                },
            }
        }
        Ok(parameters)
    }

    /// The lease's length.
    pub fn ttl(&self) -> Duration {
        self.ttl.unwrap_or(TTL)
    }

    /// How long to try for the first answer.
    pub fn connect(&self) -> Duration {
        self.connect.unwrap_or(CONNECT)
    }

    /// A parameter of this kind of server. The last one counts.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub fn own(&self, name: &str) -> Option<&str> {
        self.own.iter().rev().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }
}

impl Certificates {
    /// For connections.
    pub fn into_files(self) -> Result<TlsFiles, String> {
        let identity = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("cert and key go together".into()),
        };
        Ok(TlsFiles { cacert: self.cacert, identity, trusts_anybody: false })
    }
}

/// A file that an environment variable names.
pub fn file_in(variable: Variable<'_>, name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(absolute)
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
pub fn address(text: &str, default_port: u16) -> Result<Address, String> {
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

fn ttl(value: &str) -> Result<Duration, String> {
    match duration::parse(value).map_err(|error| format!("ttl: {error}"))? {
        ttl if ttl < SHORTEST_TTL => Err("ttl: at least 2 seconds".into()),
        ttl if ttl > LONGEST_TTL => Err("ttl: at most a day".into()),
        ttl => Ok(ttl),
    }
}

/// The keeper changes its directory.
fn absolute(path: String) -> PathBuf {
    let path = PathBuf::from(path);
    std::path::absolute(&path).unwrap_or(path)
}

/// Without `%` sequences.
pub fn decode(text: &str) -> Result<String, String> {
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
