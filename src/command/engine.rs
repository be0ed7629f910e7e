//! The engine that grants the locks, chosen once. Nothing else outside of the
//! engines names one; dispatch is static.
//!
//! A new engine is one more arm in each `match` here, and the options that
//! choose it in [`AnyEngine::choose`] and [`AnyStore::choose`].

#[cfg(feature = "etcd")]
use crate::lock::server::{
    self, Details, ServerEngine, ServerHeld, ServerQueued, ServerStore,
    url::{self, Server},
};
use rustix::process::Pid;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
#[cfg(feature = "etcd")]
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};

#[cfg(feature = "etcd")]
use crate::escape::printable;
use crate::lock::file::standing;
use crate::lock::file::{self, Dir, FileStore, descriptor};
use crate::lock::{
    Admission, Descriptor, Engine, Grant, Held, Holder, Loss, Note, Patience, Queued, Released, Seen, Store, Target,
    Terms, Waited, Wakes,
};
#[cfg(feature = "etcd")]
use crate::message;
use crate::record::{Claim, Record};
use crate::token::Token;

/// Lock files have a child that waits in the queue and becomes COMMAND: see
/// `command/wait_in_child.rs`.
pub use crate::lock::file::standing::DescriptorGrant;
pub use crate::lock::file::{FileEngine, FileHeld, FileQueued};

/// Names the locks directory where `--dir` does not.
const DIR: &str = "LOCKRUN_DIR";

/// Names a server where no option names a place.
const STORE: &str = "LOCKRUN_STORE";

/// The directory of `--dir` or of the environment; `None`: the user's own.
fn given(dir: Option<PathBuf>) -> Option<PathBuf> {
    dir.or_else(|| std::env::var_os(DIR).map(PathBuf::from))
}

fn locks_directory(dir: Option<PathBuf>) -> Result<Dir> {
    match dir {
        Some(dir) => Dir::given(&dir),
        None => Dir::default_of_user(),
    }
}

/// Where the locks are, as it was typed.
#[derive(Default)]
pub struct Location {
    /// `--dir`.
    pub dir: Option<PathBuf>,
    /// `--store`.
    pub store: Option<OsString>,
    /// Whether a lock was named by `--file`.
    pub has_files: bool,
}

enum Place {
    /// Lock files in this directory; `None`: the user's own.
    Files(Option<PathBuf>),
    #[cfg(feature = "etcd")]
    Server(Server),
}

impl Location {
    fn place(self) -> Result<Place> {
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

#[cfg(feature = "etcd")]
fn store(url: &OsStr, source: &str) -> Result<Place> {
    let origin = if source == STORE { url::Origin::Environment } else { url::Origin::CommandLine };
    let Some(url) = url.to_str() else { bail!("{source} is not UTF-8") };
    let variable = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
    match url::parse(url, origin, variable).map_err(Error::msg)? {
        url::Store::Files => Ok(Place::Files(None)),
        url::Store::Server(server) => Ok(Place::Server(*server)),
    }
}

#[cfg(not(feature = "etcd"))]
fn store(url: &OsStr, source: &str) -> Result<Place> {
    match url.to_str() {
        Some("file:") => Ok(Place::Files(None)),
        _ => bail!("{source}: this lockrun was built without servers (cargo feature etcd)"),
    }
}

/// A request to an engine.
pub enum AnyEngine {
    /// Lock files on this machine.
    Files(FileEngine),
    /// A server.
    #[cfg(feature = "etcd")]
    Server(ServerEngine),
}

/// A place in the queue of an engine.
pub enum AnyQueued {
    /// See [`AnyEngine::Files`].
    Files(FileQueued),
    /// A keeper works on it, see `command/wait_on_server.rs`.
    #[cfg(feature = "etcd")]
    Server(ServerQueued),
}

/// A lock that an engine granted.
pub enum AnyHeld {
    /// See [`AnyEngine::Files`].
    Files(FileHeld),
    /// A keeper holds it.
    #[cfg(feature = "etcd")]
    Server(ServerHeld),
}

/// Where locks are looked at that are not taken.
pub enum AnyStore {
    /// Lock files on this machine.
    Files(FileStore),
    /// A server.
    #[cfg(feature = "etcd")]
    Server(ServerStore),
}

impl AnyEngine {
    /// A request for all of `targets`, in `--dir` or wherever locks are. A lock that
    /// was given no name has `default_name`.
    ///
    /// # Errors
    /// That place cannot be used, or needs a name.
    pub fn choose(
        location: Location,
        mut targets: Vec<Target>,
        default_name: impl FnOnce() -> Vec<u8>,
        terms: Terms,
    ) -> Result<(Self, Vec<Target>)> {
        let place = location.place()?;
        if targets.is_empty() {
            if !matches!(place, Place::Files(_)) {
                bail!("a lock on a server needs --name: by its command line it would be the same on every host");
            }
            targets.push(Target::Name(default_name()));
        }
        let engine = match place {
            Place::Files(dir) => Self::Files(FileEngine::new(Some(locks_directory(dir)?), targets.clone(), terms)),
            #[cfg(feature = "etcd")]
            Place::Server(server) => Self::Server(ServerEngine::new(server, &targets, terms)),
        };
        Ok((engine, targets))
    }

    /// Adds what only a server has to know before it is asked.
    ///
    /// # Errors
    /// `--at-least`, or `--exec`, where it has no meaning.
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
            #[cfg(feature = "etcd")]
            Self::Server(_) if exec => {
                bail!("--exec leaves no process of lockrun, and a lock on a server needs one that renews its lease")
            }
            #[cfg(feature = "etcd")]
            Self::Server(server) => {
                let name = name.to_owned();
                let tell = Rc::new(move |text: &str| message::tell_about(&name, &printable(text.as_bytes())));
                server.set_details(Details { claim: claim.clone(), kill_after, at_least, tell });
            }
        }
        let _ = (name, claim, kill_after, exec);
        Ok(())
    }

