//! Locks that a lockrun around us holds.
//!
//! COMMAND finds in its environment which locks it runs under. That alone
//! proves nothing: a process may have outlived the lock. It also inherited
//! the lock's description, and whether that is locked, the kernel tells.

use std::fmt;
use std::fs;
use std::str::FromStr;

use super::open::Identity;
use crate::lock::Mode;
use crate::process;
use crate::record::Record;
use crate::token::Token;

/// Where COMMAND finds them: one word for each lock.
pub const VARIABLE: &str = "LOCKRUN_HELD";
/// Deeper nesting forgets the outermost ones.
const MOST: usize = 1024;

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
    Place(u32),
}

/// What a request under these markers comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can be asked for.
    Ask,
    /// It is held for us at least as strongly.
    Covered(Marker),
    /// It would wait for itself.
    Deadlock,
}

impl Strength {
    pub fn of(mode: Mode, place: Option<u32>) -> Self {
        match (mode, place) {
            (Mode::Place { .. }, Some(place)) => Strength::Place(place),
            (Mode::Shared, _) => Strength::Shared,
            _ => Strength::Exclusive,
        }
    }

    /// Whether this mode can be granted beside it: another place of a pool.
    pub fn leaves_room_for(self, mode: Mode) -> bool {
        match (self, mode) {
            (Strength::Place(held), Mode::Place { which: Some(place), .. }) => place != held,
            (Strength::Place(held), Mode::Place { which: None, of }) => of > 1 || held >= of,
            _ => false,
        }
    }

    /// Whether a request of this mode asks for no more.
    pub fn covers(self, mode: Mode) -> bool {
        match self {
            Strength::Exclusive => true,
            Strength::Shared => mode == Mode::Shared,
            Strength::Place(held) => match mode {
                Mode::Place { which: Some(place), .. } => place == held,
                Mode::Place { which: None, of } => held < of,
                Mode::Exclusive | Mode::Shared => false,
            },
        }
    }
}

impl Marker {
    /// The place of a pool that is held.
    pub fn place(&self) -> Option<u32> {
        if let Strength::Place(place) = self.strength { Some(place) } else { None }
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { device, inode } = self.identity;
        write!(f, "{device:x}:{inode:x}:{}:", self.fence)?;
        match self.strength {
            Strength::Exclusive => f.write_str("x"),
            Strength::Shared => f.write_str("s"),
            Strength::Place(place) => write!(f, "{place}"),
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
                place => Strength::Place(place.parse().map_err(drop)?),
            },
        })
    }
}

/// The markers of our environment.
pub fn markers() -> Vec<Marker> {
    let Some(words) = std::env::var_os(VARIABLE) else { return Vec::new() };
    words.to_string_lossy().split(' ').filter_map(|word| word.parse().ok()).collect()
}

/// The variable for COMMAND: those around us, and ours.
pub fn for_command(around: &[Marker], ours: impl Iterator<Item = String>) -> String {
    let around = around.iter().map(Marker::to_string);
    let words: Vec<String> = around.chain(ours).collect();
    words[words.len().saturating_sub(MOST)..].join(" ")
}

/// Judges a request for the lock `identity`. With `reentrant`, what is held
/// strongly enough need not be taken.
pub fn judge(markers: &[Marker], identity: Identity, mode: Mode, reentrant: bool) -> Verdict {
    let mut about_this = markers.iter().filter(|marker| marker.identity == identity).peekable();
    if about_this.peek().is_none() || !is_inherited_lock(identity) {
        return Verdict::Ask;
    }
    let about_this: Vec<Marker> = about_this.copied().collect();
    if reentrant && let Some(marker) = about_this.iter().find(|marker| marker.strength.covers(mode)) {
        return Verdict::Covered(*marker);
    }
    let places: Vec<u32> = about_this.iter().filter_map(Marker::place).collect();
    let is_pool = places.len() == about_this.len();
    match mode {
        // Another place may be free, or become free.
        Mode::Place { which: None, of } if is_pool && !(0..of).all(|place| places.contains(&place)) => Verdict::Ask,
        Mode::Place { which: Some(place), .. } if is_pool && !places.contains(&place) => Verdict::Ask,
        _ => Verdict::Deadlock,
    }
}

/// Whether we inherited a description of this file that is locked. True under
/// the holder, also when the lockrun that took the lock was killed; false once
/// the lock was given back, whoever has it now.
fn is_inherited_lock(identity: Identity) -> bool {
    let Ok(descriptors) = fs::read_dir("/proc/self/fd") else { return false };
    descriptors.filter_map(Result::ok).any(|descriptor| {
        let is_the_file = fs::metadata(descriptor.path()).is_ok_and(|file| {
            use std::os::unix::fs::MetadataExt;
            Identity { device: file.dev(), inode: file.ino() } == identity
        });
        is_the_file && {
            let info = std::path::Path::new("/proc/self/fdinfo").join(descriptor.file_name());
            fs::read_to_string(info).is_ok_and(|info| info.lines().any(is_flock_line))
        }
    })
}

fn is_flock_line(line: &str) -> bool {
    line.strip_prefix("lock:").is_some_and(|lock| lock.split_ascii_whitespace().nth(1) == Some("FLOCK"))
}

/// Whether the grant of this record is a token's that we have, or whose owner
/// we run under.
pub fn is_token_for_us(record: &Record, file: &str) -> bool {
    let by_token = std::env::var_os("LOCKRUN_TOKEN")
        .and_then(|word| Token::parse(word.as_encoded_bytes()))
        .is_some_and(|token| token.grants.iter().any(|grant| grant.fence == record.fence && grant.file == file));
    by_token
        || record.owner.is_some_and(|owner| {
            let us = rustix::process::getpid().as_raw_nonzero().get();
            process::ancestors(us).any(|ancestor| ancestor == owner)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read_back() {
        for strength in [Strength::Exclusive, Strength::Shared, Strength::Place(7)] {
            let marker = Marker { identity: Identity { device: 0xfe00, inode: 99 }, fence: u64::MAX, strength };
            assert_eq!(marker.to_string().parse(), Ok(marker));
        }
        assert!("".parse::<Marker>().is_err());
        assert!("1:2:3".parse::<Marker>().is_err());
    }

    #[test]
    fn what_is_held_covers_what_is_weaker() {
        let place = |which| Mode::Place { of: 4, which };
        assert!(Strength::Exclusive.covers(Mode::Shared) && Strength::Exclusive.covers(place(None)));
        assert!(Strength::Shared.covers(Mode::Shared) && !Strength::Shared.covers(Mode::Exclusive));
        assert!(Strength::Place(1).covers(place(Some(1))) && !Strength::Place(1).covers(place(Some(2))));
        assert!(!Strength::Place(1).covers(Mode::Exclusive));
    }
}
