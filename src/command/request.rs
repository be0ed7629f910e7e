//! The lock options, understood: which lock, how long to wait, what to say and how to
//! end without it.

#[cfg(feature = "net")]
use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::engine::{AnyEngine, Location};
use crate::cli;
use crate::duration::{self, Limit};
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::{Descriptor, Engine, Holder, Mode, NotGranted, Patience, Refusal, Rules, Target, Terms, UserPath};
use crate::message;
use crate::record::Claim;
use crate::sys::{self, LetGo, Mask};
use crate::users;
use crate::waiting::{Verbosity, Waiting};

const TIMEOUT: &str = "LOCKRUN_TIMEOUT";

pub struct LockRequest {
    pub engine: AnyEngine,
    /// The locks' names, as given.
    pub names: Vec<Vec<u8>>,
    /// The names, as messages show them.
    pub name: String,
    pub patience: Patience,
    /// When a server answered first: --timeout counts from then, also after Ctrl-Z and
    /// fg.
    #[cfg(feature = "net")]
    pub answered: Cell<Option<Instant>>,
    pub verbosity: Verbosity,
    conflict_code: Option<u8>,
    /// The caller's descriptor, if the lock is on one.
    descriptor: Option<RawFd>,
}

impl LockRequest {
    /// Understands the options; `default_name` names a lock that was given neither name
    /// nor file.
    pub fn new(options: cli::Lock, default_name: impl FnOnce() -> Vec<u8>, mask: Mask) -> Result<Self> {
        let manner = Manner::of(&options, mask)?;
        let names_like_paths: Vec<_> = options.name.iter().filter(|name| looks_like_a_path(name)).cloned().collect();
        let location = Location { dir: options.dir, store: options.store, has_files: !options.file.is_empty() };
        let targets = targets(options.name, options.file)?;
        let (engine, targets) = AnyEngine::choose(location, targets, default_name, manner.terms)?;
        let names = targets.iter().map(|target| target.name().to_vec()).collect();
        let request = manner.request(engine, names);
        request.tell_what_may_surprise(&names_like_paths);
        Ok(request)
    }

    /// A request for the caller's descriptor. A name or path that is given as well has
    /// to be that of its file. Without a usable default directory the lock has only the
    /// kernel's queue.
    pub fn on_descriptor(options: cli::Lock, descriptor: Descriptor, mask: Mask) -> Result<Self> {
        let mut manner = Manner::of(&options, mask)?;
        manner.terms.waits_forever &= descriptor.rules == Rules::Ours;
        let number = descriptor.number;
        if options.store.is_some() {
            bail!("--fd means this machine, --store a server: give one of them");
        }
        let beside = targets(options.name, options.file)?;
        let (engine, why_not) = AnyEngine::on_descriptor(options.dir, descriptor, &beside, manner.terms)?;
        let name = engine.name().to_vec();
        let request = Self { descriptor: Some(number), ..manner.request(engine, vec![name]) };
        request.tell_what_may_surprise(&[]);
        if let Some(error) = why_not {
            request.tell_verbose(|| format!("in the kernel's own queue, because {}", message::describe(&error)));
        }
        Ok(request)
    }

    /// As [`on_descriptor`](Self::on_descriptor), in flock(1)'s way: a deadlock is the
    /// caller's business.
    pub fn as_flock(call: &cli::Flock, descriptor: Descriptor, mask: Mask) -> Result<Self> {
        let options = cli::Lock {
            shared: call.operation == cli::Operation::Shared,
            timeout: Some(call.limit),
            quiet: !call.verbose,
            verbose: call.verbose,
            ..cli::Lock::default()
        };
        Self::on_descriptor(options, descriptor, mask)
    }