    /// Something that only `-v` wants to know.
    #[cfg(feature = "etcd")]
    pub fn remark(&self) -> Option<&'static str> {
        match self {
            Self::Files(_) => None,
            #[cfg(feature = "etcd")]
            Self::Server(server) => server.remark(),
        }
    }

    /// A request for a descriptor of our caller's, which has to be that of every
    /// lock of `beside`. Without a default locks directory that can be used, the
    /// lock has no queue but the kernel's, and the error says why.
    ///
    /// # Errors
    /// Another lock was named, or a directory that cannot be used.
    pub fn on_descriptor(
        dir: Option<PathBuf>,
        descriptor: Descriptor,
        beside: &[Target],
        terms: Terms,
    ) -> Result<(Self, Option<Error>)> {
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

    /// Lock files, for what only they have.
    ///
    /// # Errors
    /// It is a server.
    pub fn files(&self) -> Result<&FileEngine> {
        match self {
            Self::Files(files) => Ok(files),
            #[cfg(feature = "etcd")]
            Self::Server(_) => bail!("only a process that holds a lock file itself can do this, not with --store"),
        }
    }

    /// The first lock's name.
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Files(files) => files.targets().first().map_or(&[], Target::name),
            #[cfg(feature = "etcd")]
            Self::Server(server) => server.name(),
        }
    }

    /// Where the locks are, absolute, for a token.
    ///
    /// # Errors
    /// Our working directory has been removed.
    pub fn place(&self) -> Result<PathBuf> {
        match self {
            Self::Files(files) => {
                let dir = files.dir().context("a token needs a locks directory")?;
                std::path::absolute(dir.path()).context("cannot tell where we are")
            }
            #[cfg(feature = "etcd")]
            Self::Server(_) => bail!("a token of a server has no directory"),
        }
    }
}

impl Engine for AnyEngine {
    type Queued = AnyQueued;
    type Held = AnyHeld;

    fn ask(&self, patience: &Patience) -> Result<Admission<AnyQueued, AnyHeld>> {
        Ok(match self {
            #[cfg(feature = "etcd")]
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
            #[cfg(feature = "etcd")]
            Self::Server(server) => server.holders(),
        }
    }

    fn places(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Files(files) => files.places(),
            #[cfg(feature = "etcd")]
            Self::Server(server) => server.places(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        match self {
            Self::Files(files) => files.warnings(),
            #[cfg(feature = "etcd")]
            Self::Server(server) => server.warnings(),
        }
    }
}

impl Queued for AnyQueued {
    type Held = AnyHeld;

    fn wait(self, patience: &Patience) -> Result<Waited<AnyHeld>> {
        match self {
            Self::Files(queued) => Ok(queued.wait(patience)?.map(AnyHeld::Files)),
            #[cfg(feature = "etcd")]
            Self::Server(_) => bail!("a wait on a server is watched by its wrapper"),
        }
    }
}

impl Held for AnyHeld {
    fn settle(&mut self, claim: &Claim) -> Result<()> {
        match self {
            Self::Files(held) => held.settle(claim),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.settle(claim),
        }
    }

    fn grants(&self) -> Vec<Grant> {
        match self {
            Self::Files(held) => held.grants(),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.grants(),
        }
    }

    fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Files(held) => held.descriptors(),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.descriptors(),
        }
    }

    fn started(&mut self, command: Pid) {
        match self {
            Self::Files(held) => held.started(command),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.started(command),
        }
    }

    fn wakes(&self) -> Wakes<'_> {
        match self {
            Self::Files(held) => held.wakes(),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.wakes(),
        }
    }

    fn tend(&mut self) -> Option<Loss> {
        match self {
            Self::Files(held) => held.tend(),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.tend(),
        }
    }

    fn note(&mut self, note: &Note<'_>) {
        match self {
            Self::Files(held) => held.note(note),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.note(note),
        }
    }

    fn release(&mut self, limit: Duration) -> Result<Released> {
        match self {
            Self::Files(held) => held.release(limit),
            #[cfg(feature = "etcd")]
            Self::Server(held) => held.release(limit),
        }
    }
}

