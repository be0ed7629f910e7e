//! The one rule for file names in the locks directory.
//!
//! `STEM.lock` is the lock of a name, with its queue and record. `%-DEVICE-INODE.gate`
//! has queue and record of a file that is locked by path; that file is never written
//! to.

use super::identity::Identity;
use crate::name;

/// A lock file, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockFile {
    /// The stem encodes the lock's name.
    Named(String),
    /// Queue and record of this file.
    Gate(Identity),
}

impl LockFile {
    /// The lock file of a name.
    pub fn of_name(name: &[u8]) -> Self {
        Self::Named(name::stem(name))
    }

    /// Parses a file name; `None`: not a lock file.
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

    pub fn file_name(&self) -> String {
        match self {
            Self::Named(stem) => format!("{stem}.lock"),
            Self::Gate(identity) => name::path_stem(identity.device, identity.inode) + ".gate",
        }
    }

    /// The lock's name; `None`: the stem has only its hash, or it is a gate.
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn hostile_file_names_are_not_ours_or_come_back(
            name in crate::hostile::text(include_str!("../../../tests/corpus/file-names")),
        ) {
            let name = String::from_utf8_lossy(&name);
            if let Some(file) = LockFile::parse(&name) {
                prop_assert_eq!(file.file_name(), name);
                prop_assert!(file.name().is_none_or(|name| LockFile::of_name(&name) == file));
            }
        }
    }
}
