//! `lockrun check`: is it still mine?

use anyhow::Result;
use serde::Serialize;

use crate::cli;
use crate::exit::Exit;
use crate::keeper::{Answer, Ask, TokenState};
use crate::token::Token;

use super::{stdout, tokens};

/// What `--json` prints. Stable: fields are only ever added.
#[derive(Serialize)]
struct Report<'a> {
    /// The lock's name.
    name: &'a str,
    /// Its place in a pool; null where there is none.
    slot: Option<u32>,
    /// The grant's number.
    fence: u64,
    /// RFC 3339, or null: never.
    expires: Option<&'a str>,
    /// Seconds until then, or null.
    remaining: Option<f64>,
}

/// Silent if it is, unless asked for details.
///
/// # Errors
/// No token was given.
pub fn check(options: &cli::Check) -> Result<Exit> {
    tokens::for_each(options.token.as_slice(), |token| {
        Ok(match tokens::ask(token, Ask::Check)? {
            Ok(Answer::State(TokenState { lost: Some(how), .. })) => {
                tokens::tell_lost(token, &how);
                Exit::Lost
            }
            Ok(Answer::State(state)) => {
                if options.json {
                    print(token, &state)?;
                }
                Exit::Ok
            }
            Ok(_) => Exit::Ok,
            Err(exit) => exit,
        })
    })
}

fn print(token: &Token, state: &TokenState) -> Result<()> {
    let report = Report {
        name: &token.name,
        slot: token.slot,
        fence: token.fence(),
        expires: state.expires.as_deref(),
        remaining: state.remaining.map(|left| left.as_secs_f64()),
    };
    let line = serde_json::to_string(&report)? + "\n";
    stdout::print(&line)
}
