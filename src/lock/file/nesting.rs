//! Locks held by an outer lockrun, by a token, or by another ancestor.
//!
//! COMMAND's environment lists the locks that it runs under. That proves nothing by
//! itself, because a process can outlive the lock; the kernel shows whether we or an
//! ancestor still have it. A token's keeper announces itself by bytes in the queue,
//! which anyone who can open the file can lock. So it counts only if it is a process of
//! our own user that the kernel shows to hold the lock for the announced owner.
//!
//! Only the kernel knows about a lock taken by flock(1) or by a script with a
//! descriptor, or when the environment was cleared (sudo, env -i). Such an ancestor may
//! release the lock while we wait, so it counts only for a wait without limit.

use std::cell::LazyCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::str::FromStr;

use rustix::process::{geteuid, getpid};

use super::identity::Identity;
use super::kernel::{self, Descriptor, Kernel, KernelLock, Locker};
use super::lanes::{self, OwnedToken};
use super::queue::Queue;
use super::slots;
use crate::lock::{Mode, markers};
use crate::process;
use crate::record::Record;
use crate::token::{self, AnyToken};

/// A grant that covers this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    pub identity: Identity,
    pub fence: u64,
    /// How strongly it is held.
    pub strength: Strength,
}

/// The strength of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    Exclusive,
    Shared,
    Slot(u32),
}

/// The effect of outer grants on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    /// None.
    Outside,
    /// This grant is at least as strong as the request.
    Covered(Marker),
    /// The request would wait for itself.
    Deadlock,
}

impl Strength {
    pub fn of(mode: Mode, slot: Option<u32>) -> Self {
        match (mode, slot) {
            (Mode::Slot { .. }, Some(slot)) => Strength::Slot(slot),
            (Mode::Shared, _) => Strength::Shared,
            _ => Strength::Exclusive,
        }
    }

    /// The strength of this descriptor's lock on the file, if it has one.
    fn shown(descriptor: &Descriptor, lock: Identity) -> Option<Self> {
        let shared = descriptor.locks.iter().find_map(|line| match line {
            KernelLock::Flock(_, locker) => Some(locker.shared),
            KernelLock::Bytes { .. } => None,
        })?;
        if Identity::behind(&descriptor.path) != Ok(Some(lock)) {
            return None;
        }
        let slot = descriptor.locks.iter().find_map(|line| match line {
            KernelLock::Bytes { first, last, .. } => slots::held_by(*first, *last),
            KernelLock::Flock(..) => None,
        });
        Some(match slot {
            Some(slot) => Strength::Slot(slot),
            None if shared => Strength::Shared,
            None => Strength::Exclusive,
        })
    }

    fn of_locker(locker: &Locker) -> Self {
        if locker.shared { Strength::Shared } else { Strength::Exclusive }
    }

    fn slot(self) -> Option<u32> {
        if let Strength::Slot(slot) = self { Some(slot) } else { None }
    }

    /// Whether a request of this mode asks for no more.
    pub fn covers(self, mode: Mode) -> bool {
        match self {
            Strength::Exclusive => true,
            Strength::Shared => mode == Mode::Shared,
            Strength::Slot(held) => match mode {
                Mode::Slot { which: Some(slot), .. } => slot == held,
                Mode::Slot { which: None, of } => held < of,
                Mode::Exclusive | Mode::Shared => false,
            },
        }
    }
}

impl Marker {
    /// The slot in a pool.
    pub fn slot(&self) -> Option<u32> {
        self.strength.slot()
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { device, inode } = self.identity;
        write!(f, "{device:x}:{inode:x}:{}:", self.fence)?;
        match self.strength {
            Strength::Exclusive => f.write_str("x"),
            Strength::Shared => f.write_str("s"),
            Strength::Slot(slot) => write!(f, "{slot}"),
        }
    }
}

impl FromStr for Marker {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let fields: Vec<_> = word.split(':').collect();
        let [device, inode, fence, strength] = fields[..] else { return Err(()) };
        let hexadecimal = |text| u64::from_str_radix(text, 16).map_err(drop);
        Ok(Self {
            identity: Identity { device: hexadecimal(device)?, inode: hexadecimal(inode)? },
            fence: fence.parse().map_err(drop)?,
            strength: match strength {
                "x" => Strength::Exclusive,
                "s" => Strength::Shared,
                slot => Strength::Slot(slot.parse().map_err(drop)?),
            },
        })
    }
}

/// The markers in our environment that are about lock files.
pub fn markers_around() -> Vec<Marker> {
    markers::around().iter().filter_map(|word| word.parse().ok()).collect()
}

