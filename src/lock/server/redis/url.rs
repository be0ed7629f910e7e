//! `redis://`, `rediss://` and the same with `valkey`, with what redis-cli's environment
//! adds.

use super::login::Login;
use crate::duration;
use crate::lock::server::account::{Account, Secret};
use crate::lock::server::url::parts::{Credentials, PREFIX, Parts, address, decode, file_in};
use crate::lock::server::url::{Origin, Server, Service, Variable};

const PORT: u16 = 6379;
/// Everybody's name where a password has none.
const ANYBODY: &str = "default";
const LONGEST_PREFIX: usize = 200;

/// Reads what follows the scheme and its colon. An error says what is wrong and what to
/// write, without the password.
pub fn read(scheme: &str, rest: &str, origin: Origin, variable: Variable<'_>) -> Result<Server, String> {
    let is_secret = ["rediss", "valkeys"].contains(&scheme);
    let mut parts = Parts::read(rest, &["prefix", "grace"])?;
    let addresses = parts.hosts.split(',').map(|host| address(host, PORT)).collect::<Result<Vec<_>, _>>()?;
    let mut files = std::mem::take(&mut parts.parameters.tls);
    if !is_secret && (files.cacert.is_some() || files.cert.is_some() || files.key.is_some()) {
        return Err("cacert, cert and key belong to TLS: write rediss:// or valkeys://".into());
    }
    files.cacert = files.cacert.or_else(|| file_in(variable, "SSL_CERT_FILE"));
    let files = files.into_files()?;
    let account = account(&mut parts, origin, variable)?;
    let grace = parts.parameters.own("grace").map(|grace| duration::parse(grace).map_err(|e| format!("grace: {e}")));
    let scheme = if scheme.starts_with("valkey") { "valkey" } else { "redis" };
    Ok(Server {
        service: Service::Redis(Box::new(Login {
            scheme,
            database: database(parts.path)?,
            grace: grace.transpose()?,
            account: None,
        })),
        addresses,
        tls: is_secret.then_some(files),
        account,
        prefix: prefix(parts.parameters.own("prefix").unwrap_or(PREFIX))?,
        ttl: parts.parameters.ttl(),
        connect: parts.parameters.connect(),
    })
}

fn database(path: &str) -> Result<u32, String> {
    match decode(path.strip_suffix('/').unwrap_or(path))?.as_str() {
        "" => Ok(0),
        number => number.parse().map_err(|_| format!("/{number} is not the number of a database; see ?prefix=")),
    }
}

fn prefix(prefix: &str) -> Result<String, String> {
    let is_plain = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:/{}".contains(&byte));
    match is_plain && prefix.len() <= LONGEST_PREFIX {
        true => Ok(prefix.into()),
        false => Err(format!("prefix={prefix}: only letters, digits and . _ - : / {{ }}, at most {LONGEST_PREFIX}")),
    }
}

fn account(parts: &mut Parts<'_>, origin: Origin, variable: Variable<'_>) -> Result<Option<Account>, String> {
    let Credentials { user, password } =
        parts.credentials(origin, "give ?password-file=FILE, or set REDISCLI_AUTH or LOCKRUN_STORE")?;
    let user = user.filter(|user| !user.is_empty());
    let name = user.clone().unwrap_or_else(|| ANYBODY.into());
    if let (None, Some(path)) = (&password, parts.parameters.password_file.take()) {
        return Ok(Some(Account::in_file(name, path)));
    }
    let environment = || variable("REDISCLI_AUTH").filter(|word| !word.is_empty());
    match (password.or_else(environment), user) {
        (Some(word), _) => Ok(Some(Account::given(name, Secret::new(word)))),
        (None, None) => Ok(None),
        // redis-cli would take it for the password, and messages would show it.
        (None, Some(_)) => Err("the user has no password; give password-file=FILE or REDISCLI_AUTH, or write \
                                :PASSWORD@ for a password without a user"
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str, variables: &[(&str, &str)]) -> Result<Server, String> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let (scheme, rest) = url.split_once(':').unwrap();
        read(scheme, rest, Origin::Environment, &find)
    }

    #[test]
    fn database_prefix_and_grace() {
        let server = with("redis://a,b:7000/3?prefix=jobs:&grace=0&ttl=5", &[]).unwrap();
        let hosts: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
        assert_eq!((hosts.join(" ").as_str(), server.prefix.as_str()), ("a:6379 b:7000", "jobs:"));
        assert_eq!(server.reference(), "redis://a:6379,b:7000/3");
        assert_eq!(with("valkeys://a", &[]).unwrap().reference(), "valkeys://a:6379/0");
        assert!(with("rediss://a", &[]).unwrap().tls.is_some());
        assert!(with("redis://a", &[("SSL_CERT_FILE", "/ca")]).unwrap().tls.is_none());
    }

    #[test]
    fn where_a_password_comes_from() {
        let word = |url, variables: &[(&str, &str)]| {
            let account = with(url, variables).unwrap().account.unwrap();
            (account.user.clone(), account.password().unwrap().reveal().to_owned())
        };
        let is = |user: &str, word: &str| (user.to_owned(), word.to_owned());
        assert_eq!(word("redis://:p%40@a", &[]), is("default", "p@"));
        assert_eq!(word("redis://u:p@a", &[("REDISCLI_AUTH", "q")]), is("u", "p"));
        assert_eq!(word("redis://a", &[("REDISCLI_AUTH", "q")]), is("default", "q"));
        assert_eq!(word("redis://a?user=u", &[("REDISCLI_AUTH", "q")]), is("u", "q"));
        assert!(with("redis://a", &[]).unwrap().account.is_none());
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (url, what) in [
            ("redis:a", "// is missing"),
            ("redis://", "a host is missing"),
            ("redis://a/db", "not the number of a database"),
            ("redis://a/-1", "not the number of a database"),
            ("redis://a?cacert=/c", "write rediss://"),
            ("redis://a?prefix=a*", "only letters"),
            ("redis://a?grace=x", "grace:"),
            ("redis://geheim@a", ":PASSWORD@"),
            ("redis://a?ttl=1", "at least 2 seconds"),
            ("redis://a?evict=risk", "the parameter evict is unknown"),
        ] {
            let error = with(url, &[]).err().unwrap_or_default();
            assert!(error.contains(what) && !error.contains("geheim"), "{url}: {error}");
        }
    }
}