    fn tell_what_may_surprise(&self, names_like_paths: &[OsString]) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        for warning in self.engine.warnings() {
            message::tell(&printable(warning.as_bytes()));
        }
        for name in names_like_paths {
            let text = "taken as a name; to lock the file at that path, use --file";
            message::tell_about(&message::shown_name(name.as_bytes()), text);
        }
    }

    /// With `-v`: the locked files and the time waited.
    pub fn tell_granted(&self) {
        self.tell_verbose(|| {
            let locations: Vec<_> = self.engine.locations().iter().map(|location| printable(location)).collect();
            format!("locked {}, waited {}", locations.join(", "), duration::display(self.patience.since.elapsed()))
        });
    }

    /// Prints a message with `-v` only.
    pub fn tell_verbose(&self, text: impl FnOnce() -> String) {
        if self.verbosity == Verbosity::Verbose {
            message::tell_about(&self.name, &text());
        }
    }

    /// Says why the lock was not granted; returns the exit. `None`: ask again.
    pub fn not_granted(&self, not: NotGranted) -> Option<Exit> {
        match not {
            NotGranted::Again => None,
            NotGranted::Stopped(signal) => {
                sys::stop_by(signal);
                None
            }
            NotGranted::TimedOut => Some(self.timed_out()),
            NotGranted::Refused(refusal) => Some(self.refused(refusal)),
            NotGranted::Ended(signal) => Some(Exit::Signal(signal)),
            NotGranted::OwnerEnded => {
                message::tell_about(&self.name, "the process of --owner ended; the lock was not taken");
                Some(Exit::Failed)
            }
            NotGranted::AskedToLetGo { ask, sender } => Some(self.asked_to_let_go(ask, sender)),
        }
    }

    /// Says why the engine refused to let us wait.
    pub(super) fn refused(&self, refusal: Refusal) -> Exit {
        match refusal {
            Refusal::Busy => self.not_got(Exit::Busy, "busy, did not wait"),
            Refusal::QueueFull => self.not_got(Exit::QueueFull, "the queue is full, did not wait"),
            Refusal::Removed => {
                let number = self.descriptor.unwrap_or_default();
                let text = format!(
                    "the file of descriptor {number} was removed or replaced; nothing was locked: open it again"
                );
                message::tell_about(&self.name, &text);
                Exit::Lost
            }
            Refusal::SharedWith(pid) => {
                let (number, sibling) = (self.descriptor.unwrap_or_default(), message::by(pid));
                let text = format!(
                    "descriptor {number} is shared with {sibling}, and would not exclude it: open the file again"
                );
                message::tell_about(&self.name, &text);
                Exit::Failed
            }
            // A deadlock is a fault of the caller: -q does not hide it, nor does -E
            // change its code.
            Refusal::Deadlock { reentrant_helps } => {
                message::tell_deadlock(&self.name, &self.engine.holders(), reentrant_helps);
                Exit::Deadlock
            }
        }
    }

    /// Another lockrun ended the wait: a newer one with `--replace`, or `lockrun break`
    /// on the part of a set that we had already.
    pub fn asked_to_let_go(&self, ask: LetGo, sender: i32) -> Exit {
        let what = match ask {
            LetGo::Replace => "replaced",
            LetGo::Break => "broken",
        };
        let by = message::by(sender);
        message::tell_about(&self.name, &format!("{what} while waiting, by {by}; the command was not started"));
        Exit::Lost
    }

    pub(super) fn timed_out(&self) -> Exit {
        let limit = self.patience.limit.finite().unwrap_or_default();
        self.not_got(Exit::TimedOut, &format!("timed out after {}", duration::display(limit)))
    }

    fn not_got(&self, exit: Exit, what: &str) -> Exit {
        if self.verbosity != Verbosity::Quiet {
            let holders = self.engine.holders();
            message::tell_about(&self.name, &format!("{what}; {}", message::held_by(&holders)));
        }
        self.conflict_code.map_or(exit, Exit::Code)
    }

    /// What people see while we wait.
    pub fn waiting(&self) -> Waiting<impl Fn() -> Vec<Holder>> {
        self.waiting_since(self.patience)
    }

    /// As [`waiting`](Self::waiting), for a wait that began at another time.
    pub fn waiting_since(&self, patience: Patience) -> Waiting<impl Fn() -> Vec<Holder>> {
        let holders = || self.engine.holders();
        Waiting::new(self.name.clone(), self.verbosity, patience, holders)
    }

    /// What the record says about us.
    pub fn claim(&self, command: Vec<u8>, expires: Option<Duration>) -> Claim {
        let uid = rustix::process::geteuid().as_raw();
        Claim {
            user: users::name_of(uid).unwrap_or_else(|| uid.to_string()),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            command,
            expires,
            is_token: false,
            owner: None,
            script: None,
        }
    }
}

