//! A directory like /tmp with `fs.protected_regular`: there `O_CREAT` on
//! another user's file is EACCES, even for root.

use crate::support::{Sandbox, may_act_as_root};
use std::fs;

const SETTING: &str = "/proc/sys/fs/protected_regular";

/// The setting, changed until this is dropped.
struct Protected(String);

impl Protected {
    fn set(value: &str) -> Option<Self> {
        let before = fs::read_to_string(SETTING).ok()?;
        fs::write(SETTING, value).ok()?;
        Some(Self(before))
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        let _ = fs::write(SETTING, &self.0);
    }
}

#[test]
fn users_can_lock_a_file_that_they_do_not_own() {
    if !may_act_as_root("acting as two users") {
        return;
    }
    // In a container the setting may be read-only; then it is tested as it is.
    let _protected = Protected::set("2");
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    let command = ["-l", "calc", "-c", "echo holding; exec cat"];
    for (owner, others) in [(54321, [54322, 0]), (0, [54321, 54322])] {
        let holder = sandbox.lockrun(&command).by_user(owner, owner).umask(0o077);
        let holder = holder.input("").start().until_says("holding");
        for other in others {
            let attempt = |timeout| {
                let args = ["-t", timeout, "-l", "calc", "--", "true"];
                sandbox.lockrun(&args).by_user(other, other)
            };
            attempt("0").run().assert_code(75);
            attempt("0.01").run().assert_code(124);
        }
        holder.wait().assert_code(0).assert_silent();
        for other in others {
            let attempt = sandbox.lockrun(&["-l", "calc", "--", "true"]);
            attempt.by_user(other, other).run().assert_code(0).assert_silent();
        }
        fs::remove_file(sandbox.lock_file("calc")).unwrap();
    }
}
