//! `acquire --timeout 0`: busy or not, it returns at once.

use crate::support::Sandbox;

#[test]
fn a_free_lock_is_always_taken() {
    let sandbox = Sandbox::new();
    let attempt = "T=$(lockrun acquire -n -l calc --expires 50) && lockrun release $T || echo $?";
    let outcome = sandbox.sh(&format!("for i in $(seq 200); do {attempt}; done")).run();
    outcome.assert_code(0).assert_stdout("").assert_silent();
}

#[test]
fn a_held_lock_is_always_busy() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let attempt = "timeout 10 lockrun acquire -q -n -l calc --expires 50; [ $? = 75 ] || echo $?";
    let attempts = format!("for i in $(seq 300); do {attempt}; done");
    for running in [(); 4].map(|()| sandbox.sh(&attempts).start()) {
        running.wait().assert_code(0).assert_stdout("").assert_silent();
    }
    holder.release();
}
