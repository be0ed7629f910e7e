//! The locks of a token on a server.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::Result;

use super::location::server_of;
use super::server::{ServerStore, TokenAnswer};
use crate::token::ServerToken;

/// What can be asked about them.
#[derive(Clone, Copy)]
pub enum ServerAsk {
    Release,
    /// Expire so long from now, or never.
    Renew(Option<Duration>),
    Check,
}

/// Asks the store that `given` or the environment names, or else that of the token.
pub fn ask_server(token: &ServerToken, ask: ServerAsk, given: Option<&OsStr>) -> Result<TokenAnswer> {
    let store = ServerStore::open_known(server_of(token, given)?, Some(&token.identity))?;
    match ask {
        ServerAsk::Release => store.release_token(token),
        ServerAsk::Renew(term) => store.renew_token(token, term),
        ServerAsk::Check => store.check_token(token),
    }
}
