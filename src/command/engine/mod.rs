//! The choice of the engine that grants the locks. Outside of the engines only this file
//! and `server` name them; dispatch is static.
//!
//! A new engine is one more arm in each `match` here, and the options that select it in
//! [`AnyEngine::choose`] and [`AnyStore::choose`].

mod held;
mod location;
#[cfg(feature = "net")]
pub mod server;
mod store;
#[cfg(feature = "net")]
mod token;

use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
#[cfg(feature = "net")]
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use rustix::io::Errno;

use self::location::{Place, given};
#[cfg(feature = "net")]
use self::server::{Details, ServerEngine, ServerHeld, ServerQueued, ServerStore, Tell};
#[cfg(feature = "net")]
use crate::escape::printable;
use crate::lock::file::standing;
use crate::lock::file::{self, Dir, FileStore, descriptor};
use crate::lock::{Admission, Descriptor, Engine, Holder, Patience, Queued, Rules, Target, Terms, Waited, markers};
#[cfg(feature = "net")]
use crate::message;
use crate::record::{Claim, Record};
use crate::token::Token;

pub use self::location::{Location, of_environment as directory_of_environment};
#[cfg(feature = "net")]
pub use self::token::{ServerAsk, ask_server};
/// Only lock files have a child that waits and becomes COMMAND
/// (`command/wait_in_queue.rs`).
pub use crate::lock::file::LockAround;
pub use crate::lock::file::standing::DescriptorGrant;
pub use crate::lock::file::{FileEngine, FileHeld, FileQueued};

fn locks_directory(dir: Option<PathBuf>) -> Result<Dir> {
    match dir {
        Some(dir) => Dir::given(&dir),
        None => Dir::default_of_user(),
    }
}

pub enum AnyEngine {
    Files(FileEngine),
    #[cfg(feature = "net")]
    Server(ServerEngine),
}

/// A place in the queue.
#[allow(clippy::large_enum_variant, reason = "a process has one value of it")]
pub enum AnyQueued {
    Files(FileQueued),
    /// With a keeper that works on it (`command/wait_on_server.rs`).
    #[cfg(feature = "net")]
    Server(ServerQueued),
}

pub enum AnyHeld {
    Files(FileHeld),
    /// Held by a keeper.
    #[cfg(feature = "net")]
    Server(ServerHeld),
}

/// Locks to inspect, break or clean up, not to take.
pub enum AnyStore {
    Files(FileStore),
    #[cfg(feature = "net")]
    Server(ServerStore),
}

impl AnyEngine {
    /// A request for all of `targets`, or for `default_name` if there are none.
    pub fn choose(
        location: Location,
        mut targets: Vec<Target>,
        default_name: impl FnOnce() -> Vec<u8>,
        terms: Terms,
    ) -> Result<(Self, Vec<Target>)> {
        let place = location.place()?;
        if targets.is_empty() {
            if !matches!(place, Place::Files(_)) {
                bail!(
                    "a lock on a server needs --name: named after the command line, it would be shared by every host that runs it"
                );
            }
            targets.push(Target::Name(default_name()));
        }
        let engine = match place {
            Place::Files(dir) => Self::Files(FileEngine::new(Some(locks_directory(dir)?), targets.clone(), terms)),
            #[cfg(feature = "net")]
            Place::Server(server) => Self::Server(ServerEngine::new(*server, &targets, terms)),
        };
        Ok((engine, targets))
    }

    /// Adds what only a server has to know before it is asked.
    pub fn set_details(
        &mut self,
        name: &str,
        claim: &Claim,
        kill_after: Duration,
        at_least: Option<Duration>,
        exec: bool,
    ) -> Result<()> {
        match self {
            Self::Files(_) if at_least.is_some() => {
                bail!("--at-least is for locks on a server (--store); a lock file is free when its command has ended")
            }
            Self::Files(_) => {}
            #[cfg(feature = "net")]
            Self::Server(_) if exec => {
                bail!("--exec leaves no process of lockrun, and a lock on a server needs one that renews its lease")
            }
            #[cfg(feature = "net")]
            Self::Server(server) => {
                server.set_details(Details {
                    claim: claim.clone(),
                    kill_after,
                    at_least,
                    tell: tell(name),
                    owner: None,
                });
            }
        }
        let _ = (name, claim, kill_after, exec);
        Ok(())
    }

