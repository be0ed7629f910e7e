//! `make deb` and `make rpm`: unpacked, everything is in its place and runs.

use crate::support::Sandbox;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What the system's own programs read, and what it was made of.
const FILES: [(&str, &str); 3] = [
    ("usr/share/bash-completion/completions/lockrun", "completions/lockrun.bash"),
    ("usr/share/fish/vendor_completions.d/lockrun.fish", "completions/lockrun.fish"),
    ("usr/share/doc/lockrun/README.md", "README.md"),
];

#[test]
fn a_debian_package_installs_and_runs() {
    let sandbox = Sandbox::new();
    let package = package(&sandbox, "deb");
    let package = package.to_str().unwrap();
    sandbox.command("dpkg-deb", &["-x", package, "root"]).run().assert_code(0);
    assert_installed(&sandbox, ".1.gz");
    assert_same_file(&sandbox, "usr/share/zsh/vendor-completions/_lockrun", "completions/_lockrun");
    let control = sandbox.command("dpkg-deb", &["-f", package]).run().stdout;
    for line in ["Package: lockrun", &format!("Version: {}-1", env!("CARGO_PKG_VERSION")), "Depends: "] {
        assert!(control.lines().any(|found| found == line), "{line:?} in {control}");
    }
    let copyright = fs::read_to_string(sandbox.path("work/root/usr/share/doc/lockrun/copyright")).unwrap();
    let license = read("LICENSE-MIT");
    assert!(copyright.contains(license.trim()), "{copyright}");
}

#[test]
fn an_rpm_package_installs_and_runs() {
    let sandbox = Sandbox::new();
    let package = package(&sandbox, "rpm");
    let package = package.to_str().unwrap();
    // rpm2cpio fails where the package does not say how large its archive is.
    let unpack = "mkdir root && rpm2cpio \"$0\" | (cd root && cpio -idm --quiet)";
    sandbox.command("sh", &["-c", unpack, package]).run().assert_code(0).assert_silent();
    assert_installed(&sandbox, ".1");
    assert_same_file(&sandbox, "usr/share/zsh/site-functions/_lockrun", "completions/_lockrun");
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert_same_file(&sandbox, &format!("usr/share/licenses/lockrun/{license}"), license);
    }
    let asked = |what: &str| sandbox.command("rpm", &["-qp", what, package]).run().assert_code(0).stdout.clone();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(asked("--provides").lines().next(), Some(&*format!("lockrun = {version}-1")));
    // What rpm itself must be able to read is all that it needs.
    let needed = asked("--requires");
    assert!(needed.lines().all(|line| line.starts_with("rpmlib(")), "{needed}");
}

/// What `make` makes of the program under test: as the release build, it is
/// linked statically.
fn package(sandbox: &Sandbox, kind: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_lockrun"));
    // TARGET/PROFILE/lockrun
    let target = built.parent().and_then(Path::parent).and_then(Path::file_name).unwrap().to_str().unwrap();
    let release = sandbox.make_dir(&format!("target/{target}/release"), 0o755);
    // Without what a debugger wants to know: the release build has none of it.
    let strip = ["-o".into(), release.join("lockrun").into_os_string(), built.into()];
    sandbox.command("strip", &strip).run().assert_code(0);
    let variable = |name: &str, directory: &str| format!("{name}={}", sandbox.path(directory).display());
    let variables = [variable("CARGO_TARGET_DIR", "target"), variable("PACKAGES", "packages")];
    let args = ["-C", env!("CARGO_MANIFEST_DIR"), "-o", "build", kind].map(str::to_owned);
    let mut make = sandbox.command("make", &[&args[..], &variables].concat());
    // cargo, and what it keeps.
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Some(value) = std::env::var_os(name) {
            make = make.env(name, value);
        }
    }
    make.run().assert_code(0);
    let mut made = fs::read_dir(sandbox.path("packages")).unwrap().map(|entry| entry.unwrap().path());
    let package = made.next().unwrap();
    assert_eq!((package.extension().unwrap().to_str(), made.next()), (Some(kind), None));
    package
}

/// The package is unpacked in `work/root`, and its pages end so.
#[track_caller]
fn assert_installed(sandbox: &Sandbox, page_suffix: &str) {
    let root = sandbox.path("work/root");
    let program = root.join("usr/bin/lockrun");
    sandbox.command(&program, &["-l", "calc", "--", "echo", "it runs"]).run().assert_code(0).assert_stdout("it runs\n");
    assert_eq!(fs::metadata(program).unwrap().permissions().mode() & 0o777, 0o755);
    for (installed, source) in FILES {
        assert_same_file(sandbox, installed, source);
    }
    let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("man")).unwrap();
    let names = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    for name in names.filter(|name| name.ends_with(".1")) {
        let page = root.join("usr/share/man/man1").join(name.replace(".1", page_suffix));
        let shown = sandbox.command("mandoc", &[&page]).run().assert_code(0).stdout.clone();
        let title = name.replace(".1", "(1)").to_uppercase();
        assert!(shown.starts_with(&title), "{title}: {shown}");
        assert_eq!(fs::metadata(page).unwrap().permissions().mode() & 0o777, 0o644, "{name}");
    }
}

#[track_caller]
fn assert_same_file(sandbox: &Sandbox, installed: &str, source: &str) {
    let path = sandbox.path("work/root").join(installed);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{installed}: {error}"));
    assert!(text == read(source), "{installed} is not {source}");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o644, "{installed}");
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}
