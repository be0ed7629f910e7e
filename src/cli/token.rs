//! The command lines of the commands that make and use tokens.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Parser;

use super::number;
use super::run::Lock;
use super::usage_error::UsageError;
use crate::duration::{self, Limit};
use crate::token::AnyToken;

/// Take a lock for a token, or on a descriptor.
///
/// The token is one word on stdout; 'lockrun release TOKEN' releases the lock.
/// Until then a small background process holds it, on a server only with --owner.
/// With --fd, the caller holds it.
#[derive(Parser, Debug)]
#[command(
    name = "lockrun acquire",
    override_usage = "TOKEN=$(lockrun acquire --name NAME [OPTIONS]) || exit $?\n       \
        lockrun acquire --fd N [OPTIONS] || exit $?",
    after_long_help = AFTER_ACQUIRE_HELP,
    max_term_width = 80,
    args_override_self = true,
)]
pub struct Acquire {
    /// The lock's name, as with --name
    #[arg(value_name = "LOCK")]
    pub words: Vec<OsString>,

    /// Which lock, and how to get it.
    #[command(flatten)]
    pub lock: Lock,

    /// Lock the caller's own descriptor N
    ///
    /// As 'flock N' does: the lock follows the descriptor into every process that
    /// inherits it, and ends with its last copy. No token is printed.
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = number::descriptor,
        help_heading = "Lock options")]
    pub fd: Option<RawFd>,

    /// Append LOCKRUN_TOKEN=TOKEN to FILE, print no token
    ///
    /// Only once the lock is held. For CI systems that read variables for later
    /// steps from a file: --env-file "$GITHUB_ENV", where the token is masked in
    /// the logs, too. 'lockrun release' finds the token in LOCKRUN_TOKEN.
    #[arg(long, value_name = "FILE", help_heading = "Token options", conflicts_with = "fd")]
    pub env_file: Option<PathBuf>,

    /// Release the lock when process PID ends
    ///
    /// However it ends. In a script, --owner $$ is the script itself.
    #[arg(long, value_name = "PID", allow_hyphen_values = true, value_parser = number::pid, help_heading = "Token options")]
    pub owner: Option<i32>,

    /// Release the lock after DUR; 'forever': never
    ///
    /// DUR counts from the grant, including time in suspend. Without --owner and
    /// --expires: after one hour.
    #[arg(long, value_name = "DUR", value_parser = duration::parse_expiry, allow_hyphen_values = true,
        help_heading = "Token options")]
    pub expires: Option<Limit>,
}

impl Acquire {
    /// A lock's name as a word is the same as with `--name`. A token there is a slip of
    /// somebody who means release: as a name it would be shown to all.
    pub(super) fn with_words_as_names(mut self) -> Result<Self, UsageError> {
        if self.words.iter().any(|word| AnyToken::parse(word.as_bytes()).is_some()) {
            return Err(UsageError::form("a token is not a lock's name", "lockrun release TOKEN", "release"));
        }
        self.lock.name.append(&mut self.words);
        Ok(self)
    }
}

/// Release the locks of tokens, or of a descriptor.
///
/// Returns when they are free. Exit code 123 if a lock had been lost: work done
/// under it was not protected to the end.
#[derive(Parser, Debug)]
#[command(name = "lockrun release", max_term_width = 80)]
pub struct Release {
    /// What acquire printed; '-': read stdin [env: LOCKRUN_TOKEN]
    #[arg(value_name = "TOKEN", allow_hyphen_values = true)]
    pub token: Vec<OsString>,

    /// Unlock the caller's own descriptor N
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = number::descriptor,
        conflicts_with = "token")]
    pub fd: Option<RawFd>,

    /// Only `/dev/fd/N`, which means `--fd N`.
    #[arg(long, hide = true, conflicts_with = "token")]
    pub file: Vec<PathBuf>,

    /// The server of a server's token [env: LOCKRUN_STORE]
    ///
    /// Otherwise the addresses in the token, which has no password.
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    #[cfg_attr(not(feature = "net"), arg(hide = true))]
    pub store: Option<OsString>,
}

/// Extend the expiry of a token's lock, or of the run around us.
///
/// Exit code 123 if the lock had been lost. Inside a run with --expires, without a
/// token: when the command expires.
#[derive(Parser, Debug)]
#[command(name = "lockrun renew", max_term_width = 80, args_override_self = true)]
pub struct Renew {
    /// What acquire printed; '-': read stdin [env: LOCKRUN_TOKEN]
    #[arg(value_name = "TOKEN")]
    pub token: Option<OsString>,

    /// Expire DUR from now; 'forever': never
    ///
    /// Default: as long as the lock was taken for.
    #[arg(long, value_name = "DUR", value_parser = duration::parse_expiry, allow_hyphen_values = true)]
    pub expires: Option<Limit>,

    /// The server of a server's token [env: LOCKRUN_STORE]
    ///
    /// Otherwise the addresses in the token, which has no password.
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    #[cfg_attr(not(feature = "net"), arg(hide = true))]
    pub store: Option<OsString>,
}

/// Check whether a token's or descriptor's lock is still held.
///
/// Exit code 0 if it is, 123 if it was lost. Inside a run, without a token: the
/// lock around the command.
#[derive(Parser, Debug, Default)]
#[command(name = "lockrun check", max_term_width = 80)]
pub struct Check {
    /// What acquire printed; '-': read stdin [env: LOCKRUN_TOKEN]
    #[arg(value_name = "TOKEN")]
    pub token: Option<OsString>,

    /// Check the caller's own descriptor N
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = number::descriptor,
        conflicts_with = "token")]
    pub fd: Option<RawFd>,

    /// Only `/dev/fd/N`, which means `--fd N`.
    #[arg(long, hide = true, conflicts_with = "token")]
    pub file: Vec<PathBuf>,

    /// Print name, slot, fence, expires and remaining seconds as JSON
    #[arg(long)]
    pub json: bool,

    /// The server of a server's token [env: LOCKRUN_STORE]
    ///
    /// Otherwise the addresses in the token, which has no password.
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    #[cfg_attr(not(feature = "net"), arg(hide = true))]
    pub store: Option<OsString>,
}

const AFTER_ACQUIRE_HELP: &str = "\
Examples:
  TOKEN=$(lockrun acquire --name deploy --timeout 10 --owner $$) || exit $?
  ...
  lockrun release \"$TOKEN\"

  exec 9<>\"$(lockrun path deploy)\" || exit
  lockrun acquire --fd 9 --nonblock || exit

Exit codes:
    0  the lock is held, the token is printed
   75  busy: --timeout 0, and it is held or others wait
  121  queue full: --max-waiters
  122  it would deadlock: this process already runs under the lock
  124  timed out: waited the whole --timeout
  125  lockrun itself failed: usage, permission, disk, a foreign file";
