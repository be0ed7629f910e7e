//! Locks that are held around us: by a lockrun whose command we run under,
//! or by a token.
//!
//! COMMAND finds in its environment which locks it runs under. That alone
//! proves nothing: a process may have outlived the lock. Whether we or one of
//! those who started us have it locked, the kernel shows. Whoever holds a lock
//! for a token is found by the signs in the lock's queue, and the kernel shows
//! for whom. The lock's text tells nothing here: it is about the last grant.

use std::cell::LazyCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::str::FromStr;

use rustix::process::getpid;

use super::identity::Identity;
use super::kernel::{self, Descriptor, Kernel, KernelLock, Locker};
use super::queue::{self, OwnedToken, Queue};
use super::slots;
use crate::lock::{Mode, markers};
use crate::process;
use crate::token::Token;

/// One lock, held around a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The locked file.
    pub identity: Identity,
    /// The grant.
    pub fence: u64,
    /// How strongly it is held.
    pub strength: Strength,
}

/// How strongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    Exclusive,
    Shared,
    Slot(u32),
}

/// What a request under these markers comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    /// It can be asked for.
    Outside,
    /// It is held for us at least as strongly.
    Covered(Marker),
    /// It would wait for itself.
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

    /// As the kernel shows it, if the descriptor has the lock of this file.
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
    /// The slot of a pool that is held.
    pub fn slot(&self) -> Option<u32> {
        if let Strength::Slot(slot) = self.strength { Some(slot) } else { None }
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

/// The markers of our environment that are about lock files.
pub fn markers_around() -> Vec<Marker> {
    markers::around().iter().filter_map(|word| word.parse().ok()).collect()
}

/// Judges a request for a lock of which this is held for us. With
/// `reentrant`, what is held strongly enough need not be taken.
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
        // Another slot may be free, or become free.
        Mode::Slot { which: None, of } if is_pool && !(0..of).all(|slot| slots.contains(&slot)) => Nesting::Outside,
        Mode::Slot { which: Some(slot), .. } if is_pool && !slots.contains(&slot) => Nesting::Outside,
        _ => Nesting::Deadlock,
    }
}

/// Of these markers, those of the lock on this file that is held around us
/// still. To be asked before we lock it ourselves.
///
/// Under the holder, either we have inherited the lock, also when the lockrun
/// that took it was killed, or, where the descriptor was closed on the way,
/// one of our ancestors has it. Once it was given back, nobody of them has,
/// whoever has it now.
pub fn held_around(markers: &[Marker], lock: &File, identity: Identity) -> Vec<Marker> {
    let mut about_this: Vec<Marker> = markers.iter().filter(|marker| marker.identity == identity).copied().collect();
    if about_this.is_empty() {
        return about_this;
    }
    let us = getpid().as_raw_nonzero().get();
    let lockers = LazyCell::new(|| {
        let kernel = Kernel::look();
        kernel.id_of(lock).map_or_else(Vec::new, |lock| kernel.lockers(lock).to_vec())
    });
    let holders = std::iter::once(us).chain(process::ancestors(us));
    let shown: Vec<Strength> = holders
        .flat_map(|pid| match kernel::descriptors_of(pid) {
            Some(descriptors) => {
                descriptors.iter().filter_map(|descriptor| Strength::shown(descriptor, identity)).collect()
            }
            // Another user's: who called flock(2) is shown to everybody.
            None => lockers.iter().filter(|locker| locker.pid == pid).map(Strength::of_locker).collect::<Vec<_>>(),
        })
        .collect();
    about_this.retain(|marker| shown.contains(&marker.strength));
    about_this
}

/// By which grants the lock on this file is held for us by tokens: one of our
/// environment, and those of our ancestors.
///
/// # Errors
/// The queue cannot be read.
pub fn held_by_tokens(lock: Identity, queue: &Queue, queue_identity: Identity) -> io::Result<Vec<Marker>> {
    let mut held = Vec::new();
    let token = std::env::var_os("LOCKRUN_TOKEN").and_then(|word| Token::parse(word.as_encoded_bytes()));
    for marker in token.iter().flat_map(|token| &token.grants).filter_map(|grant| grant.marker.parse::<Marker>().ok()) {
        if marker.identity == lock && queue.is_token_held(marker.fence)? {
            held.push(marker);
        }
    }
    let us = getpid().as_raw_nonzero().get();
    for sign in queue.keepers_for(process::ancestors(us))? {
        held.extend(held_by_token(&sign, lock, queue_identity));
    }
    Ok(held)
}

/// The grant of a token, if the process that the sign names, as we know
/// processes, really holds the lock on behalf of that owner.
fn held_by_token(sign: &OwnedToken, lock: Identity, queue: Identity) -> Option<Marker> {
    let mut descriptors = kernel::descriptors_of(sign.holder)?;
    // What it has inherited is somebody else's.
    descriptors.retain(|descriptor| descriptor.closes_on_exec);
    descriptors.iter().find(|descriptor| descriptor.process == Some(sign.owner))?;
    let sign_on = |descriptor: &Descriptor| {
        let grant = descriptor.locks.iter().find_map(|line| match line {
            KernelLock::Bytes { first, .. } => queue::fence_of_token_byte(*first),
            KernelLock::Flock(..) => None,
        })?;
        (Identity::behind(&descriptor.path) == Ok(Some(queue))).then_some(grant)
    };
    Some(Marker {
        identity: lock,
        fence: descriptors.iter().find_map(sign_on)?,
        strength: descriptors.iter().find_map(|descriptor| Strength::shown(descriptor, lock))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
