//! `acquire --fd N`, `release --fd N`, `check --fd N`: the lock is on the caller's own
//! descriptor, and no process of lockrun stays.

use std::os::fd::RawFd;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::engine::{self, DescriptorGrant};
use super::request::LockRequest;
use super::take;
use crate::cli;
use crate::exit::Exit;
use crate::lock::Held;
use crate::message;
use crate::process;
use crate::sys;

/// The descriptor of `--fd N`, or of a `--file /dev/fd/N`, which is removed from
/// `files`.
pub fn number(fd: Option<RawFd>, files: &mut Vec<PathBuf>) -> Option<RawFd> {
    let number = fd.or_else(|| files.iter().find_map(|file| engine::descriptor_in(file)))?;
    files.retain(|file| engine::descriptor_in(file) != Some(number));
    Some(number)
}

/// As [`number`], where no other file may be given.
pub fn number_alone(fd: Option<RawFd>, files: &mut Vec<PathBuf>) -> Result<Option<RawFd>> {
    let number = number(fd, files);
    match files.first() {
        None => Ok(number),
        Some(file) => bail!("--file {}: only /dev/fd/N can be meant here; give the token", file.display()),
    }
}

/// Takes the lock and leaves it on the descriptor. On an error nothing is locked.
pub fn acquire(options: cli::Acquire, number: RawFd) -> Result<Exit> {
    // Before anything else is opened, which might get this number.
    let descriptor = engine::descriptor(number)?;
    let refused = [
        ("--slots", options.lock.slots.is_some()),
        ("--owner", options.owner.is_some()),
        ("--expires", options.expires.is_some()),
    ];
    if let Some((option, _)) = refused.iter().find(|(_, given)| *given) {
        bail!("{option} cannot be used with --fd: the lock ends with the descriptor");
    }
    if options.lock.conflict_exit_code == Some(0) {
        bail!("-E 0 with acquire would let a script go on without the lock: give another code");
    }
    let mask = sys::block_all();
    sys::default_on_child_death();
    let request = LockRequest::on_descriptor(options.lock, descriptor, mask)?;
    let mut held = match take::take(&request)? {
        Ok(held) => held,
        Err(exit) => return Ok(exit),
    };
    let script = held.script();
    let pid = script.map(|script| script.pid).or_else(|| process::parent(std::process::id() as i32));
    let mut claim = request.claim(pid.and_then(process::command_line).unwrap_or_default(), None);
    claim.script = script;
    held.settle(&claim)?;
    held.leave_to_caller();
    request.tell_granted();
    Ok(Exit::Ok)
}

/// Unlocks the descriptor, also for processes that have inherited it.
pub fn release(number: RawFd) -> Result<Exit> {
    let (descriptor, grant) = engine::descriptor_grant(engine::descriptor(number)?)?;
    engine::unlock_descriptor(number)?;
    Ok(match grant {
        Some(DescriptorGrant { removed: true, .. }) => {
            let what = "lost: the file was removed or replaced while it was held, so others could take it; \
                        what was done under it was not protected to the end";
            message::tell_about(&message::shown_name(&descriptor.name), what);
            Exit::Lost
        }
        _ => Exit::Ok,
    })
}

/// What the descriptor holds; `None` after a line that says why the lock is lost.
pub fn check(number: RawFd) -> Result<Option<DescriptorGrant>> {
    let (descriptor, grant) = engine::descriptor_grant(engine::descriptor(number)?)?;
    let why = match &grant {
        None => format!("descriptor {number} holds no lock"),
        Some(DescriptorGrant { removed: true, .. }) => {
            "lost: the file was removed or replaced while it was held, so others could take it".into()
        }
        Some(DescriptorGrant { sibling: Some(pid), .. }) => {
            format!("descriptor {number} is locked by {}, which shares it", message::by(*pid))
        }
        Some(_) => return Ok(grant),
    };
    let name = grant.as_ref().map_or(&descriptor.name, |grant| &grant.name);
    message::tell_about(&message::shown_name(name), &why);
    Ok(None)
}
