//! `lockrun acquire`: take a lock, print a token, return. Of a lock file, a new process,
//! the keeper, holds the lock from then on.

#[cfg(feature = "net")]
mod on_server;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::descriptor;
#[cfg(feature = "net")]
use super::engine::AnyEngine;
use super::engine::{self, AnyHeld};
use super::request::LockRequest;
use super::stdout;
use crate::child::{self, GrantedChild, Waiter, WaitingChild, Watch};
use crate::cli;
use crate::duration::{self, Limit};
use crate::escape::printable;
use crate::exit::Exit;
use crate::keeper::{self, Keeper, Tie};
use crate::lock::{Admission, Engine, Grant, Held, Patience, Queued};
use crate::message;
use crate::process;
use crate::record::{Claim, RELEASED, TOKEN_FOR};
use crate::sys::{self, Arrived, Shared, SignalFd};
use crate::token::{self, Token, TokenGrant};

/// Default `--expires` of a token without `--owner`.
const DEFAULT_LEASE: Duration = Duration::from_secs(3600);

/// Longer than the new process needs to see whether it has to wait.
const A_LOOK: Duration = Duration::from_millis(10);

/// Signals that may end us while the token is handed out: the keeper notices and
/// releases the lock. Without PIPE, because a failed write tells us the same.
const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

pub fn acquire(mut options: cli::Acquire) -> Result<Exit> {
    if let Some(number) = descriptor::number(options.fd, &mut options.lock.file) {
        return descriptor::acquire(options, number);
    }
    let lock = &mut options.lock;
    lock.dir = lock.dir.take().or_else(|| engine::directory_of_environment(lock.store.as_deref()));
    lock.dir.iter_mut().chain(&mut lock.file).for_each(make_absolute);
    Acquisition::new(options)?.run()
}

/// A relative path would make the keeper hold its caller's working directory, which then
/// could not be unmounted. It stays where the absolute path leads elsewhere.
fn make_absolute(path: &mut PathBuf) {
    let place = |path: &Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    // The file may not exist yet.
    let parent = |path: &Path| place(path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(".".as_ref()));
    let end = |path: &Path| place(path).or_else(|| parent(path));
    if let Ok(absolute) = std::path::absolute(&*path)
        && end(path).is_some()
        && end(&absolute) == end(path)
    {
        *path = absolute;
    }
}

const AT_ONCE: &str = "as soon as the token was printed";
const ENDED_EARLY: &str = "the process that holds the lock was ended before the token could be printed";

struct Acquisition {
    request: LockRequest,
    claim: Claim,
    owner: Option<OwnedFd>,
    lease: Option<Duration>,
    lease_by_default: bool,
    /// Takes the token instead of stdout.
    env_file: Option<File>,
}

/// Shows nothing until the new process has found that it has to wait.
struct OnceQueued<'a, W> {
    queued: &'a AtomicBool,
    owner: Option<BorrowedFd<'a>>,
    waiting: W,
}

impl<W: Watch> Watch for OnceQueued<'_, W> {
    fn look(&mut self) -> Option<Instant> {
        match self.queued.load(Ordering::SeqCst) {
            true => self.waiting.look(),
            false => Some(Instant::now() + A_LOOK),
        }
    }

    fn is_living(&self) -> bool {
        self.waiting.is_living()
    }

    fn hide(&mut self) {
        self.waiting.hide();
    }

    fn owner(&self) -> Option<BorrowedFd<'_>> {
        self.owner
    }
}

/// What goes to the new process.
struct Handover {
    owner: Option<OwnedFd>,
    id: String,
    listener: UnixListener,
    channel: UnixStream,
    /// The caller's end. The new process has to close it, or it would not see the
    /// caller end.
    callers_channel: UnixStream,
}

impl Handover {
    /// Closes everything else.
    fn into_callers_channel(self) -> UnixStream {
        self.callers_channel
    }
}

