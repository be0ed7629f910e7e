//! `lockrun flock`: flock(1)'s own command line, exit codes and texts, with lockrun's
//! queue.
//!
//! As with flock(1), the lock is on a descriptor, the caller's or ours, and ends with
//! its last copy: nothing is unlocked when COMMAND ends.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::engine::{self, FileHeld};
use super::request::LockRequest;
use super::{stdout, take};
use crate::child;
use crate::cli::{Flock, FlockCommand, FlockLock, NotFlock, Operation};
use crate::escape::printable;
use crate::exit::Exit;
use crate::lock::{Engine, Held, NotGranted, Refusal};
use crate::message;
use crate::process;
use crate::sys::{self, Mask};

/// From sysexits.h; flock(1) uses it.
const EX_USAGE: Exit = Exit::Code(64);
const EX_DATAERR: Exit = Exit::Code(65);
const EX_NOINPUT: Exit = Exit::Code(66);
const EX_UNAVAILABLE: Exit = Exit::Code(69);
const EX_OSERR: Exit = Exit::Code(71);
const EX_CANTCREAT: Exit = Exit::Code(73);

/// How often to reopen a file that is removed while we wait. On a file system where it
/// never seems to be the same one, it is then locked as it is.
const TRIES: usize = 100;

pub fn flock(line: Result<Flock, NotFlock>) -> Result<Exit> {
    match line {
        Ok(call) => {
            let mask = sys::block_all();
            sys::default_on_child_death();
            Call { call, mask }.run()
        }
        Err(NotFlock::Text(text)) => stdout::print(text).map(|()| Exit::Ok),
        Err(NotFlock::Usage(what)) => Ok(failed(&what, EX_USAGE)),
        Err(NotFlock::NoTimer) => Ok(failed("cannot set up timer: Invalid argument", EX_OSERR)),
    }
}

fn failed(what: &str, exit: Exit) -> Exit {
    message::tell_as_flock(what);
    exit
}

struct Call {
    call: Flock,
    /// The caller's, for COMMAND.
    mask: Mask,
}

/// Or an early exit.
type Or<T> = Result<T, Exit>;

impl Call {
    fn run(&self) -> Result<Exit> {
        let began = Instant::now();
        let opened = match &self.call.lock {
            FlockLock::Descriptor(number) => self.lock(*number)?.map(|()| None),
            FlockLock::File(path) => self.lock_file(path)?.map(Some),
        };
        let file = match opened {
            Ok(file) => file,
            Err(exit) => return Ok(exit),
        };
        let took = began.elapsed();
        self.tell(&format!("getting lock took {}.{:06} seconds", took.as_secs(), took.subsec_micros()));
        match self.words() {
            words if words.is_empty() => Ok(Exit::Ok),
            words => self.run_command(&words, file),
        }
    }

    /// Opens and locks the file that is at this path at the grant.
    fn lock_file(&self, path: &Path) -> Result<Or<File>> {
        for attempt in 0.. {
            let file = match engine::open_user_file(path) {
                Ok(file) => file,
                Err(errno) => {
                    let exit = match errno {
                        Errno::NOMEM | Errno::MFILE | Errno::NFILE => EX_OSERR,
                        Errno::ROFS | Errno::NOSPC => EX_CANTCREAT,
                        _ => EX_NOINPUT,
                    };
                    let path = printable(path.as_os_str().as_bytes());
                    let why = message::os_error(errno.raw_os_error());
                    return Ok(Err(failed(&format!("cannot open lock file {path}: {why}"), exit)));
                }
            };
            match self.lock(file.as_raw_fd())? {
                Ok(()) if attempt < TRIES && !engine::is_at(&file, path) => {}
                locked => return Ok(locked.map(|()| file)),
            }
        }
        Ok(Err(EX_OSERR))
    }

