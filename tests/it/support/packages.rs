//! What `make` packs of the program under test.

use super::Sandbox;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs `make TARGETS...` on the program under test, which is linked statically as the
/// release build is. What it writes, in `packages`, sorted.
#[track_caller]
pub fn packages(sandbox: &Sandbox, targets: &[&str]) -> Vec<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_lockrun"));
    // TARGET/PROFILE/lockrun
    let target = built.parent().and_then(Path::parent).and_then(Path::file_name).unwrap().to_str().unwrap();
    let release = sandbox.make_dir(&format!("target/{target}/release"), 0o755);
    // Without what a debugger wants to know: the release build has none of it.
    let strip = ["-o".into(), release.join("lockrun").into_os_string(), built.into()];
    sandbox.command("strip", &strip).run().assert_code(0);
    let variable = |name: &str, directory: &str| format!("{name}={}", sandbox.path(directory).display());
    let variables = [variable("CARGO_TARGET_DIR", "target"), variable("PACKAGES", "packages")];
    let quickly = ["DEB_FLAGS=--fast", "RPM_FLAGS=--payload-compress none"];
    let args = ["-C", env!("CARGO_MANIFEST_DIR"), "-o", "build"];
    let args: Vec<_> = args.iter().chain(&quickly).chain(targets).copied().collect();
    let mut make = sandbox.command("make", &[args, variables.iter().map(String::as_str).collect()].concat());
    // cargo, and what it keeps.
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Some(value) = std::env::var_os(name) {
            make = make.env(name, value);
        }
    }
    make.run().assert_code(0);
    let mut made: Vec<_> = fs::read_dir(sandbox.path("packages")).unwrap().map(|entry| entry.unwrap().path()).collect();
    made.sort();
    made
}
