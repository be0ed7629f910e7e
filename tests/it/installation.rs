//! `make install` puts everything in its place, and `make uninstall` removes it.

use crate::support::Sandbox;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn installs_program_manual_and_completions() {
    let sandbox = Sandbox::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let variables = [
        format!("DESTDIR={}", sandbox.path("package").display()),
        format!("BINARY={}", env!("CARGO_BIN_EXE_lockrun")),
        "PREFIX=/usr".to_owned(),
    ];
    let args = ["-C", root.to_str().unwrap(), "install"].map(str::to_owned);
    sandbox.command("make", &[&args[..], &variables[..]].concat()).umask(0o077).run().assert_code(0);

    let installed = |file: &str| sandbox.path("package/usr").join(file);
    let mode = |file: &str| fs::metadata(installed(file)).unwrap().permissions().mode() & 0o777;
    sandbox.command(installed("bin/lockrun"), &["--version"]).run().assert_code(0);
    assert_eq!(mode("bin/lockrun"), 0o755);
    for (file, source) in [
        ("share/man/man1/lockrun.1", "man/lockrun.1"),
        ("share/man/man7/lockrun-store.7", "man/lockrun-store.7"),
        ("share/bash-completion/completions/lockrun", "completions/lockrun.bash"),
        ("share/zsh/site-functions/_lockrun", "completions/_lockrun"),
        ("share/fish/vendor_completions.d/lockrun.fish", "completions/lockrun.fish"),
    ] {
        assert_eq!(fs::read(installed(file)).unwrap(), fs::read(root.join(source)).unwrap(), "{file}");
        assert_eq!(mode(file), 0o644, "{file}");
    }
    let pages = |directory: &Path| {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".1")).count()
    };
    assert_eq!(pages(&installed("share/man/man1")), pages(&root.join("man")));
}

#[test]
fn uninstall_removes_what_was_installed_and_nothing_else() {
    let sandbox = Sandbox::new();
    let variables = [
        format!("DESTDIR={}", sandbox.path("package").display()),
        format!("BINARY={}", env!("CARGO_BIN_EXE_lockrun")),
        "LINKDIR=/links".to_owned(),
    ];
    let make = |target: &str| {
        let args = ["-C", env!("CARGO_MANIFEST_DIR"), target].map(str::to_owned);
        sandbox.command("make", &[&args[..], &variables[..]].concat()).run().assert_code(0);
    };
    let left = || {
        let find = ["package", "!", "-type", "d"];
        sandbox.command("find", &find).current_dir(&sandbox.path("")).run().assert_code(0).stdout.clone()
    };
    make("install");
    make("install-flock");
    sandbox.write("package/usr/local/bin/other", "another program");
    assert!(left().lines().count() > 10, "{}", left());
    make("uninstall");
    assert_eq!(left(), "package/usr/local/bin/other\n");
    // A second time, and with a flock that is not our link.
    sandbox.write("package/links/flock", "another flock");
    make("uninstall");
    assert_eq!(left().lines().count(), 2, "{}", left());
}

#[test]
fn install_flock_makes_a_link() {
    let sandbox = Sandbox::new();
    let root = env!("CARGO_MANIFEST_DIR");
    let make = |variables: &[String]| {
        let args = ["-s", "-C", root, "install-flock"].map(str::to_owned);
        sandbox.command("make", &[&args[..], variables].concat()).run()
    };
    make(&[]).assert_code(2).assert_stderr_has(&["where? make install-flock LINKDIR="]);
    let variables = |directory: &str| {
        let directory = sandbox.path(directory);
        [format!("LINKDIR={}", directory.display()), format!("BINDIR={}", sandbox.path("bin").display())]
    };
    for _ in 0..2 {
        make(&variables("links")).assert_code(0);
    }
    let flock = sandbox.path("links/flock");
    sandbox.command(&flock, &["-n", "file", "sh", "-c", "exit 7"]).run().assert_code(7).assert_silent();
    let version = sandbox.command(&flock, &["--version"]).run();
    assert!(version.assert_code(0).stdout.starts_with("flock from lockrun "), "{version:?}");
    // A program that is no link stays.
    sandbox.write("work/flock", "mine");
    make(&variables("work")).assert_code(2).assert_stderr_has(&["was not replaced"]);
    assert_eq!(fs::read_to_string(sandbox.path("work/flock")).unwrap(), "mine");
}

#[test]
fn apropos_shows_every_page_with_its_whole_line() {
    let sandbox = Sandbox::new();
    let man = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let mut expected = Vec::new();
    for page in fs::read_dir(&man).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let section = page.extension().unwrap().to_str().unwrap().to_owned();
        let directory = sandbox.make_dir(&format!("share/man/man{section}"), 0o755);
        let text = fs::read_to_string(&page).unwrap();
        fs::copy(&page, directory.join(page.file_name().unwrap())).unwrap();
        let line = text.lines().skip_while(|line| *line != ".SH NAME").nth(1).unwrap();
        let line = line.replace("\\(aq", "'").replace("\\-", "-");
        let (name, what) = line.split_once(" - ").unwrap();
        expected.push(format!("{name} ({section}) - {what}"));
    }
    expected.sort();
    assert!(expected.len() > 10, "{expected:?}");
    let path = sandbox.path("share/man").display().to_string();
    let run = |program: &str, words: &[&str]| sandbox.command(program, words).env("MANPATH", &path).run();
    run("mandb", &["--quiet", "--create", "--user-db", &path]).assert_code(0);
    let shown = run("apropos", &["--long", "lockrun"]).assert_code(0).stdout.clone();
    let mut shown: Vec<_> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    shown.sort();
    assert_eq!(shown, expected);
}