/// Judges a request for a lock with these outer grants. With `reentrant`, a grant that
/// is strong enough covers the request.
pub fn judge(held: &[Marker], mode: Mode, reentrant: bool) -> Nesting {
    if held.is_empty() {
        return Nesting::Outside;
    }
    if reentrant && let Some(marker) = held.iter().find(|marker| marker.strength.covers(mode)) {
        return Nesting::Covered(*marker);
    }
    let slots: Vec<u32> = held.iter().filter_map(Marker::slot).collect();
    let is_pool = slots.len() == held.len();
    match mode {
        Mode::Slot { which: None, of } if is_pool && !(0..of).all(|slot| slots.contains(&slot)) => Nesting::Outside,
        Mode::Slot { which: Some(slot), .. } if is_pool && !slots.contains(&slot) => Nesting::Outside,
        _ => Nesting::Deadlock,
    }
}

/// The lock of a process, as the kernel shows it.
struct Shown {
    strength: Strength,
    /// The process that called flock(2); others may have inherited the lock.
    locker: i32,
}

/// The locks of these processes on a file.
fn shown(pids: impl Iterator<Item = i32>, lock: &File, identity: Identity) -> Vec<Shown> {
    let lockers = LazyCell::new(|| {
        let kernel = Kernel::look();
        kernel.id_of(lock).map_or_else(Vec::new, |lock| kernel.lockers(lock).to_vec())
    });
    pids.flat_map(|pid| match kernel::descriptors_of(pid) {
        Some(descriptors) => {
            let shown = |descriptor: &Descriptor| {
                let strength = Strength::shown(descriptor, identity)?;
                let locker = descriptor.locks.iter().find_map(|lock| match lock {
                    KernelLock::Flock(_, locker) => Some(locker.pid),
                    KernelLock::Bytes { .. } => None,
                })?;
                Some(Shown { strength, locker })
            };
            descriptors.iter().filter_map(shown).collect::<Vec<_>>()
        }
        // Another user's process: only calls of flock(2) are visible.
        None => {
            let shown = |locker: &Locker| Shown { strength: Strength::of_locker(locker), locker: pid };
            lockers.iter().filter(|locker| locker.pid == pid).map(shown).collect()
        }
    })
    .collect()
}

fn us() -> i32 {
    getpid().as_raw_nonzero().get()
}

/// Without process 1: every process descends from it, and it waits for no lock.
fn ancestors_but_init() -> impl Iterator<Item = i32> {
    process::ancestors(us()).filter(|pid| *pid != 1)
}

/// The markers whose lock on this file is still held by an outer lockrun. Called before
/// we lock the file ourselves.
///
/// While it is held, we have inherited the lock (even if that lockrun was killed) or,
/// if a descriptor was closed on the way, an ancestor has it. After its release,
/// neither has it, even if it was granted again.
pub fn held_around(markers: &[Marker], lock: &File, identity: Identity) -> Vec<Marker> {
    let mut about_this: Vec<Marker> = markers.iter().filter(|marker| marker.identity == identity).copied().collect();
    if about_this.is_empty() {
        return about_this;
    }
    let shown = shown(std::iter::once(us()).chain(process::ancestors(us())), lock, identity);
    about_this.retain(|marker| shown.iter().any(|shown| shown.strength == marker.strength));
    about_this
}

/// Locks of this process or its ancestors on the file, whatever the environment says.
/// The fencing token comes from a matching record; without one it is 0, which no grant
/// has.
pub fn held_by_ancestors(lock: &File, identity: Identity, records: &[(Option<u32>, Record)]) -> Vec<Marker> {
    let marker = |shown: Shown| {
        let is_about_it = |record: &&(Option<u32>, Record)| {
            record.1.pid == shown.locker && (record.0.is_none() || record.0 == shown.strength.slot())
        };
        let fence = records.iter().filter(is_about_it).map(|(_, record)| record.fence).max().unwrap_or(0);
        Marker { identity, fence, strength: shown.strength }
    };
    shown(std::iter::once(us()).chain(ancestors_but_init()), lock, identity).into_iter().map(marker).collect()
}

/// A lock and its queue.
#[derive(Clone, Copy)]
pub struct Lock<'a> {
    pub file: &'a File,
    pub identity: Identity,
    pub queue: &'a Queue,
    pub queue_identity: Identity,
}

