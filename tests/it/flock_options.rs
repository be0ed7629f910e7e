//! flock(1)'s options that are accepted, so that a script need only change the
//! command's name. (`-w` is in [`crate::timeout`], `-F` in [`crate::exec`].)

use crate::support::{Sandbox, is_held};

#[test]
fn exclusive_is_what_it_is_anyway() {
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
fn not_to_wait_and_to_close_have_the_names_they_have_there() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-o", "-l", "calc"]);
    for option in ["--nb", "--nonblock", "--nonblocking"] {
        sandbox.lockrun(&[option, "--close", "-l", "calc", "--", "true"]).run().assert_code(75);
    }
    let said = sandbox.lockrun(&["-l", "other", "--command", "echo said"]).run();
    said.assert_code(0).assert_stdout("said\n").assert_silent();
}

#[test]
fn short_options_go_together() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-xl", "calc"]);
    let outcome = sandbox.lockrun(&["-xnq", "-E4", "-lcalc", "--", "true"]).run();
    outcome.assert_code(4).assert_silent();
}
