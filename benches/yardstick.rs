//! The C programs that lockrun is measured with and against, compiled into
//! cargo's target directory.
//!
//! They are C, static and tiny, so that a figure shows the locking tool and not
//! the start-up of what it ran. No C compiler is needed beyond the one that
//! cargo linked this bench with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Paths of the compiled programs; each one's source says what it does.
pub struct Yardstick {
    /// `true`: ends at once.
    pub truth: PathBuf,
    pub lock_spawn: PathBuf,
    pub lock_exec: PathBuf,
    pub stamp: PathBuf,
    pub hold: PathBuf,
    pub stopwatch: PathBuf,
}

impl Yardstick {
    pub fn build() -> anyhow::Result<Self> {
        Ok(Self {
            truth: compile("true")?,
            lock_spawn: compile("lock_spawn")?,
            lock_exec: compile("lock_exec")?,
            stamp: compile("stamp")?,
            hold: compile("hold")?,
            stopwatch: compile("stopwatch")?,
        })
    }
}

fn compile(name: &str) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/yardstick").join(name).with_extension("c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new("cc")
        .args(["-O2", "-static", "-Wall", "-o"])
        .args([&program, &source])
        .status()
        .context("cannot run cc (apt install gcc libc6-dev)")?;
    ensure!(
        status.success(),
        "cc could not compile {} (a static libc is needed: apt install libc6-dev)",
        source.display()
    );
    Ok(program)
}