/// The grants held for us by tokens of our own user: the token in our environment, and
/// those owned by our ancestors.
/// Errors: the queue cannot be read.
pub fn held_by_tokens(lock: Lock<'_>) -> io::Result<Vec<Marker>> {
    let us = geteuid().as_raw();
    let mut held = Vec::new();
    let token = match std::env::var_os(token::VARIABLE).and_then(|word| AnyToken::parse(word.as_encoded_bytes())) {
        Some(AnyToken::Files(token)) => Some(token),
        Some(AnyToken::Server(_)) | None => None,
    };
    for marker in token.iter().flat_map(|token| &token.grants).filter_map(|grant| grant.marker.parse::<Marker>().ok()) {
        if marker.identity == lock.identity && lock.queue.is_token_held(marker.fence)? {
            let kernel = Kernel::look_thoroughly();
            let lockers = kernel.id_of(lock.file).map_or(&[][..], |id| kernel.lockers(id));
            let kept = lockers.iter().filter_map(|locker| kept_by(locker.pid, us, lock, None));
            held.extend(kept.filter(|kept| kept.fence == marker.fence));
        }
    }
    for OwnedToken { owner, holder } in lock.queue.keepers_for(ancestors_but_init())? {
        held.extend(kept_by(holder, us, lock, Some(owner)));
    }
    Ok(held)
}

/// As [`held_by_tokens`], for ancestors of another user that own a token, as above
/// `sudo lockrun` in a script. That token is not ours, but our ancestor is waiting for
/// us.
pub fn held_by_tokens_of_others(lock: Lock<'_>) -> io::Result<Vec<Marker>> {
    let us = geteuid().as_raw();
    let tokens = lock.queue.keepers_for(ancestors_but_init())?.into_iter();
    let others = tokens.filter_map(|OwnedToken { owner, holder }| {
        let user = process::user_id(owner).filter(|user| *user != us)?;
        kept_by(holder, user, lock, Some(owner))
    });
    Ok(others.collect())
}

/// The grant of a token, if this process is of this user and really holds the lock for
/// that owner.
fn kept_by(holder: i32, user: u32, lock: Lock<'_>, owner: Option<i32>) -> Option<Marker> {
    if process::user_id(holder) != Some(user) {
        return None;
    }
    let mut descriptors = kernel::descriptors_of(holder)?;
    // A keeper does not inherit its lock.
    descriptors.retain(|descriptor| descriptor.closes_on_exec);
    if owner.is_some_and(|owner| !descriptors.iter().any(|descriptor| descriptor.process == Some(owner))) {
        return None;
    }
    let announced = |descriptor: &Descriptor| {
        let fence = descriptor.locks.iter().find_map(|lock| match lock {
            KernelLock::Bytes { first, .. } => lanes::fence_of_token_byte(*first),
            KernelLock::Flock(..) => None,
        })?;
        (Identity::behind(&descriptor.path) == Ok(Some(lock.queue_identity))).then_some(fence)
    };
    Some(Marker {
        identity: lock.identity,
        fence: descriptors.iter().find_map(announced)?,
        strength: descriptors.iter().find_map(|descriptor| Strength::shown(descriptor, lock.identity))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn markers_are_read_back() {
        for strength in [Strength::Exclusive, Strength::Shared, Strength::Slot(7)] {
            let marker = Marker { identity: Identity { device: 0xfe00, inode: 99 }, fence: u64::MAX, strength };
            assert_eq!(marker.to_string().parse(), Ok(marker));
        }
        assert!("".parse::<Marker>().is_err());
        assert!("1:2:3".parse::<Marker>().is_err());
    }

    #[test]
    fn what_is_held_covers_what_is_weaker() {
        let slot = |which| Mode::Slot { of: 4, which };
        assert!(Strength::Exclusive.covers(Mode::Shared) && Strength::Exclusive.covers(slot(None)));
        assert!(Strength::Shared.covers(Mode::Shared) && !Strength::Shared.covers(Mode::Exclusive));
        assert!(Strength::Slot(1).covers(slot(Some(1))) && !Strength::Slot(1).covers(slot(Some(2))));
        assert!(!Strength::Slot(1).covers(Mode::Exclusive));
    }

    proptest! {
        #[test]
        fn hostile_markers_are_ignored_or_come_back(
            word in crate::hostile::text("fe00:9c0712:1795627751485624:x\nfe00:63:7:s\n1:2:3:1023"),
        ) {
            if let Ok(marker) = String::from_utf8_lossy(&word).parse::<Marker>() {
                prop_assert_eq!(marker.to_string().parse(), Ok(marker));
                let _ = judge(&[marker], Mode::Shared, true);
            }
        }
    }
}