impl Acquisition {
    fn new(options: cli::Acquire) -> Result<Self> {
        let env_file = options.env_file.as_deref().map(open_env_file).transpose()?;
        if env_file.is_none() && rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err() {
            bail!("stdout is closed, so the token could not be printed; nothing was locked");
        }
        if options.lock.name.is_empty() && options.lock.file.is_empty() {
            bail!(cli::UsageError::form(
                "which lock?",
                "lockrun acquire --name NAME (or --file PATH, --fd N)",
                "acquire"
            ));
        }
        if options.lock.conflict_exit_code == Some(0) {
            bail!("-E 0 with acquire would let a script go on without the lock: give another code");
        }
        let owner = options.owner.map(open_owner).transpose()?;
        let lease_by_default = owner.is_none() && options.expires.is_none();
        let lease = if lease_by_default { Some(DEFAULT_LEASE) } else { options.expires.and_then(Limit::finite) };
        let mask = sys::block_all();
        sys::default_on_child_death();
        let mut request = LockRequest::new(options.lock, Vec::new, mask)?;
        let for_whom = options.owner.or_else(|| rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()));
        let mut claim = request.claim(described(for_whom), lease);
        claim.is_token = true;
        claim.owner = options.owner;
        request.engine.set_token_details(&request.name, &claim, owner.as_ref())?;
        Ok(Self { request, claim, owner, lease, lease_by_default, env_file })
    }

    fn run(mut self) -> Result<Exit> {
        #[cfg(feature = "net")]
        if let AnyEngine::Server(engine) = &self.request.engine {
            return self.run_on_server(engine);
        }
        loop {
            let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
            let id = Token::random().context("no random numbers")?;
            let handover = Handover {
                listener: keeper::listen(&id).context("cannot make a socket")?,
                owner: self.owner.as_ref().map(OwnedFd::try_clone).transpose()?,
                channel: above_stdio(theirs)?,
                callers_channel: above_stdio(ours)?,
                id,
            };
            if let Some(exit) = self.attempt(handover)? {
                return Ok(exit);
            }
        }
    }

    /// `None`: ask again.
    fn attempt(&mut self, handover: Handover) -> Result<Option<Exit>> {
        let queued = Shared::<AtomicBool>::zeroed()?;
        let mut waiting = OnceQueued {
            queued: &queued,
            owner: self.owner.as_ref().map(AsFd::as_fd),
            waiting: self.request.waiting(),
        };
        // The parent watches the time limit.
        let patience = self.request.patience.of_watched();
        let engine = &self.request.engine;
        let wait = |handover: Handover| {
            let waited = match engine.ask(&patience)? {
                Admission::Granted(held) => Ok(held),
                Admission::Not(not) => Err(not),
                Admission::Queued(place) => {
                    queued.store(true, Ordering::SeqCst);
                    place.wait(&patience)?
                }
            };
            Ok(waited.map(|held| (held, handover)))
        };
        let hold = |(held, handover): (AnyHeld, Handover), granted: &WaitingChild| {
            if let Err(error) = self.become_keeper(held, handover, granted) {
                granted.failed(&error);
            }
        };
        let (waiter, handover) =
            Waiter::fork(handover, true, wait, hold).context("cannot start the process that holds the lock")?;
        // Closes our copies of the new process's ends, so that we see it end.
        let channel = handover.into_callers_channel();
        // Without waiting, the child answers at once and needs no time limit.
        let patience = self.request.patience;
        let limit = if patience.waits() { patience.limit } else { Limit::Never };
        match waiter.watch(&Patience { limit, ..patience }, &mut waiting)? {
            // The process that held anything has ended.
            Err(not) => Ok(self.request.not_granted(not)),
            // The signal ends only this process; the keeper notices and releases the
            // lock. A stop comes too late to leave the queue.
            Ok(GrantedChild { arrived, .. }) => {
                match (arrived.and_then(|arrived| self.end_by(arrived)), waiter.failure()) {
                    (Some(exit), _) => Ok(Some(exit)),
                    (None, Some(failure)) => Err(failure),
                    (None, None) => self.hand_out(channel).map(Some),
                }
            }
        }
    }

    /// In the new process, which is the keeper from now on.
    fn become_keeper(&self, mut held: AnyHeld, handover: Handover, granted: &WaitingChild) -> Result<()> {
        let granted_at = sys::suspend_aware_now();
        held.settle(&self.claim)?;
        let grants = held.grants();
        let dir = self.request.engine.location()?;
        let token = Token {
            id: handover.id,
            secret: Token::random()?,
            uid: rustix::process::geteuid().as_raw(),
            name: self.request.name.clone(),
            dir: dir.as_os_str().as_bytes().to_vec(),
            slot: grants[0].slot,
            grants: grants
                .iter()
                .map(|Grant { fence, file, marker, .. }| TokenGrant {
                    fence: *fence,
                    file: file.clone(),
                    marker: marker.clone(),
                })
                .collect(),
        };
        sys::detach();
        sys::retitle(format!("lockrun: keeps {}", self.request.name).as_bytes(), &token::KEPT_ENVIRONMENT);
        drop(handover.callers_channel);
        keeper::take_over(&handover.listener)?;
        let ties = handover.owner.into_iter().map(|descriptor| Tie { descriptor, end: "its owner ended" }).collect();
        let (listener, lease) = (handover.listener, self.lease);
        let keeper = Keeper { held, token, listener, ties, lease, printed: handover.channel };
        let keeper = keeper.get_ready(granted_at).context("cannot keep the lock")?;
        // Only before the parent can end: it must not take us with it. If it ends too
        // early, the channel shows it.
        granted.let_go_of_parent();
        keeper.hold()
    }

    /// The exit, if what arrived ends us.
    fn end_by(&self, arrived: Arrived) -> Option<Exit> {
        match arrived {
            Arrived::LetGo { ask, sender } => Some(self.request.asked_to_let_go(ask, sender)),
            Arrived::Signal { number, .. } if child::is_deadly(number) => Some(Exit::Signal(number)),
            _ => None,
        }
    }

    /// Prints the token; only then does the keeper keep the lock.
    fn hand_out(&self, mut channel: UnixStream) -> Result<Exit> {
        let signals = SignalFd::of_all().context("cannot wait for signals")?;
        channel.set_nonblocking(true)?;
        let mut holder =
            BufReader::new(channel.try_clone().context("cannot read from the process that holds the lock")?);
        let mut word = String::new();
        loop {
            // The keeper may not listen to signals before it has spoken.
            if let Some(exit) = self.end_by(sys::next_signal(Some(Duration::ZERO))) {
                return Ok(exit);
            }
            match holder.read_line(&mut word) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => signals.wait_beside(&channel, None, None),
                read => {
                    read.context("the process that holds the lock does not answer")?;
                    break;
                }
            }
        }
        if !word.ends_with('\n') {
            bail!("{ENDED_EARLY}");
        }
        // From now on a request to let go reaches the keeper too.
        sys::ignore_requests();
        self.request.patience.mask.unblock(&ENDING);
        self.request.tell_granted();
        self.tell_default_lease();
        match let_go(&mut holder).as_deref() {
            None => {}
            Some("") => bail!("{ENDED_EARLY}"),
            Some(why) => return Ok(self.lost("before the token was printed", why)),
        }
        self.give(&word).context("the token could not be printed, so the lock was released")?;
        // From now on the token is valid, and no signal ends us.
        sys::block_all();
        let Err(_) = channel.write_all(b"!") else { return Ok(Exit::Ok) };
        match let_go(&mut holder).unwrap_or_default() {
            // The token's reader has already released it.
            why if why.starts_with(RELEASED) => Ok(Exit::Ok),
            why if why.is_empty() => Ok(self.lost(AT_ONCE, "the process that held it was killed")),
            why => Ok(self.lost(AT_ONCE, &why)),
        }
    }

    fn tell_default_lease(&self) {
        if self.lease_by_default {
            let lease = duration::display(DEFAULT_LEASE);
            message::tell_about(
                &self.request.name,
                &format!("without --owner and --expires, the lock is released after {lease} at the latest"),
            );
        }
    }

    /// Prints the token, or appends it to the file of --env-file.
    fn give(&self, word: &str) -> Result<()> {
        let Some(mut file) = self.env_file.as_ref() else { return stdout::print(word) };
        if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
            // A command to the runner: it replaces the token in all logs by ***.
            stdout::print(format!("::add-mask::{word}"))?;
        }
        Ok(file.write_all(format!("LOCKRUN_TOKEN={word}").as_bytes())?)
    }

    /// The keeper let go before it knew that the token was printed.
    fn lost(&self, when: &str, why: &str) -> Exit {
        message::tell_about(&self.request.name, &format!("lost {when}: {}", printable(why.as_bytes())));
        Exit::Lost
    }
}

