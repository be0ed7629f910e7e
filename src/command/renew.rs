//! `lockrun renew`: push an expiry out, of a token's lock or of the run around us.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{check, engine, environment, renewals, tokens};
use crate::advice::Advice;
use crate::cli;
use crate::exit::Exit;
use crate::keeper::{Answer, Ask};

/// Counts from now: the given time, or as long as it was given for.
pub fn renew(options: &cli::Renew) -> Result<Exit> {
    let lease = options.expires.map(crate::duration::Limit::finite);
    if tokens::none_is_given(options.token.as_ref()) && engine::is_inside_a_run() {
        return renew_run(lease);
    }
    tokens::for_each(options.token.as_slice(), |token| {
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

/// Inside a run: asks the lockrun around us.
fn renew_run(lease: Option<Option<Duration>>) -> Result<Exit> {
    match renewals::ask(Ask::Renew { lease })? {
        Some(Answer::State(state)) => Ok(match state.lost {
            Some(how) => check::tell_lost(environment::names().as_bytes(), &how),
            None => Exit::Ok,
        }),
        Some(_) => match check::check(cli::Check::default())? {
            Exit::Ok => Err(anyhow!("the lockrun around this command cannot be reached, so nothing was renewed"))
                .context(Advice::new("it was killed, or is in another network namespace")),
            lost => Ok(lost),
        },
        None => Err(anyhow!("the run around this command has no expiry that could be renewed"))
            .context(Advice::new("give --expires to the lockrun that starts the command")),
    }
}
