//! The locks directory without `--dir` and `LOCKRUN_DIR`: only the user id decides.

use crate::support::{Outcome, Sandbox, may_act_as_root, with_mounts};
use std::fs;
use std::path::Path;

const UID: u32 = 54320;

/// Runs `script` as root with an empty /run that nobody else sees.
fn as_root(script: &str) -> Option<Outcome> {
    let sandbox = Sandbox::new();
    let script = format!("mount -t tmpfs -o mode=755 none /run; unset LOCKRUN_DIR; {script}");
    Some(with_mounts(&sandbox, &script)?.run())
}

/// Runs `script` as user [`UID`], where /etc/passwd is `passwd` and getent(1)
/// answers with `getent`. `home` is writable for that user.
fn as_user(sandbox: &Sandbox, passwd: &str, getent: &str, script: &str) -> Option<Outcome> {
    if !may_act_as_root("acting as another user") {
        return None;
    }
    sandbox.make_dir("home", 0o777);
    let passwd = sandbox.write("passwd", &format!("root:x:0:0::/root:/bin/sh\n{passwd}\n"));
    let (found, code) = (format!("echo '{getent}'"), i32::from(getent.is_empty()) * 2);
    sandbox.write("getent", &format!("#!/bin/sh\n{found}; exit {code}\n"));
    let script = format!(
        "mount --bind {passwd} /etc/passwd
        chmod 755 {getent}; mount --bind {getent} $(command -v getent)
        unset LOCKRUN_DIR
        exec setpriv --reuid {UID} --regid {UID} --clear-groups sh -c '{script}'",
        passwd = passwd.display(),
        getent = sandbox.path("getent").display(),
    );
    Some(with_mounts(sandbox, &script)?.run())
}

fn entry(home: &Path) -> String {
    format!("tester:x:{UID}:{UID}::{}:/bin/sh", home.display())
}

/// The modes of what lockrun made, from `base` downwards.
fn modes(base: &Path) -> String {
    let list = std::process::Command::new("find")
        .args([base.as_os_str(), "-mindepth".as_ref(), "1".as_ref()])
        .args(["-printf", "%m %P\n"])
        .output();
    let text = String::from_utf8(list.unwrap().stdout).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_by_key(|line| line.len());
    lines.join("\n")
}

#[test]
fn roots_directory_is_in_run() {
    let script = "umask 000; lockrun -l calc -- true; cd /run; stat -c '%a %u %n' lockrun lockrun/*";
    let Some(outcome) = as_root(script) else {
        return;
    };
    let expected = "700 0 lockrun\n600 0 lockrun/calc.lock\n";
    outcome.assert_code(0).assert_stdout(expected).assert_silent();
}

#[test]
fn the_environment_does_not_matter_for_root() {
    let script = "HOME=/nonexistent XDG_RUNTIME_DIR=/tmp XDG_STATE_HOME=/tmp USER=x lockrun -l a -- true
        env -i \"$(command -v lockrun)\" -l a -- true; ls /run/lockrun";
    let Some(outcome) = as_root(script) else {
        return;
    };
    outcome.assert_code(0).assert_stdout("a.lock\n").assert_silent();
}

#[test]
fn a_users_directory_is_in_the_home_from_passwd() {
    let sandbox = Sandbox::new();
    let home = sandbox.path("home");
    for script in [
        "HOME=/elsewhere lockrun -l calc -- true",
        "unset HOME; lockrun -l calc -- true",
        "XDG_STATE_HOME=/tmp lockrun -l calc -- true",
    ] {
        let Some(outcome) = as_user(&sandbox, &entry(&home), "", script) else {
            return;
        };
        outcome.assert_code(0).assert_silent();
        let locks = home.join(".local/state/lockrun");
        assert_eq!(modes(&locks), "600 calc.lock", "after {script}");
        fs::remove_dir_all(home.join(".local")).unwrap();
    }
}

#[test]
fn it_is_made_for_its_user_alone() {
    let sandbox = Sandbox::new();
    let home = sandbox.path("home");
    let script = "umask 000; lockrun -l calc -- true";
    let Some(outcome) = as_user(&sandbox, &entry(&home), "", script) else {
        return;
    };
    outcome.assert_code(0).assert_silent();
    assert_eq!(modes(&home.join(".local/state")), "700 lockrun\n600 lockrun/calc.lock");
}

#[test]
fn getent_is_asked_about_a_user_that_passwd_does_not_know() {
    let sandbox = Sandbox::new();
    let home = sandbox.path("home");
    let script = "HOME=/elsewhere lockrun -l calc -- true";
    let Some(outcome) = as_user(&sandbox, "", &entry(&home), script) else {
        return;
    };
    outcome.assert_code(0).assert_silent();
    assert!(home.join(".local/state/lockrun/calc.lock").is_file());
}

#[test]
fn the_home_of_an_unknown_user_is_that_of_the_environment() {
    let sandbox = Sandbox::new();
    let script = "lockrun -l calc -- true";
    let Some(outcome) = as_user(&sandbox, "", "", script) else {
        return;
    };
    outcome.assert_code(0).assert_silent();
    let home = sandbox.path("home");
    assert!(home.join(".local/state/lockrun/calc.lock").is_file());
}

#[test]
fn a_user_without_any_home_must_give_a_directory() {
    let sandbox = Sandbox::new();
    for home in ["unset HOME", "HOME=", "HOME=relative"] {
        let script = format!("{home}; export HOME; lockrun -l calc -- echo ran");
        let script = script.replace("unset HOME; export HOME", "unset HOME");
        let Some(outcome) = as_user(&sandbox, "", "", &script) else {
            return;
        };
        outcome.assert_code(125).assert_stdout("").assert_one_line(&[&UID.to_string()]);
        assert!(outcome.stderr.ends_with("give --dir or set LOCKRUN_DIR\n"), "{outcome:?}");
    }
}

#[test]
fn an_unsafe_directory_is_named_and_not_used() {
    for make in [
        "mkdir -m 777 lockrun",
        "mkdir -m 1777 lockrun",
        "mkdir -m 702 lockrun",
        "touch lockrun",
        "mkfifo lockrun",
        "ln -s nowhere lockrun",
    ] {
        let script = format!("cd /run; {make}; lockrun -l calc -- echo ran");
        let Some(outcome) = as_root(&script) else {
            return;
        };
        outcome.assert_code(125).assert_stdout("").assert_one_line(&["/run/lockrun"]);
        assert!(outcome.stderr.ends_with("give --dir or set LOCKRUN_DIR\n"), "{outcome:?}");
    }
}

#[test]
fn another_users_directory_is_named_even_with_quiet() {
    if !may_act_as_root("chown") {
        return;
    }
    let script = "mkdir -m 700 /run/lockrun; chown 54321 /run/lockrun; lockrun -n -E 0 -q -l calc -- echo ran";
    let Some(outcome) = as_root(script) else {
        return;
    };
    outcome.assert_code(125).assert_stdout("").assert_one_line(&["/run/lockrun"]);
    assert!(outcome.stderr.ends_with("give --dir or set LOCKRUN_DIR\n"), "{outcome:?}");
}
