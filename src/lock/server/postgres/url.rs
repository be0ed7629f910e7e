//! `postgres://`, with what libpq's environment adds.

use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::login::Login;
use crate::lock::server::account::{Account, Secret};
use crate::lock::server::url::parts::{Certificates, PREFIX, Parts, address, decode, file_in};
use crate::lock::server::url::{FORMS, Origin, Server, Service, Variable};
use crate::net::{Address, TlsFiles};
use crate::users;

const PORT: u16 = 5432;
/// A socket's name, before the port.
const SOCKET: &str = "/.s.PGSQL.";
/// The longest name that PostgreSQL does not cut.
const LONGEST_SCHEMA: usize = 63;

/// Reads what follows the scheme and its colon. An error says what is wrong and what to
/// write, without the password.
pub fn read(rest: &str, origin: Origin, variable: Variable<'_>) -> Result<Server, String> {
    let variable: Variable<'_> = &|name| variable(name).filter(|value| !value.is_empty());
    let mut parts = Parts::read(rest, &["host", "schema", "sslmode"])?;
    let addresses = addresses(parts.hosts, parts.parameters.own("host"), variable)?;
    let given = parts.credentials(origin, "give ?password-file=FILE, use ~/.pgpass, or set LOCKRUN_STORE")?;
    let user = given.user.filter(|user| !user.is_empty()).or_else(|| variable("PGUSER"));
    let Some(user) = user.or_else(|| users::name_of(geteuid().as_raw())) else {
        return Err("who to log in as is not known; give user=NAME".into());
    };
    let database = Some(decode(parts.path.strip_suffix('/').unwrap_or(parts.path))?).filter(|name| !name.is_empty());
    let database = database.or_else(|| variable("PGDATABASE")).unwrap_or_else(|| user.clone());
    let account = match (given.password, parts.parameters.password_file.take()) {
        (None, Some(path)) => Some(Account::in_file(user.clone(), path)),
        (password, _) => {
            password.or_else(|| variable("PGPASSWORD")).map(|word| Account::given(user.clone(), Secret::new(word)))
        }
    };
    let passfile = variable("PGPASSFILE").map(PathBuf::from);
    let passfile = passfile.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".pgpass")));
    let is_local = addresses.iter().all(Address::is_local);
    let files = with_environment(std::mem::take(&mut parts.parameters.tls), variable).into_files()?;
    let parameters = parts.parameters;
    let mode = parameters.own("sslmode").map(str::to_owned).or_else(|| variable("PGSSLMODE"));
    Ok(Server {
        service: Service::Postgres(Box::new(Login::new(user, database, passfile))),
        addresses,
        tls: tls(mode.as_deref(), files, is_local)?,
        account,
        prefix: schema(parameters.own("schema").unwrap_or(PREFIX))?,
        ttl: parameters.ttl(),
        connect: parameters.connect(),
    })
}

fn with_environment(given: Certificates, variable: Variable<'_>) -> Certificates {
    Certificates {
        cacert: given.cacert.or_else(|| file_in(variable, "PGSSLROOTCERT")),
        cert: given.cert.or_else(|| file_in(variable, "PGSSLCERT")),
        key: given.key.or_else(|| file_in(variable, "PGSSLKEY")),
    }
}

fn addresses(hosts: &str, host: Option<&str>, variable: Variable<'_>) -> Result<Vec<Address>, String> {
    let port = match variable("PGPORT") {
        Some(port) => port.parse().map_err(|_| format!("PGPORT: {port} is not a port"))?,
        None => PORT,
    };
    let elsewhere = || host.map(str::to_owned).or_else(|| variable("PGHOST"));
    let hosts = match hosts {
        "" => elsewhere().ok_or_else(|| format!("a host is missing; {FORMS}, or ?host=/run/postgresql"))?,
        hosts if host.is_none() => decode(hosts)?,
        _ => return Err("the host is given twice".into()),
    };
    hosts
        .split(',')
        .map(|host| match Path::new(host).is_absolute() {
            // As a token names it.
            true if host.contains(SOCKET) => Ok(Address { host: host.into(), port }),
            true => Ok(Address { host: format!("{host}{SOCKET}{port}"), port }),
            false => address(host, port),
        })
        .collect()
}

/// Without a certificate to check the server's by, TLS is no proof of who it is, but
/// still better than none. Nothing falls back to plain text on the way to another
/// machine.
fn tls(mode: Option<&str>, files: TlsFiles, is_local: bool) -> Result<Option<TlsFiles>, String> {
    let verified = |files: TlsFiles| Some(TlsFiles { trusts_anybody: false, ..files });
    Ok(match mode {
        None if files.cacert.is_some() => verified(files),
        None if is_local => None,
        None | Some("require") => Some(TlsFiles { trusts_anybody: files.cacert.is_none(), ..files }),
        Some("verify-full") => verified(files),
        Some("disable") => None,
        Some("prefer" | "allow") if is_local => None,
        Some(mode @ ("prefer" | "allow")) => {
            return Err(format!("sslmode={mode} can end in plain text; write require, verify-full or disable"));
        }
        Some(mode) => return Err(format!("sslmode={mode} is unknown; there are disable, require, verify-full")),
    })
}

