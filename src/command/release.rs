//! `lockrun release`: release the locks of tokens and descriptors.

use anyhow::Result;

use crate::cli;
use crate::exit::Exit;
use crate::keeper::{Answer, Ask};

use super::{descriptor, tokens};

/// Returns once the locks are really free.
pub fn release(mut options: cli::Release) -> Result<Exit> {
    if let Some(number) = descriptor::number_alone(options.fd, &mut options.file)? {
        return descriptor::release(number);
    }
    tokens::for_each(&options.token, |token| {
        Ok(match tokens::ask(token, Ask::Release, options.store.as_deref())? {
            Ok(Answer::Released { lost: Some(how) }) => {
                tokens::tell_lost(&tokens::shown_name(token), &how);
                Exit::Lost
            }
            Ok(_) => Exit::Ok,
            Err(exit) => exit,
        })
    })
}