    /// The same for a token, which is held for `owner` if there is one.
    pub fn set_token_details(&mut self, name: &str, claim: &Claim, owner: Option<&OwnedFd>) -> Result<()> {
        #[cfg(feature = "net")]
        if let Self::Server(server) = self {
            let owner = owner.map(OwnedFd::try_clone).transpose()?;
            let (claim, tell) = (claim.clone(), tell(name));
            // There is no command to end.
            server.set_details(Details { claim, kill_after: Duration::ZERO, at_least: None, tell, owner });
        }
        let _ = (name, claim, owner);
        Ok(())
    }

    /// Something to say with `-v`.
    #[cfg(feature = "net")]
    pub fn remark(&self) -> Option<&'static str> {
        match self {
            Self::Files(_) => None,
            #[cfg(feature = "net")]
            Self::Server(server) => server.remark(),
        }
    }

    /// A request for the caller's descriptor; every lock of `beside` has to be on the
    /// same file. Without a usable default directory the lock has only the kernel's
    /// queue, and the returned error says why.
    pub fn on_descriptor(
        dir: Option<PathBuf>,
        descriptor: Descriptor,
        beside: &[Target],
        terms: Terms,
    ) -> Result<(Self, Option<Error>)> {
        if descriptor.rules == Rules::Flocks && !descriptor::can_have_queue(descriptor.number) {
            return Ok((Self::Files(FileEngine::new(None, vec![Target::Descriptor(descriptor)], terms)), None));
        }
        let needs_directory = terms.replace || terms.max_waiters.is_some() || given(dir.clone()).is_some();
        let dir = given(dir);
        let is_named = beside.iter().any(|target| matches!(target, Target::Name(_)));
        let (dir, why_not) = match locks_directory(dir) {
            Ok(dir) => (Some(dir), None),
            Err(error) if needs_directory || is_named => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let descriptor = descriptor::named_in(dir.as_ref(), descriptor)?;
        for target in beside {
            descriptor::require_of(dir.as_ref(), &descriptor, target)?;
        }
        Ok((Self::Files(FileEngine::new(dir, vec![Target::Descriptor(descriptor)], terms)), why_not))
    }

    /// The engine of lock files; an error on a server.
    pub fn files(&self) -> Result<&FileEngine> {
        match self {
            Self::Files(files) => Ok(files),
            #[cfg(feature = "net")]
            Self::Server(_) => bail!("this works only with lock files, not with --store"),
        }
    }

    pub fn name(&self) -> &[u8] {
        match self {
            Self::Files(files) => files.targets().first().map_or(&[], Target::name),
            #[cfg(feature = "net")]
            Self::Server(server) => server.name(),
        }
    }

    /// The locks directory, absolute, for a token.
    pub fn location(&self) -> Result<PathBuf> {
        match self {
            Self::Files(files) => {
                let dir = files.dir().context("a token needs a locks directory")?;
                std::path::absolute(dir.path()).context("cannot find the current directory")
            }
            #[cfg(feature = "net")]
            Self::Server(_) => bail!("a token of a server has no directory"),
        }
    }
}

impl Engine for AnyEngine {
    type Queued = AnyQueued;
    type Held = AnyHeld;

    fn ask(&self, patience: &Patience) -> Result<Admission<AnyQueued, AnyHeld>> {
        Ok(match self {
            #[cfg(feature = "net")]
            Self::Server(server) => Admission::Queued(AnyQueued::Server(server.ask(patience)?)),
            Self::Files(files) => match files.ask(patience)? {
                Admission::Granted(held) => Admission::Granted(AnyHeld::Files(held)),
                Admission::Queued(queued) => Admission::Queued(AnyQueued::Files(queued)),
                Admission::Not(not) => Admission::Not(not),
            },
        })
    }