/// Why the keeper has already let go, in its own words; empty if it was killed. `None`:
/// it has not.
fn let_go(holder: &mut BufReader<UnixStream>) -> Option<String> {
    let mut why = String::new();
    match holder.read_line(&mut why) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        _ => Some(why.trim_end().to_owned()),
    }
}

/// Opened before anything is locked, and readable by its owner alone if it is new.
fn open_env_file(path: &Path) -> Result<File> {
    let file = File::options().append(true).create(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot open the file of --env-file, {}; nothing was locked", path.display()))
}

fn above_stdio(stream: UnixStream) -> Result<UnixStream> {
    Ok(sys::above_stdio(OwnedFd::from(stream)).context("cannot make a socket")?.into())
}

/// The owner as a descriptor, because its process id can be reused.
fn open_owner(pid: i32) -> Result<OwnedFd> {
    let refused = |why: &str| anyhow!("--owner {pid}: {why}");
    let process = process::id(pid).ok_or_else(|| refused("not a process id")).and_then(|pid| {
        pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => refused("there is no such process"),
            Errno::INVAL | Errno::NOENT => refused("that is a thread, not a process"),
            other => process::cannot_open(other).context(format!("--owner {pid}")),
        })
    })?;
    let process = sys::above_stdio(process)?;
    // A zombie has ended, even if its parent has not waited for it yet.
    if sys::is_readable(&process, Some(Duration::ZERO))? {
        return Err(refused("has already ended"));
    }
    Ok(process)
}

/// The caller of the token, as records and messages show it.
fn described(pid: Option<i32>) -> Vec<u8> {
    let line = pid.and_then(process::command_line).unwrap_or_default();
    [TOKEN_FOR.as_bytes(), &line].concat()
}
