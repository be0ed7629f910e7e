//! `lockrun prune`: remove unused lock files.

use anyhow::Result;

use crate::cli;
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::Store;
use crate::message;

use super::engine::{AnyStore, Location};
use super::stdout;

/// Prints the name of each lock whose file it removed. A file that cannot be removed
/// gets a message, and the others are still removed.
pub fn prune(options: cli::Prune) -> Result<Exit> {
    let store = AnyStore::choose(Location { dir: options.dir, store: options.store, has_files: false })?;
    let mut exit = Exit::Ok;
    let mut unprinted = Ok(());
    let problem = store.prune(options.dry_run, options.older.unwrap_or_default(), &mut |removed| match removed {
        Ok(name) if unprinted.is_ok() => unprinted = stdout::print(printable(&name) + "\n"),
        Ok(_) => {}
        Err(error) => {
            message::tell_error(&error);
            exit = Exit::Failed;
        }
    })?;
    if let Some(problem) = problem {
        message::tell_error(&problem.context("cannot remember the largest fence"));
    }
    unprinted?;
    Ok(exit)
}
