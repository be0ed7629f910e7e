//! Nobody without the right token frees a lock, and nobody learns one.

use crate::support::{Outcome, Sandbox, altered, eventually, holder_of, is_alive, may_act_as_root, part};
use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;

const OTHER: u32 = 54321;

/// A token on `calc`, and its secret.
fn taken() -> (Sandbox, String, String) {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let secret = part(&token, "s");
    (sandbox, token, secret)
}

/// What all token commands say to a word; none of them shows the secret or
/// frees `calc`.
#[track_caller]
fn all_commands(sandbox: &Sandbox, token: &str, secret: &str, word: &str, code: i32) {
    for command in ["check", "renew", "release"] {
        let outcome = sandbox.with_token(command, word);
        outcome.assert_code(code).assert_stdout("").assert_stderr_has(&["lockrun: "]).assert_printable();
        assert!(!outcome.stderr.contains(secret) && !outcome.stderr.contains(token), "{outcome:?}");
        sandbox.check(token).assert_code(0);
    }
}

#[test]
fn a_garbled_token_is_refused() {
    let (sandbox, token, secret) = taken();
    let cut = &token[..token.len() - 1];
    let swapped = token.replacen(|c: char| c.is_ascii_lowercase(), "A", 9);
    let upper = token.to_uppercase();
    for word in
        [cut, &format!("{token}A"), &swapped, &upper, &format!("{token} "), "lr1.", "x", "--help-me", "\u{1b}[31m"]
    {
        all_commands(&sandbox, &token, &secret, word, 125);
    }
}

#[test]
fn a_wrong_secret_frees_nothing() {
    let (sandbox, token, secret) = taken();
    let other: String = secret.chars().rev().collect();
    for wrong in [&other, "", "x", &secret[1..], &format!("{secret}x"), &"x".repeat(100_000)] {
        let forged = altered(&token, |value| value["s"] = wrong.into());
        if forged.len() > 100_000 {
            // Too long for an argument.
            let outcome = sandbox.lockrun(&["release", "-"]).input(&forged).run();
            assert_ne!(outcome.code, Some(0), "{outcome:?}");
            assert!(!outcome.stderr.contains(&secret));
        } else {
            all_commands(&sandbox, &token, &secret, &forged, 125);
        }
    }
    sandbox.check(&token).assert_code(0);
    sandbox.release(&token).assert_code(0);
}

#[test]
fn a_token_of_another_lock_or_an_old_one_frees_nothing_here() {
    let (sandbox, token, secret) = taken();
    sandbox.release(&token).assert_code(0);
    let now = sandbox.acquire(&["-l", "calc"]);
    all_commands(&sandbox, &now, &secret, &token, 123);
    let other = sandbox.acquire(&["-l", "other"]);
    // The other's secret, said to this holder.
    let crossed = altered(&now, |value| value["s"] = part(&other, "s").into());
    all_commands(&sandbox, &now, &part(&now, "s"), &crossed, 125);
    sandbox.release(&other).assert_code(0);
    sandbox.check(&now).assert_code(0);
}

#[test]
fn another_user_is_refused_and_root_is_not() {
    if !may_act_as_root("acting as two users") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    let token = |uid: u32| {
        let outcome = sandbox.lockrun(&["acquire", "-l", "calc", "--expires", "1h"]).by_user(uid, uid).run();
        outcome.assert_code(0).stdout.trim().to_owned()
    };
    for uid in [0, 54322] {
        let token = token(uid);
        let secret = part(&token, "s");
        for command in ["check", "renew", "release"] {
            let outcome = sandbox.lockrun(&[command, &token]).by_user(OTHER, OTHER).run();
            outcome.assert_code(125).assert_one_line(&["calc", &format!("user {uid}")]);
            assert!(!outcome.stderr.contains(&secret));
        }
        sandbox.check(&token).assert_code(0);
        sandbox.release(&token).assert_code(0).assert_silent();
        sandbox.assert_free("calc");
    }
}

