//! `make deb`, `rpm`, `wheel` and `dist`: unpacked or installed, everything is in its
//! place and runs; removed, nothing is left.

use crate::support::{Sandbox, may_act_as_root, packages};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What the system's own programs read, and what it was made of.
const FILES: [(&str, &str); 3] = [
    ("usr/share/bash-completion/completions/lockrun", "completions/lockrun.bash"),
    ("usr/share/fish/vendor_completions.d/lockrun.fish", "completions/lockrun.fish"),
    ("usr/share/doc/lockrun/README.md", "README.md"),
];

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn a_debian_package_installs_and_runs() {
    let sandbox = Sandbox::new();
    let package = package(&sandbox, "deb", "deb");
    // What is overridden, and why, stands in packaging/debian.
    sandbox.command("lintian", &["--allow-root", &package]).run().assert_code(0).assert_stdout("");
    let control = sandbox.command("dpkg-deb", &["-f", &package]).run().stdout;
    for line in ["Package: lockrun", &format!("Version: {VERSION}-1"), "Depends: "] {
        assert!(control.lines().any(|found| found == line), "{line:?} in {control}");
    }
    sandbox.command("dpkg-deb", &["-x", &package, "root"]).run().assert_code(0);
    assert_installed(&sandbox, ".gz");
    assert_same_file(&sandbox, "usr/share/zsh/vendor-completions/_lockrun", "completions/_lockrun");
    assert_same_file(&sandbox, "usr/share/doc/lockrun/copyright", "packaging/debian/copyright");

    if !may_act_as_root("dpkg --root") {
        return;
    }
    let root = empty_root(&sandbox);
    for directory in ["info", "updates"] {
        sandbox.make_dir(&format!("work/root/var/lib/dpkg/{directory}"), 0o755);
    }
    sandbox.write("work/root/var/lib/dpkg/status", "");
    let options = [format!("--root={}", root.display()), "--log=/dev/null".to_owned()];
    let dpkg = |action: &str, what: &str| {
        let words = [&options[..], &[action.to_owned(), what.to_owned()]].concat();
        sandbox.command("dpkg", &words).run().assert_code(0);
    };
    dpkg("--install", &package);
    assert_installed(&sandbox, ".gz");
    dpkg("--purge", "lockrun");
    assert_removed(&root);
}

#[test]
fn an_rpm_package_installs_and_runs() {
    let sandbox = Sandbox::new();
    let package = package(&sandbox, "rpm", "rpm");
    let asked = |what: &str| sandbox.command("rpm", &["-qp", what, &package]).run().assert_code(0).stdout.clone();
    assert_eq!(asked("--provides").lines().next(), Some(&*format!("lockrun = {VERSION}-1")));
    // What rpm itself must be able to read is all that it needs.
    let needed = asked("--requires");
    assert!(needed.lines().all(|line| line.starts_with("rpmlib(")), "{needed}");
    // rpm2cpio fails where the package does not say how large its archive is.
    let unpack = "mkdir root && rpm2cpio \"$0\" | (cd root && cpio -idm --quiet)";
    sandbox.command("sh", &["-c", unpack, &package]).run().assert_code(0).assert_silent();
    assert_installed(&sandbox, "");
    assert_same_file(&sandbox, "usr/share/zsh/site-functions/_lockrun", "completions/_lockrun");
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert_same_file(&sandbox, &format!("usr/share/licenses/lockrun/{license}"), license);
    }

    if !may_act_as_root("rpm --root") {
        return;
    }
    let root = empty_root(&sandbox);
    let rpm = |words: &[&str]| {
        let words = [&["--root", root.to_str().unwrap()], words].concat();
        sandbox.command("rpm", &words).run().assert_code(0);
    };
    rpm(&["--initdb"]);
    rpm(&["--install", &package]);
    assert_installed(&sandbox, "");
    rpm(&["--verify", "lockrun"]);
    rpm(&["--erase", "lockrun"]);
    assert_removed(&root);
}