    fn holders(&self) -> Vec<Holder> {
        match self {
            Self::Files(files) => files.holders(),
            #[cfg(feature = "net")]
            Self::Server(server) => server.holders(),
        }
    }

    fn locations(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Files(files) => files.locations(),
            #[cfg(feature = "net")]
            Self::Server(server) => server.locations(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        match self {
            Self::Files(files) => files.warnings(),
            #[cfg(feature = "net")]
            Self::Server(server) => server.warnings(),
        }
    }
}

impl Queued for AnyQueued {
    type Held = AnyHeld;

    fn wait(self, patience: &Patience) -> Result<Waited<AnyHeld>> {
        match self {
            Self::Files(queued) => Ok(queued.wait(patience)?.map(AnyHeld::Files)),
            #[cfg(feature = "net")]
            Self::Server(_) => bail!("a wait on a server is watched by its wrapper"),
        }
    }
}

#[cfg(feature = "net")]
fn tell(name: &str) -> Tell {
    let name = name.to_owned();
    Rc::new(move |text: &str| message::tell_about(&name, &printable(text.as_bytes())))
}

/// Looks at the caller's descriptor. Call this before any other file is opened, which
/// would get the number if it is closed.
pub fn descriptor(number: RawFd) -> Result<Descriptor> {
    descriptor::look_at(number)
}

/// As [`descriptor`], for anything that flock(1) can lock.
pub fn descriptor_of_any_kind(number: RawFd) -> Result<Descriptor> {
    descriptor::look_at_any(number)
}

/// Opens a file or directory as flock(1) does; makes a missing file.
pub fn open_user_file(path: &Path) -> Result<File, Errno> {
    descriptor::open_file(path)
}

/// Whether an open file is still the one at its path.
pub fn is_at(file: &File, path: &Path) -> bool {
    let now = rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino)) == now
}

/// N, if the path is `/dev/fd/N`.
pub fn descriptor_in(path: &Path) -> Option<RawFd> {
    descriptor::number_in(path)
}

/// What the caller's descriptor holds; `None`: nothing.
pub fn descriptor_grant(descriptor: Descriptor) -> Result<(Descriptor, Option<DescriptorGrant>)> {
    // Without a directory, only the kernel says something about it.
    let dir = match given(None) {
        Some(path) => Dir::given_to_look(&path).ok(),
        None => Dir::default_of_user_if_any().unwrap_or_default(),
    };
    let descriptor = descriptor::named_in(dir.as_ref(), descriptor)?;
    let grant = standing::look(dir.as_ref(), &descriptor)?;
    Ok((descriptor, grant))
}

/// The `number` innermost locks that we run under, as far as they are in files.
pub fn locks_around(number: usize) -> Result<Vec<LockAround>> {
    file::locks_around(number)
}

/// Whether a lockrun around us has told us about its locks.
pub fn is_inside_a_run() -> bool {
    !markers::around().is_empty()
}

pub fn unlock_descriptor(number: RawFd) -> Result<()> {
    standing::release(number)
}

/// Makes the lock file of a name if it is missing. Returns its absolute path, and
/// warnings about the directory.
pub fn make_lock_file(dir: Option<PathBuf>, name: &[u8]) -> Result<(PathBuf, Vec<String>)> {
    let dir = locks_directory(given(dir))?;
    Ok((file::make_lock_file(&dir, name)?, dir.warnings()))
}

/// The record of a token's grant, or of a later one of the same lock.
pub fn record_of_grant(token: &Token) -> Option<Record> {
    let file = &token.grants.first()?.file;
    file::record_of_grant(token.dir(), file, token.fence(), token.slot)
}

/// Whether a process is the keeper of a server's locks for us, or of a token. A token's
/// lock belongs to the holder of the token, so its keeper is never part of a command's
/// tree.
pub fn is_token_keeper(pid: i32) -> bool {
    #[cfg(feature = "net")]
    if server::is_our_keeper(pid) || server::is_keeper(pid) {
        return true;
    }
    file::is_token_keeper(pid)
}
