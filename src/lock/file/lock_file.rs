//! The one rule for names of files in the locks directory.
//!
//! `STEM.lock` is the lock of a name, with its queue and its record.
//! `%-DEVICE-INODE.gate` has the queue and the record of a file that is locked
//! by path; the lock itself is on that file, which is never written to.

use super::identity::Identity;
use crate::name;

/// A file of ours, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockFile {
    /// The lock of a name, which is encoded in this stem.
    Named(String),
    /// What belongs to the lock on this file of somebody else's.
    Gate(Identity),
}

impl LockFile {
    /// The file of a lock with a name.
    pub fn of_name(name: &[u8]) -> Self {
        Self::Named(name::stem(name))
    }

    /// What a file name stands for; `None`: it is not one of ours.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (stem, suffix) = file_name.rsplit_once('.')?;
        match suffix {
            "lock" if name::of_stem(stem).is_some() || name::may_begin(stem, b"").is_some() => {
                Some(Self::Named(stem.to_owned()))
            }
            "gate" => name::of_path_stem(stem).map(|(device, inode)| Self::Gate(Identity { device, inode })),
            _ => None,
        }
    }

    /// Its name in the locks directory.
    pub fn file_name(&self) -> String {
        match self {
            Self::Named(stem) => format!("{stem}.lock"),
            Self::Gate(identity) => name::path_stem(identity.device, identity.inode) + ".gate",
        }
    }

    /// The lock's name; `None`: only a hash of it is left, or it has none.
    pub fn name(&self) -> Option<Vec<u8>> {
        match self {
            Self::Named(stem) => name::of_stem(stem),
            Self::Gate(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_read_back_and_others_are_not_ours() {
        let gate = LockFile::Gate(Identity { device: 0xfe00, inode: 99 });
        for file in [LockFile::of_name(b"calc"), LockFile::of_name(&[b'x'; 500]), gate] {
            assert_eq!(LockFile::parse(&file.file_name()), Some(file));
        }
        for name in ["calc", "calc.gate", "a b.lock", ".lock", "calc.lock.old", ".floor"] {
            assert_eq!(LockFile::parse(name), None, "{name}");
        }
    }
}
