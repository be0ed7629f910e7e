//! The words of errors that no other test holds, with their codes. What else can go wrong
//! has tests of its own behaviour, which hold its words.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Sandbox;

/// A line that is typed, its exit code, and what stderr says.
type Row = (&'static [&'static str], i32, &'static [&'static str]);

#[rustfmt::skip]
const ERRORS: &[Row] = &[
    // Which command, and which lock.
    (&["version", "x"], 125, &["'version' stands alone", "try: lockrun version"]),
    (&["help", "a", "b"], 125, &["'help' takes one command", "try: lockrun help [COMMAND]"]),
    (&["-n", "list"], 125, &["'list' comes first, before its options", "try: lockrun list"]),
    (&["acquire", "-l", "calc", "--", "true"], 125, &["acquire takes no command: 'true' would not be run"]),
    (&["break"], 125, &["which lock? give exactly one", "try: lockrun break LOCK (or --file PATH)"]),
    (&["status"], 125, &["which lock? give exactly one", "try: lockrun status LOCK (or --file PATH)"]),
    (&["path"], 125, &["which lock? give exactly one", "try: lockrun path NAME"]),
    (&["list", "--dir", "/missing"], 125, &["/missing does not exist", "check --dir and LOCKRUN_DIR; a run creates it"]),
    // Tokens.
    (&["release"], 125, &["no token: give it as an argument, on stdin with '-', or in LOCKRUN_TOKEN"]),
    (&["renew"], 125, &["no token: give it as an argument"]),
    (&["check"], 125, &["no token: give it as an argument"]),
    (&["release", "--file", "foo"], 125, &["--file foo: only /dev/fd/N can be meant here; give the token"]),
    // Values.
    (&["--timeout", "-5s", "--", "true"], 125, &["a time cannot be negative, -1 or forever", "--timeout DUR"]),
    (&["-E", "300", "--", "true"], 125, &["not an exit code; write a whole number from 0 to 255", "-E N"]),
    (&["--slots", "0", "-l", "a", "--", "true"], 125, &["not a number of slots; write a whole number from 1 to"]),
    (&["--hold", "x", "--", "true"], 125, &["invalid value 'x' for '--hold <WHAT>'", "command, tree"]),
    // COMMAND and what surrounds it.
    (&["-l", "a", "--", "./no-interpreter"], 127, &["its interpreter (after #!) or dynamic loader is missing"]),
    (&["-l", "a", "--", "/"], 126, &["cannot execute /: Permission denied"]),
    (&["-l", "a", "--report", "/missing/x", "--", "true"], 125, &["cannot open the report /missing/x: No such file"]),
    // As flock(1) says it.
    (&["flock", "-q"], 64, &["invalid option -- 'q'"]),
    (&["flock", "--foo"], 64, &["unrecognized option '--foo'"]),
    (&["flock", "-w", "x", "f", "true"], 64, &["invalid timeout value: 'x'"]),
    (&["flock", "f", "-c", "a", "b"], 64, &["-c requires exactly one command argument"]),
];

#[cfg(feature = "net")]
#[rustfmt::skip]
const URLS: &[(&str, &str)] = &[
    ("etcd://a/p#x", "a # has no meaning here; write %23 in a name, prefix or password"),
    ("etcd://[::1]x/p", "[::1]x: only a port may follow ]"),
    ("etcd://a/p?password=x", "a password is not a parameter; give password-file=FILE"),
    ("etcd://:secret@a/p", "everybody on this machine can read a password on the command line"),
    ("postgres://a/b?x=1", "the parameter x is unknown; the parameters are ttl, connect, user,"),
    ("foo", "this is not a URL; write etcd://HOST[:2379]"),
];

#[test]
fn errors_say_what_was_tried_and_what_to_do() {
    let sandbox = Sandbox::new();
    let script = sandbox.write("work/no-interpreter", "#!/missing/interpreter\n");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    for (line, code, words) in ERRORS {
        sandbox.lockrun(line).run().assert_code(*code).assert_stdout("").assert_stderr_has(words);
    }
}

#[cfg(feature = "net")]
#[test]
fn urls_that_cannot_be_meant_are_explained() {
    let sandbox = Sandbox::new();
    for (url, words) in URLS {
        let outcome = sandbox.lockrun(&["list", "--store", url]).run();
        outcome.assert_code(125).assert_one_line(&["--store=", words]);
        assert!(!outcome.stderr.contains("secret"), "{outcome:?}");
    }
}
