//! A relative `--dir` and `--file` work where the absolute path leads elsewhere,
//! or nowhere, as they do with flock(1); and where no path leads anywhere for
//! long, lockrun ends.

use crate::support::{Invocation, Sandbox, may_act_as_root, with_mounts};

/// Each lock by itself, with a waiter, as a token, and across `cd`.
const USES: &str = r#"
    for lock in "--dir locks --name calc" "--file file --dir locks"; do
        flock file true || exit 1
        timeout 30 lockrun $lock -- true || exit 2
        lockrun $lock -c 'touch held; until [ -e done ]; do sleep 0.01; done' & holder=$!
        until [ -e held ]; do sleep 0.01; done
        timeout 30 lockrun -q -t 0.1 $lock -- true; [ $? = 124 ] || exit 3
        timeout 30 lockrun -q -s $lock -c 'rm held done' & waiter=$!
        touch done
        wait $holder || exit 4
        wait $waiter || exit 5
        token=$(timeout 30 lockrun acquire $lock --expires 60) || exit 6
        timeout 30 lockrun release "$token" || exit 7
        lockrun $lock -c 'touch held; exec sleep 1000' 2>said & holder=$!
        until [ -e held ]; do sleep 0.01; done
        timeout 30 lockrun break $(echo "$lock" | sed "s/--name //") || exit 8
        wait $holder; [ $? = 123 ] || exit 9
        rm held
    done
    echo all"#;

fn assert_all_work(invocation: Invocation) {
    invocation.env("LOCKRUN_DIR", "locks").run().assert_code(0).assert_stdout("all\n");
}

#[test]
fn they_work_in_a_directory_whose_parent_is_mounted_over() {
    let covers = [":", "mkdir -p /mnt/top/sub", "mkdir -p /mnt/top/sub/locks; echo other >/mnt/top/sub/file"];
    for cover in covers {
        let sandbox = Sandbox::new();
        let script = format!(
            "mount -t tmpfs none /mnt; mkdir -p /mnt/top/sub; cd /mnt/top/sub
            mount -t tmpfs none /mnt/top; {cover}; mkdir -m 700 locks; set +e; {USES}"
        );
        if let Some(invocation) = with_mounts(&sandbox, &script) {
            assert_all_work(invocation);
        }
    }
}

#[test]
fn they_work_below_a_parent_that_may_not_be_searched() {
    if !may_act_as_root("acting as somebody who may not search a directory") {
        return;
    }
    let sandbox = Sandbox::new();
    let home = sandbox.make_dir("parent", 0o777);
    let script = format!("mkdir -p top/sub/locks; cd top/sub; chmod 700 locks; chmod 000 ..; {USES}");
    assert_all_work(sandbox.sh(&script).current_dir(&home).by_user(54321, 54321));
}

#[test]
fn they_work_in_a_directory_that_was_removed() {
    let sandbox = Sandbox::new();
    let script = "mkdir gone; cd gone; rmdir ../gone; lockrun --file ../file -- echo ran";
    sandbox.sh(script).run().assert_code(0).assert_stdout("ran\n");
}

/// As on a file system that fails.
#[test]
fn a_file_that_can_be_opened_but_never_inspected_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.lockrun(&["-l", "calc", "--", "true"]).run().assert_code(0);
    for errno in ["EIO", "ENOENT", "EACCES"] {
        let inject = format!("inject=newfstatat:error={errno}");
        let strace = ["-qq", "-o", "trace", "-e", &inject, "lockrun", "-l", "calc", "--", "echo", "ran"];
        let outcome = sandbox.command("strace", &strace).run();
        outcome.assert_code(125).assert_stdout("").assert_one_line(&["calc"]);
    }
}
