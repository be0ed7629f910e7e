//! `--shared`: readers together, writers alone.

use crate::support::Sandbox;

#[test]
fn readers_hold_together() {
    let sandbox = Sandbox::new();
    let one = sandbox.hold(&["-l", "calc", "-s"]);
    let two = sandbox.hold(&["-l", "calc", "--shared"]);
    one.release().assert_code(0).assert_silent();
    two.release().assert_code(0).assert_silent();
}

#[test]
fn readers_and_writers_exclude_each_other() {
    let sandbox = Sandbox::new();
    let attempt = |args: &[&str]| {
        let args = [args, &["-n", "-l", "calc", "--", "true"]].concat();
        sandbox.lockrun(&args).run()
    };
    let reader = sandbox.hold(&["-l", "calc", "--shared"]);
    attempt(&[]).assert_code(75);
    reader.release();
    let writer = sandbox.hold(&["-l", "calc"]);
    attempt(&["--shared"]).assert_code(75);
    writer.release();
    attempt(&[]).assert_code(0);
}

#[test]
fn a_writer_waits_for_the_last_reader() {
    let sandbox = Sandbox::new();
    let one = sandbox.hold(&["-l", "calc", "-s"]);
    let two = sandbox.hold(&["-l", "calc", "-s"]);
    let writer = sandbox.lockrun(&["-l", "calc", "--", "echo", "wrote"]);
    let writer = writer.start().until_waiting();
    one.release();
    let writer = writer.until_waiting();
    assert_eq!(writer.stdout(), "");
    two.release();
    writer.wait().assert_code(0).assert_stdout("wrote\n");
}

#[test]
fn waiting_readers_are_let_in_together() {
    let sandbox = Sandbox::new();
    let writer = sandbox.hold(&["-l", "calc"]);
    let command = ["-l", "calc", "-s", "-c", "echo holding; exec cat"];
    let readers = [(); 3].map(|()| {
        let reader = sandbox.lockrun(&command).input("");
        reader.start().until_waiting()
    });
    writer.release();
    let readers = readers.map(|reader| reader.until_says("holding"));
    for reader in readers {
        reader.wait().assert_code(0);
    }
}