    fn lock(&self, number: RawFd) -> Result<Or<()>> {
        let cannot = |error: &anyhow::Error| {
            let exit = match error.root_cause().downcast_ref::<Errno>() {
                Some(&(Errno::NOLCK | Errno::NOMEM)) => EX_OSERR,
                _ => EX_DATAERR,
            };
            failed(&message::describe(error), exit)
        };
        let Ok(descriptor) = engine::descriptor_of_any_kind(number) else {
            return Ok(Err(failed(&format!("{number}: Bad file descriptor"), EX_DATAERR)));
        };
        if self.call.operation == Operation::Unlock {
            return Ok(engine::unlock_descriptor(number).map_err(|error| cannot(&error)));
        }
        let request = LockRequest::as_flock(&self.call, descriptor, self.mask)?;
        match take::wait_for(&request) {
            Ok(Ok(held)) => Ok(self.record(&request, held).map_err(|error| cannot(&error))),
            Ok(Err(not)) => Ok(Err(self.not_got(&request, not))),
            Err(error) => Ok(Err(cannot(&error))),
        }
    }

    /// Records the holder, and leaves the lock on its descriptor.
    fn record(&self, request: &LockRequest, mut held: FileHeld) -> Result<()> {
        let words = self.words();
        let script = held.script();
        let command = match script {
            Some(script) if words.is_empty() => process::command_line(script.pid).unwrap_or_default(),
            _ => words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(&b' '),
        };
        let mut claim = request.claim(command, None);
        claim.script = script;
        held.settle(&claim)?;
        held.leave_to_caller();
        Ok(())
    }

    fn not_got(&self, request: &LockRequest, not: NotGranted) -> Exit {
        let what = match not {
            NotGranted::Ended(signal) => return Exit::Signal(signal),
            NotGranted::AskedToLetGo { .. } => return Exit::Signal(libc::SIGTERM),
            NotGranted::TimedOut => "timeout while waiting to get lock",
            NotGranted::Refused(Refusal::Busy) => "failed to get lock",
            // This request cannot lead to any of these.
            NotGranted::Refused(_) | NotGranted::Again | NotGranted::OwnerEnded | NotGranted::Stopped(_) => {
                return EX_OSERR;
            }
        };
        if self.call.verbose {
            message::tell_as_flock(what);
            message::tell_as_flock(&message::held_by(&request.engine.holders()));
        }
        Exit::Code(self.call.conflict_exit_code)
    }

    /// COMMAND; empty if there is none.
    fn words(&self) -> Vec<OsString> {
        match &self.call.command {
            FlockCommand::None => Vec::new(),
            FlockCommand::Words(words) => words.clone(),
            FlockCommand::Shell(text) => {
                let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
                vec![shell.unwrap_or_else(|| "/bin/sh".into()), "-c".into(), text.clone()]
            }
        }
    }

    /// `file`: what is locked, if we opened it.
    fn run_command(&self, words: &[OsString], file: Option<File>) -> Result<Exit> {
        let mut exec = child::prepare(words, &[], self.mask, false)?;
        match (&self.call.lock, &file) {
            (FlockLock::Descriptor(number), _) if self.call.close => sys::close_on_exec(*number),
            (_, Some(file)) if !self.call.close => exec.inherit([file.as_raw_fd()]),
            _ => {}
        }
        let program = printable(words[0].as_bytes());
        self.tell(&format!("executing {program}"));
        let not_executed = |errno: i32| {
            let exit = if errno == libc::ENOMEM { EX_OSERR } else { EX_UNAVAILABLE };
            failed(&format!("failed to execute {program}: {}", message::os_error(errno)), exit)
        };
        if self.call.no_fork {
            return Ok(not_executed(exec.exec()));
        }
        let command = match sys::spawn(&exec).context("cannot start a process")? {
            Ok(command) => command,
            Err(errno) => return Ok(not_executed(errno)),
        };
        // A signal now ends us but not COMMAND, which has the lock.
        sys::restore(&self.mask);
        Ok(wait(command))
    }

    fn tell(&self, text: &str) {
        if self.call.verbose {
            // A closed or full stdout does not change the lock.
            let _ = stdout::print(format!("flock: {text}\n"));
        }
    }
}

fn wait(command: Pid) -> Exit {
    loop {
        match waitpid(Some(command), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Err(_) | Ok(None) => return Exit::No,
            Ok(Some((_, status))) => {
                let signal = |signal: i32| 128u8.wrapping_add(signal as u8);
                let code = status.exit_status().map(|code| code as u8);
                return code.or(status.terminating_signal().map(signal)).map_or(EX_OSERR, Exit::Code);
            }
        }
    }
}