/// The options that do not depend on which lock is asked for.
struct Manner {
    verbosity: Verbosity,
    patience: Patience,
    terms: Terms,
    conflict_code: Option<u8>,
}

impl Manner {
    fn of(options: &cli::Lock, mask: Mask) -> Result<Self> {
        let verbosity = match (options.quiet, options.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        let limit = match (options.nonblock, options.timeout) {
            (true, _) => Limit::After(Duration::ZERO),
            (false, Some(limit)) => limit,
            (false, None) => limit_of_environment()?.unwrap_or(Limit::Never),
        };
        let patience = Patience { limit, since: Instant::now(), mask };
        let terms = Terms {
            mode: mode(options),
            max_waiters: options.max_waiters,
            replace: options.replace,
            reentrant: options.reentrant,
            waits_forever: limit.finite().is_none(),
        };
        if terms.replace && !patience.waits() {
            bail!("--replace ends the holder and then waits for its end, so it cannot be used with --timeout 0");
        }
        Ok(Self { verbosity, patience, terms, conflict_code: options.conflict_exit_code })
    }

    fn request(self, engine: AnyEngine, names: Vec<Vec<u8>>) -> LockRequest {
        LockRequest {
            engine,
            name: names.iter().map(|name| message::shown_name(name)).collect::<Vec<_>>().join(", "),
            names,
            patience: self.patience,
            #[cfg(feature = "net")]
            answered: Cell::default(),
            verbosity: self.verbosity,
            conflict_code: self.conflict_code,
            descriptor: None,
        }
    }
}

/// LOCKRUN_TIMEOUT. An invalid value is an error: no lock is better than an endless
/// wait that nobody asked for.
fn limit_of_environment() -> Result<Option<Limit>> {
    let Some(value) = std::env::var_os(TIMEOUT) else { return Ok(None) };
    match value.to_str().map(duration::parse_limit) {
        Some(Ok(limit)) => Ok(Some(limit)),
        Some(Err(why)) => bail!("invalid {TIMEOUT} '{}': {why}", value.display()),
        None => bail!("invalid {TIMEOUT}: not UTF-8"),
    }
}

fn targets(names: Vec<OsString>, files: Vec<PathBuf>) -> Result<Vec<Target>> {
    if names.iter().any(|name| name.is_empty()) {
        bail!("the lock's name is empty: give --name at least one character");
    }
    if files.iter().any(|file| file.as_os_str().is_empty()) {
        bail!("the path of --file is empty: name a file or directory");
    }
    let named = names.into_iter().map(|name| Target::Name(name.into_vec()));
    Ok(named.chain(files.into_iter().map(UserPath::new).map(Target::Path)).collect())
}

fn mode(options: &cli::Lock) -> Mode {
    match (options.slots, &options.slot) {
        (Some(of), slot) => {
            let which = slot.as_ref().map(|slot| slot.modulo(of));
            Mode::Slot { of, which }
        }
        _ if options.shared => Mode::Shared,
        _ => Mode::Exclusive,
    }
}

fn looks_like_a_path(name: &OsStr) -> bool {
    ["/", "./", "../"].iter().any(|start| name.as_bytes().starts_with(start.as_bytes()))
}