/// What a token says of TLS where its hosts alone would mean something else.
pub fn tls_of_token(server: &Server) -> &'static str {
    let is_local = server.addresses.iter().all(Address::is_local);
    match &server.tls {
        None if is_local => "",
        None => "?sslmode=disable",
        Some(files) if !files.trusts_anybody && files.cacert.is_none() => "?sslmode=verify-full",
        Some(_) if is_local => "?sslmode=require",
        Some(_) => "",
    }
}

fn schema(name: &str) -> Result<String, String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match is_plain && name.len() <= LONGEST_SCHEMA {
        true => Ok(name.into()),
        false => Err(format!("schema={name}: only letters, digits and _, at most {LONGEST_SCHEMA}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str, variables: &[(&str, &str)]) -> Result<Server, String> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        read(url, Origin::Environment, &find)
    }

    fn login(server: &Server) -> (String, String) {
        match &server.service {
            Service::Postgres(login) => (login.user.clone(), login.database.clone()),
            _ => panic!("not PostgreSQL"),
        }
    }

    fn hosts(server: &Server) -> Vec<String> {
        server.addresses.iter().map(Address::to_string).collect()
    }

    #[test]
    fn the_url_says_more_than_the_environment() {
        let environment = [("PGUSER", "eve"), ("PGDATABASE", "other"), ("PGHOST", "/run/pg"), ("PGPORT", "5433")];
        let server = with("//deploy@a,b:5444/app?schema=jobs&ttl=5", &environment).unwrap();
        assert_eq!(login(&server), ("deploy".into(), "app".into()));
        assert_eq!(hosts(&server), ["a:5433", "b:5444"]);
        assert_eq!((server.prefix.as_str(), server.ttl.as_secs()), ("jobs", 5));
        let server = with("//", &environment).unwrap();
        assert_eq!(login(&server), ("eve".into(), "other".into()));
        assert_eq!(hosts(&server), ["/run/pg/.s.PGSQL.5433"]);
        let server = with("///app?host=/tmp&user=me", &[]).unwrap();
        assert_eq!((login(&server), hosts(&server)), (("me".into(), "app".into()), vec!["/tmp/.s.PGSQL.5432".into()]));
    }

    #[test]
    fn a_token_names_the_same_database() {
        for url in ["//me@a,[::1]:5433/app", "///my%20app?host=/run/pg&user=a%40b"] {
            let server = with(url, &[]).unwrap();
            let again = with(server.reference().strip_prefix("postgres:").unwrap(), &[]).unwrap();
            assert_eq!((login(&server), hosts(&server)), (login(&again), hosts(&again)), "{url}");
        }
        for host in ["localhost", "db"] {
            for mode in ["disable", "require", "verify-full"] {
                let server = with(&format!("//me@{host}?sslmode={mode}"), &[]).unwrap();
                let again = with(server.reference().strip_prefix("postgres:").unwrap(), &[]).unwrap();
                assert_eq!(server.tls, again.tls, "{host} {mode}");
            }
        }
    }

    #[test]
    fn nothing_falls_back_to_plain_text() {
        let tls = |url: &str, variables: &[(&str, &str)]| {
            with(url, variables).map(|server| server.tls.map(|files| files.trusts_anybody))
        };
        for local in ["//localhost", "//127.0.0.1", "//[::1]", "///?host=/run/pg", "//localhost?sslmode=prefer"] {
            assert_eq!(tls(local, &[("PGUSER", "me")]), Ok(None), "{local}");
        }
        let me = [("PGUSER", "me")];
        assert_eq!(tls("//db", &me), Ok(Some(true)));
        assert_eq!(tls("//localhost,db", &me), Ok(Some(true)));
        assert_eq!(tls("//db?cacert=/ca", &me), Ok(Some(false)));
        assert_eq!(tls("//localhost?cacert=/ca", &me), Ok(Some(false)));
        assert_eq!(tls("//db?sslmode=require&cacert=/ca", &me), Ok(Some(false)));
        assert_eq!(tls("//db?sslmode=verify-full", &me), Ok(Some(false)));
        assert_eq!(tls("//db?sslmode=disable", &me), Ok(None));
        for wrong in ["//db?sslmode=prefer", "//db?sslmode=allow", "//db?sslmode=verify-ca", "//db?cert=/c"] {
            assert!(tls(wrong, &me).is_err(), "{wrong}");
        }
        assert!(tls("//db", &[("PGSSLMODE", "prefer"), ("PGUSER", "me")]).is_err());
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (url, what) in [
            ("db", "// is missing"),
            ("///app", "a host is missing"),
            ("//a?host=b", "the host is given twice"),
            ("//a@b?user=c", "the user is given twice"),
            ("//a:b@c?password-file=d", "the password is given twice"),
            ("//a?password=b", "a password is not a parameter"),
            ("//a?port=1", "the parameter port is unknown"),
            ("//a?schema=b-c", "only letters"),
            ("//a?ttl=1", "at least 2 seconds"),
        ] {
            let error = with(url, &[("PGUSER", "me")]).err().unwrap_or_default();
            assert!(error.contains(what), "{url}: {error}");
        }
        let public = read("//a:b@c", Origin::CommandLine, &|_| None).err().unwrap_or_default();
        assert!(public.contains("everybody"), "{public}");
    }
}
