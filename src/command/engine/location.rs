//! Where the locks are: a directory of this machine, or a server.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

#[cfg(feature = "net")]
use anyhow::Error;
use anyhow::{Result, bail};

#[cfg(feature = "net")]
use super::server::{Server, url};
#[cfg(feature = "net")]
use crate::token::ServerToken;

/// The locks directory where `--dir` is not given.
const DIR: &str = "LOCKRUN_DIR";

/// The server where neither `--store` nor another option says where the locks are.
const STORE: &str = "LOCKRUN_STORE";

/// The directory of `--dir` or of the environment; `None`: the user's default.
pub fn given(dir: Option<PathBuf>) -> Option<PathBuf> {
    dir.or_else(|| std::env::var_os(DIR).map(PathBuf::from))
}

/// The directory of the environment, unless a server is asked for.
pub fn of_environment(store: Option<&OsStr>) -> Option<PathBuf> {
    let is_here = store.is_none() && std::env::var_os(STORE).is_none();
    std::env::var_os(DIR).filter(|_| is_here).map(PathBuf::from)
}

/// The options that say where the locks are.
#[derive(Default)]
pub struct Location {
    pub dir: Option<PathBuf>,
    pub store: Option<OsString>,
    pub has_files: bool,
}

pub enum Place {
    /// Lock files in this directory; `None`: the user's default.
    Files(Option<PathBuf>),
    #[cfg(feature = "net")]
    Server(Box<Server>),
}

impl Location {
    /// Decides between the options and the environment.
    pub fn place(self) -> Result<Place> {
        let is_here = self.dir.is_some() || self.has_files;
        if let Some(url) = self.store {
            if is_here {
                bail!("--dir and --file mean this machine, --store a server: give one of them");
            }
            return store(&url, "--store");
        }
        let Some(url) = std::env::var_os(STORE).filter(|_| !is_here) else { return Ok(Place::Files(given(self.dir))) };
        if std::env::var_os(DIR).is_some() {
            bail!(
                "{DIR} and {STORE} are both set: unset {DIR} to lock on the server, or {STORE} to lock on this machine"
            );
        }
        store(&url, STORE)
    }
}

/// The server of a token: at the addresses of `--store` or the environment, or else at
/// those in the token.
#[cfg(feature = "net")]
pub fn server_of(token: &ServerToken, given: Option<&OsStr>) -> Result<Server> {
    let from_environment = || std::env::var_os(STORE).map(|url| (url, STORE));
    if let Some((url, source)) = given.map(|url| (url.to_owned(), "--store")).or_else(from_environment)
        && let Place::Server(server) = store(&url, source)?
    {
        return Ok(Server { prefix: token.prefix.clone(), ..*server });
    }
    match url::parse(&token.store, url::Origin::Token, variable).map_err(Error::msg)? {
        url::Store::Server(server) => Ok(Server { prefix: token.prefix.clone(), ..*server }),
        url::Store::Files => bail!("the token names no server"),
    }
}

#[cfg(feature = "net")]
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|value| value.into_string().ok())
}

#[cfg(feature = "net")]
fn store(url: &OsStr, source: &str) -> Result<Place> {
    let origin = if source == STORE { url::Origin::Environment } else { url::Origin::CommandLine };
    let Some(url) = url.to_str() else { bail!("{source} is not UTF-8") };
    match url::parse(url, origin, variable).map_err(Error::msg)? {
        url::Store::Files => Ok(Place::Files(None)),
        url::Store::Server(server) => Ok(Place::Server(server)),
    }
}

#[cfg(not(feature = "net"))]
fn store(url: &OsStr, source: &str) -> Result<Place> {
    match url.to_str() {
        Some("file:") => Ok(Place::Files(None)),
        _ => bail!("{source}: this lockrun was built without servers (cargo feature etcd)"),
    }
}