#[test]
fn pip_installs_the_wheel_and_removes_it() {
    let sandbox = Sandbox::new();
    let wheel = package(&sandbox, "wheel", "whl");
    sandbox.command("python3", &["-m", "venv", "environment"]).run().assert_code(0);
    let pip = |words: &[&str]| {
        let pip = sandbox.path("work/environment/bin/pip");
        sandbox.command(pip, &[&["--disable-pip-version-check"], words].concat()).run().assert_code(0).stdout.clone()
    };
    // So it fails where the name of the wheel is not for this machine.
    pip(&["install", "--no-index", &wheel]);
    let shown = pip(&["show", "lockrun"]);
    for line in [format!("Version: {VERSION}"), format!("Summary: {}", env!("CARGO_PKG_DESCRIPTION"))] {
        assert!(shown.lines().any(|found| found == line), "{line:?} in {shown}");
    }
    let program = sandbox.path("work/environment/bin/lockrun");
    sandbox.command(&program, &["-l", "calc", "--", "echo", "it runs"]).run().assert_code(0).assert_stdout("it runs\n");
    pip(&["uninstall", "--yes", "lockrun"]);
    assert!(!program.exists());
}

/// Its tags promise every libc, which only a static program keeps.
#[test]
fn a_wheel_is_not_made_of_a_dynamic_program() {
    let sandbox = Sandbox::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/wheel");
    for (program, complaint) in [("/bin/true", "is linked dynamically"), ("/dev/null", "is not a 64-bit")] {
        sandbox.command(&script, &[program, "wheels"]).run().assert_code(1).assert_stderr_has(&[complaint]);
    }
    assert!(!sandbox.path("work/wheels").exists());
}

#[test]
fn a_tarball_to_unpack_in_usr_local() {
    let sandbox = Sandbox::new();
    let made = packages(&sandbox, &["dist"]);
    let [sums, tarball] = &made[..] else { panic!("{made:?}") };
    assert_eq!(sums.file_name().unwrap(), "SHA256SUMS");
    let check = sandbox.command("sha256sum", &["--check", "--strict", "--quiet", "SHA256SUMS"]);
    check.current_dir(&sandbox.path("packages")).run().assert_code(0);

    // A group's own directory, as Debian's /usr/local is, stays that.
    let bin = sandbox.make_dir("work/root/usr/bin", 0o2775);
    let unpack = ["-C", "root/usr", "--strip-components=1", "-xzf", tarball.to_str().unwrap()];
    sandbox.command("tar", &unpack).umask(0o022).run().assert_code(0).assert_silent();
    assert_eq!(fs::metadata(bin).unwrap().permissions().mode() & 0o7777, 0o2775);
    assert_installed(&sandbox, "");
    assert_same_file(&sandbox, "usr/share/zsh/site-functions/_lockrun", "completions/_lockrun");
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert_same_file(&sandbox, &format!("usr/share/doc/lockrun/{license}"), license);
    }
}

#[test]
fn packing_it_again_gives_the_same_bytes() {
    let pack = || {
        let sandbox = Sandbox::new();
        packages(&sandbox, &["wheel", "dist"]);
        fs::read_to_string(sandbox.path("packages/SHA256SUMS")).unwrap()
    };
    let sums = pack();
    assert_eq!(sums.lines().count(), 2, "{sums}");
    assert_eq!(sums, pack());
}

#[test]
fn the_changelogs_are_of_this_version() {
    let debian = read("packaging/debian/changelog");
    assert!(debian.starts_with(&format!("lockrun ({VERSION}-1) ")), "{debian}");
    let changelog = read("CHANGELOG.md");
    let newest = changelog.lines().find(|line| line.starts_with("## ")).unwrap();
    assert!(newest == "## [Unreleased]" || newest.starts_with(&format!("## [{VERSION}]")), "{newest}");
}

