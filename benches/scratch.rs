//! A directory for locks and records that goes with the bench.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{env, process};

use anyhow::Context;

/// Made 0700 under the temporary directory, removed with everything in it.
pub struct Scratch {
    path: PathBuf,
    places: Cell<u32>,
}

impl Scratch {
    pub fn new() -> anyhow::Result<Self> {
        let path = env::temp_dir().join(format!("lockrun-bench-{}", process::id()));
        make_private(&path)?;
        Ok(Self { path, places: Cell::new(0) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new, empty locks directory, so that no measurement meets the files of
    /// another.
    pub fn locks_directory(&self) -> anyhow::Result<PathBuf> {
        self.places.set(self.places.get() + 1);
        let place = self.path.join(format!("locks-{}", self.places.get()));
        make_private(&place)?;
        Ok(place)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing useful can be done about a failure; the directory is ours
        // alone and lies where the system cleans up.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn make_private(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new().mode(0o700).create(directory).with_context(|| format!("making {}", directory.display()))
}