impl AnyStore {
    /// The locks in `--dir`, or wherever they are.
    ///
    /// # Errors
    /// That place cannot be used.
    pub fn choose(location: Location) -> Result<Self> {
        Ok(match location.place()? {
            Place::Files(dir) => Self::Files(FileStore::open(dir)?),
            #[cfg(feature = "etcd")]
            Place::Server(server) => Self::Server(ServerStore::open(server)?),
        })
    }
}

impl Store for AnyStore {
    fn look(&self, targets: &[Target]) -> Result<Vec<Seen>> {
        match self {
            Self::Files(store) => store.look(targets),
            #[cfg(feature = "etcd")]
            Self::Server(store) => store.look(targets),
        }
    }

    fn require_usable(&self, targets: &[Target]) -> Result<()> {
        match self {
            Self::Files(store) => store.require_usable(targets),
            #[cfg(feature = "etcd")]
            Self::Server(store) => store.require_usable(targets),
        }
    }

    fn names(&self) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::Files(store) => store.names(),
            #[cfg(feature = "etcd")]
            Self::Server(store) => store.names(),
        }
    }

    fn would_wait_for_itself(&self, target: &Target, waits_forever: bool) -> Result<bool> {
        match self {
            Self::Files(store) => store.would_wait_for_itself(target, waits_forever),
            #[cfg(feature = "etcd")]
            Self::Server(store) => store.would_wait_for_itself(target, waits_forever),
        }
    }

    fn wait_for_change(&self, targets: &[Target], limit: Option<Duration>) -> Result<bool> {
        match self {
            Self::Files(store) => store.wait_for_change(targets, limit),
            #[cfg(feature = "etcd")]
            Self::Server(store) => store.wait_for_change(targets, limit),
        }
    }

    fn make_let_go(&self, seen: &Seen, kill_after: Duration) -> Result<bool> {
        match self {
            Self::Files(store) => store.make_let_go(seen, kill_after),
            #[cfg(feature = "etcd")]
            Self::Server(store) => store.make_let_go(seen, kill_after),
        }
    }

    fn prune(&self, only_look: bool, tell: &mut dyn FnMut(Result<Vec<u8>>)) -> Result<Option<Error>> {
        match self {
            Self::Files(store) => store.prune(only_look, tell),
            #[cfg(feature = "etcd")]
            Self::Server(store) => store.prune(only_look, tell),
        }
    }
}

/// Looks at a descriptor of our caller's. To be called before any other file is
/// opened: a number that is closed would be the next one's.
///
/// # Errors
/// It is closed, or cannot be a lock.
pub fn descriptor(number: RawFd) -> Result<Descriptor> {
    descriptor::look_at(number)
}

/// The descriptor that a `--file /dev/fd/N` means.
pub fn descriptor_in(path: &Path) -> Option<RawFd> {
    descriptor::number_in(path)
}

/// What is locked on a descriptor of our caller's; `None`: nothing.
///
/// # Errors
/// It is closed.
pub fn descriptor_grant(descriptor: Descriptor) -> Result<(Descriptor, Option<DescriptorGrant>)> {
    // Without a directory, nothing is known of it but what the kernel shows.
    let dir = match given(None) {
        Some(path) => Dir::given_to_look(&path).ok(),
        None => Dir::default_of_user_if_any().unwrap_or_default(),
    };
    let descriptor = descriptor::named_in(dir.as_ref(), descriptor)?;
    let grant = standing::look(dir.as_ref(), &descriptor)?;
    Ok((descriptor, grant))
}

/// Unlocks a descriptor of our caller's.
///
/// # Errors
/// It is closed, or `ENOLCK`.
pub fn unlock_descriptor(number: RawFd) -> Result<()> {
    standing::release(number)
}

/// Makes the lock file of a name if it is missing. Returns its absolute path, and
/// what to tell about the directory.
///
/// # Errors
/// It cannot be made, or something else is there.
pub fn make_lock_file(dir: Option<PathBuf>, name: &[u8]) -> Result<(PathBuf, Vec<String>)> {
    let dir = locks_directory(given(dir))?;
    Ok((file::make_lock_file(&dir, name)?, dir.warnings()))
}

/// What is written about a token's grant, or about a later one of its lock.
pub fn record_of_grant(token: &Token) -> Option<Record> {
    let file = &token.grants.first()?.file;
    file::record_of_grant(token.dir(), file, token.fence(), token.slot)
}

/// Whether a process keeps our locks on a server, or is behind a token and holds its lock: it belongs to whoever
/// has the token, wherever that was acquired.
pub fn is_token_keeper(pid: i32) -> bool {
    #[cfg(feature = "etcd")]
    if server::is_our_keeper(pid) {
        return true;
    }
    file::is_token_keeper(pid)
}
