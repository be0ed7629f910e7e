//! flock(1)'s options that are accepted, so that in a script only the command's name
//! has to change. (`-w` is in [`crate::timeout`], `-F` in [`crate::exec`].)

use crate::support::{Sandbox, is_held};

#[test]
fn exclusive_changes_nothing() {
    for option in ["-x", "-e", "--exclusive"] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&[option, "-l", "calc"]);
        assert!(is_held(&sandbox.lock_file("calc")));
        let reader = ["-n", "-s", "-l", "calc", "--", "true"];
        sandbox.lockrun(&reader).run().assert_code(75);
        holder.release().assert_code(0).assert_silent();
    }
}

#[test]
fn nonblock_and_close_have_flocks_names() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-o", "-l", "calc"]);
    for option in ["--nb", "--nonblock", "--nonblocking"] {
        sandbox.lockrun(&[option, "--close", "-l", "calc", "--", "true"]).run().assert_code(75);
    }
    let said = sandbox.lockrun(&["-l", "other", "--command", "echo said"]).run();
    said.assert_code(0).assert_stdout("said\n").assert_silent();
}

#[test]
fn short_options_can_be_joined() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-xl", "calc"]);
    let outcome = sandbox.lockrun(&["-xnq", "-E4", "-lcalc", "--", "true"]).run();
    outcome.assert_code(4).assert_silent();
}