/// Somebody who listens where a holder did, and notes what is said. The
/// listener runs as this user.
fn impostor(sandbox: &Sandbox, token: &str, reply: &str, uid: u32) -> crate::support::Running {
    let script = r#"
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("\0lockrun/" + sys.argv[1])
listener.listen()
print("listening", flush=True)
while True:
    client, _ = listener.accept()
    client.settimeout(0.2)
    try:
        print("heard", client.recv(4096), flush=True)
    except OSError:
        pass
    if sys.argv[2]:
        client.sendall(sys.argv[2].encode() + b"\n")
    client.close()
"#;
    let args = ["-c", script, &part(token, "i"), reply];
    sandbox.command("/usr/bin/python3", &args).by_user(uid, uid).start().until_says("listening")
}

/// Kills the process behind a token on `calc`, so that its address is free.
fn kill_holder(sandbox: &Sandbox) {
    let pid = holder_of(&sandbox.lock_file("calc"));
    // SAFETY: kill has no memory effects; the holder lives.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    eventually("the holder ends", || !is_alive(pid));
}

#[test]
fn a_process_at_a_dead_holders_address_learns_nothing() {
    if !may_act_as_root("acting as two users") {
        return;
    }
    let (sandbox, token, secret) = taken();
    kill_holder(&sandbox);
    let listener = impostor(&sandbox, &token, r#"{"Released":{"lost":null}}"#, OTHER);
    for command in ["check", "renew", "release"] {
        let outcome = sandbox.with_token(command, &token);
        assert!([Some(123), Some(125)].contains(&outcome.code), "{outcome:?}");
    }
    let heard = listener.stdout();
    assert!(!heard.contains(&secret), "{heard}");
}

/// Answers one question at this abstract address.
fn answer_once(id: &str, reply: &'static str) -> thread::JoinHandle<()> {
    let address = SocketAddr::from_abstract_name(format!("lockrun/{id}")).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(reply.as_bytes());
    })
}

#[test]
fn what_a_false_holder_answers_is_escaped() {
    let (sandbox, token, _) = taken();
    let replies = [
        "{\"Released\":{\"lost\":\"\\u001b]0;x\\u0007\\u001b[31m\"}}\n",
        "{\"Released\":{\"lost\":\"a\\nlockrun: all is well\"}}\n",
        "\u{1b}[31m\n",
        "{}\n",
        "\n",
        "",
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let forged = altered(&token, |value| value["i"] = format!("{}-{number}", part(&token, "i")).into());
        let listener = answer_once(&part(&forged, "i"), reply);
        let outcome = sandbox.release(&forged);
        listener.join().unwrap();
        assert!([Some(123), Some(125)].contains(&outcome.code), "{outcome:?}");
        outcome.assert_one_line(&["calc"]).assert_printable();
    }
    sandbox.check(&token).assert_code(0);
}

/// A token that nobody holds, which says that its lock's file is `file`.
fn stray(token: &str, file: &str) -> String {
    altered(token, |value| {
        value["i"] = "nobody".into();
        value["g"][0]["r"] = file.into();
    })
}

#[test]
fn a_token_that_names_a_fifo_or_device_does_not_hang() {
    let (sandbox, token, _) = taken();
    sandbox.sh("mkfifo ../locks/fifo.lock").run().assert_code(0);
    for file in ["fifo.lock", "/dev/tty", "/dev/zero", "/proc/kmsg", "..", "missing"] {
        let release = sandbox.command("timeout", &["-s", "KILL", "20", "lockrun", "release", &stray(&token, file)]);
        release.run().assert_code(123).assert_one_line(&["calc"]);
    }
}

#[test]
fn a_token_that_names_a_strangers_file_shows_nothing_of_it() {
    let (sandbox, token, _) = taken();
    let file = sandbox.write("work/private", "geheim\n");
    let outcome = sandbox.release(&stray(&token, file.to_str().unwrap()));
    outcome.assert_code(123);
    assert!(!outcome.stderr.contains("geheim"), "{outcome:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "geheim\n");
}

#[test]
fn a_lock_file_that_lies_is_escaped() {
    let (sandbox, token, _) = taken();
    sandbox.release(&token).assert_code(0);
    let file = sandbox.lock_file("calc");
    let text = fs::read_to_string(&file).unwrap().replace("released at", r"\u001b[31m\nreleased at");
    fs::write(&file, text).unwrap();
    let outcome: Outcome = sandbox.release(&token);
    outcome.assert_code(123).assert_one_line(&["calc"]).assert_printable();
}
