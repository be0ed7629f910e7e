//! `lockrun renew`: push a token's expiry out.

use anyhow::Result;

use crate::cli;
use crate::exit::Exit;
use crate::keeper::{Answer, Ask};

use super::tokens;

/// Counts from now: the given time, or as long as the lock was taken for.
pub fn renew(options: &cli::Renew) -> Result<Exit> {
    tokens::for_each(options.token.as_slice(), |token| {
        let lease = options.expires.map(crate::duration::Limit::finite);
        Ok(match tokens::ask(token, Ask::Renew { lease }, options.store.as_deref())? {
            Ok(Answer::State(state)) => match state.lost {
                Some(how) => {
                    tokens::tell_lost(&tokens::shown_name(token), &how);
                    Exit::Lost
                }
                None => Exit::Ok,
            },
            Ok(_) => Exit::Ok,
            Err(exit) => exit,
        })
    })
}
