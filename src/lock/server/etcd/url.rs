//! `etcd://` and `etcds://`, with what etcdctl's environment adds.

use crate::lock::server::account::{Account, Secret};
use crate::lock::server::url::parts::{Credentials, PREFIX, Parts, address, decode, file_in};
use crate::lock::server::url::{Origin, Server, Service, Variable};

const PORT: u16 = 2379;

/// Reads what follows the scheme and its colon. An error says what is wrong and what to
/// write, without the password.
pub fn read(rest: &str, tls: bool, origin: Origin, variable: Variable<'_>) -> Result<Server, String> {
    let mut parts = Parts::read(rest, &[])?;
    let addresses = parts.hosts.split(',').map(|host| address(host, PORT)).collect::<Result<Vec<_>, _>>()?;
    let mut files = std::mem::take(&mut parts.parameters.tls);
    if !tls && (files.cacert.is_some() || files.cert.is_some() || files.key.is_some()) {
        return Err("cacert, cert and key belong to TLS: write etcds://".into());
    }
    if tls {
        // The keeper has no environment where rustls could find the last one.
        let cacert = || file_in(variable, "ETCDCTL_CACERT").or_else(|| file_in(variable, "SSL_CERT_FILE"));
        files.cacert = files.cacert.or_else(cacert);
        if files.cert.is_none() && files.key.is_none() {
            files.cert = file_in(variable, "ETCDCTL_CERT");
            files.key = file_in(variable, "ETCDCTL_KEY");
        }
    }
    let files = files.into_files()?;
    Ok(Server {
        service: Service::Etcd,
        addresses,
        tls: tls.then_some(files),
        account: account(&mut parts, origin, variable)?,
        prefix: prefix(parts.path)?,
        ttl: parts.parameters.ttl(),
        connect: parts.parameters.connect(),
    })
}

fn prefix(path: &str) -> Result<String, String> {
    let prefix = decode(path.strip_suffix('/').unwrap_or(path))?;
    if prefix.starts_with('/') || prefix.contains("//") || prefix.chars().any(char::is_control) {
        return Err("the prefix has an empty part or a control character".into());
    }
    Ok(if prefix.is_empty() { PREFIX.into() } else { prefix })
}

fn account(parts: &mut Parts<'_>, origin: Origin, variable: Variable<'_>) -> Result<Option<Account>, String> {
    let Credentials { mut user, mut password } =
        parts.credentials(origin, "give ?password-file=FILE, or set LOCKRUN_STORE")?;
    let file = parts.parameters.password_file.take();
    if user.is_none() && file.is_none() {
        // USER or USER:PASSWORD, as etcdctl reads it.
        if let Some(both) = variable("ETCDCTL_USER").filter(|both| !both.is_empty()) {
            let (name, word) = both.split_once(':').unwrap_or((&both, ""));
            user = Some(name.into());
            password = Some(word.to_owned()).filter(|word| !word.is_empty());
        }
    }
    let Some(user) = user.filter(|user| !user.is_empty()) else {
        return match password.is_some() || file.is_some() {
            true => Err("a password without a user; give user=NAME".into()),
            false => Ok(None),
        };
    };
    let environment = || variable("ETCDCTL_PASSWORD").filter(|word| !word.is_empty());
    match (password, file) {
        (None, Some(path)) => Ok(Some(Account::in_file(user, path))),
        (password, _) => match password.or_else(environment) {
            Some(word) => Ok(Some(Account::given(user, Secret::new(word)))),
            None => Err(format!("the user {user} has no password; give password-file=FILE")),
        },
    }
}
