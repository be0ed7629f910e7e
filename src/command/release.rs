//! `lockrun release`: give the locks of tokens back.

use anyhow::Result;

use crate::cli;
use crate::exit::Exit;
use crate::keeper::{Answer, Ask};

use super::tokens;

/// Returns when the locks are really free.
///
/// # Errors
/// No token was given.
pub fn release(options: &cli::Release) -> Result<Exit> {
    tokens::for_each(&options.token, |token| {
        Ok(match tokens::ask(token, Ask::Release)? {
            Ok(Answer::Released { lost: Some(how) }) => {
                tokens::tell_lost(token, &how);
                Exit::Lost
            }
            Ok(_) => Exit::Ok,
            Err(exit) => exit,
        })
    })
}