/// What `make TARGET` makes: one file with this ending.
#[track_caller]
fn package(sandbox: &Sandbox, target: &str, ending: &str) -> String {
    let made = packages(sandbox, &[target]);
    let [package] = &made[..] else { panic!("{made:?}") };
    assert_eq!(package.extension().unwrap(), ending);
    package.to_str().unwrap().to_owned()
}

/// `work/root`, without what was unpacked there.
fn empty_root(sandbox: &Sandbox) -> PathBuf {
    fs::remove_dir_all(sandbox.path("work/root")).unwrap();
    sandbox.make_dir("work/root", 0o755)
}

#[track_caller]
fn assert_removed(root: &Path) {
    assert_eq!(files_below(&root.join("usr")), Vec::<PathBuf>::new());
}

/// Everything but the directories.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// The package is unpacked in `work/root`, and the names of its pages end so.
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
    for name in names.filter(|name| name != "parts") {
        let (title, section) = name.rsplit_once('.').unwrap();
        let page = root.join(format!("usr/share/man/man{section}/{name}{page_suffix}"));
        let shown = sandbox.command("mandoc", &[&page]).run().assert_code(0).stdout.clone();
        let title = format!("{}({section})", title.to_uppercase());
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

/// A small program, linked as ours is, with a dependency below the home directory.
#[test]
fn a_release_build_does_not_name_the_builders_directories() {
    let sandbox = Sandbox::new();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = sandbox.path("home").display().to_string();
    for (name, rest, code) in [
        ("small", "[dependencies]\nlarge = { path = '../large' }\n[workspace]\n", "fn main() { large::fail() }"),
        ("large", "", "pub fn fail() { panic!() }"),
    ] {
        let package = format!("[package]\nname = '{name}'\nversion = '1.0.0'\nedition = '2024'\n{rest}");
        let file = if name == "small" { "main.rs" } else { "lib.rs" };
        sandbox.make_dir(&format!("home/{name}/src"), 0o755);
        sandbox.write(&format!("home/{name}/Cargo.toml"), &package);
        sandbox.write(&format!("home/{name}/src/{file}"), code);
    }
    sandbox.make_dir("home/small/.cargo", 0o755);
    let settings = fs::read_to_string(repository.join(".cargo/config.toml")).unwrap();
    sandbox.write("home/small/.cargo/config.toml", &settings);
    let real = PathBuf::from(std::env::var_os("HOME").unwrap());
    let toolchain = |name: &str, inside: &str| std::env::var_os(name).unwrap_or_else(|| real.join(inside).into());
    let cargo_home = toolchain("CARGO_HOME", ".cargo");
    let cargo = env!("CARGO");
    let beside_cargo = Path::new(cargo).parent().unwrap().display();
    let path = format!("{beside_cargo}:{}", std::env::var("PATH").unwrap());
    let in_home = |program: &str, words: &[&str]| {
        let command =
            sandbox.command(program, words).env("HOME", &home).env("CARGO_HOME", &cargo_home).env("PATH", &path);
        command.env("RUSTUP_HOME", toolchain("RUSTUP_HOME", ".rustup")).current_dir(&sandbox.path("home/small"))
    };
    let make = ["-s", "-n", "-C", repository.to_str().unwrap(), "build", &format!("CARGO={cargo}")];
    let line =
        in_home("make", &make).run().assert_code(0).stdout.trim().replace("--locked", "--offline --target-dir made");
    in_home("sh", &["-c", &line]).run().assert_code(0);
    in_home(cargo, &["build", "--release", "--offline", "--target-dir", "as-it-is"]).run().assert_code(0);
    let names_home = |target: &str| {
        let find = format!("grep -a -c -F '{home}' {target}/*/release/small");
        in_home("sh", &["-c", &find]).run().stdout != "0\n"
    };
    assert_eq!((names_home("made"), names_home("as-it-is")), (false, true));
}
