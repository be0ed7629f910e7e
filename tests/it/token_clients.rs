//! A client that misbehaves keeps no other from being answered.

use crate::support::{Sandbox, eventually, holder_of, is_held, may_act_as_root, part, status_field};
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

fn connect(token: &str) -> UnixStream {
    let address = SocketAddr::from_abstract_name(format!("lockrun/{}", part(token, "i"))).unwrap();
    UnixStream::connect_addr(&address).unwrap()
}

/// Many who are connected and say nothing, or not enough.
fn bad_clients(token: &str) -> Vec<UnixStream> {
    let clients = (0..100).map(|number| {
        let mut client = connect(token);
        match number % 4 {
            0 => {}
            1 => drop(client.write_all(b"{\"secret\":")),
            2 => drop(client.write_all(b"\x00\xff nonsense\n")),
            // The holder may hang up in the middle of this.
            _ => {
                client.set_nonblocking(true).unwrap();
                drop(client.write(&[b'x'; 100_000]));
            }
        }
        client
    });
    clients.collect()
}

#[test]
fn token_commands_are_heard_among_bad_clients() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let before = bad_clients(&token);
    sandbox.check(&token).assert_code(0);
    let more = bad_clients(&token);
    sandbox.with_token("renew", &token).assert_code(0);
    sandbox.release(&token).assert_code(0).assert_silent();
    sandbox.assert_free("calc");
    drop((before, more));
}

#[test]
fn the_owners_end_is_seen_among_bad_clients() {
    let sandbox = Sandbox::new();
    let owner = sandbox.sh("exec sleep 1000").start();
    let token = sandbox.acquire(&["-l", "calc", "--owner", &owner.pid().to_string()]);
    let _clients = bad_clients(&token);
    owner.signal(libc::SIGKILL);
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
}

#[test]
fn the_expiry_is_seen_among_bad_clients() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "1h"]);
    let _clients = bad_clients(&token);
    sandbox.lockrun(&["renew", &token, "--expires", "20ms"]).run().assert_code(0);
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
}

#[test]
fn bad_clients_leave_the_holder_asleep() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let pid = holder_of(&sandbox.lock_file("calc"));
    let _clients = bad_clients(&token);
    eventually("the holder sleeps among its clients", || {
        let switches = || status_field(pid, "voluntary_ctxt_switches");
        let before = switches();
        sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
        status_field(pid, "State").starts_with('S') && before == switches()
    });
}

/// Lets the holder open only so many descriptors more than it has.
fn limit_descriptors(holder: i32, more: usize) {
    let open = std::fs::read_dir(format!("/proc/{holder}/fd")).unwrap();
    let highest = open.map(|fd| fd.unwrap().file_name().to_string_lossy().parse::<usize>().unwrap()).max().unwrap();
    let limit = (highest + 1 + more) as libc::rlim_t;
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: reads a live structure.
    let set = unsafe { libc::prlimit(holder, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_holder_without_descriptors_sleeps_and_answers_the_last_client() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let holder = holder_of(&sandbox.lock_file("calc"));
    limit_descriptors(holder, 2);
    let clients: Vec<_> = (0..20).map(|_| connect(&token)).collect();
    eventually("the holder sleeps", || {
        let switches = || status_field(holder, "voluntary_ctxt_switches");
        let before = switches();
        sandbox.lockrun(&["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
        status_field(holder, "State").starts_with('S') && before == switches()
    });
    sandbox.check(&token).assert_code(0);
    sandbox.release(&token).assert_code(0).assert_silent();
    drop(clients);
}

#[test]
fn a_holder_that_was_stopped_is_released() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let holder = holder_of(&sandbox.lock_file("calc"));
    // SAFETY: kill has no memory effects; the holder lives.
    unsafe { libc::kill(holder, libc::SIGSTOP) };
    eventually("it has stopped", || status_field(holder, "State").starts_with('T'));
    sandbox.check(&token).assert_code(0).assert_silent();
    // SAFETY: as above.
    unsafe { libc::kill(holder, libc::SIGSTOP) };
    eventually("it has stopped", || status_field(holder, "State").starts_with('T'));
    sandbox.release(&token).assert_code(0).assert_silent();
    sandbox.assert_free("calc");
}

#[test]
fn a_holder_that_cannot_continue_is_reported() {
    if !may_act_as_root("stopping a process for good") {
        return;
    }
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let holder = holder_of(&sandbox.lock_file("calc"));
    // SAFETY: touches no memory of ours. A traced process that was
    // interrupted goes on only when its tracer says so.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, holder, 0, 0), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, holder, 0, 0), 0);
    }
    eventually("it has stopped", || status_field(holder, "State").starts_with('t'));
    let said = ["calc: the token's keeper", &format!("pid {holder}"), "does not answer"];
    sandbox.release(&token).assert_code(125).assert_one_line(&said);
    assert!(is_held(&sandbox.lock_file("calc")));
}

#[test]
fn a_client_that_hangs_up_does_not_end_the_holder() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    for _ in 0..100 {
        connect(&token).write_all(b"{\"secret\":\"x\",\"ask\":\"Check\"}\n").unwrap();
    }
    sandbox.check(&token).assert_code(0);
}

#[test]
fn another_users_client_that_hangs_up_does_not_end_the_holder() {
    if !may_act_as_root("acting as two users") {
        return;
    }
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let script = "import socket, sys
for _ in range(100):
    client = socket.socket(socket.AF_UNIX)
    client.connect('\\0lockrun/' + sys.argv[1])
    client.close()";
    let args = ["-c", script, &part(&token, "i")];
    sandbox.command("/usr/bin/python3", &args).by_user(54321, 54321).run().assert_code(0);
    sandbox.check(&token).assert_code(0);
}

#[test]
fn a_slow_client_never_reads_that_its_lock_is_gone() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let lockrun = sandbox.path("bin/lockrun");
    let strace = ["-qq", "-o", "/dev/null", "-e", "trace=getsockopt", "-e", "inject=getsockopt:delay_enter=500000"];
    let slow = [&strace as &[&str], &[lockrun.to_str().unwrap(), "check", &token]].concat();
    let slow = sandbox.command("strace", &slow).start();
    // It has connected, and says nothing yet, while many others come and go.
    let id = part(&token, "i");
    eventually("it has connected", || {
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        sockets.lines().filter(|line| line.ends_with(&id)).count() > 1
    });
    let clients: Vec<_> = (0..40).map(|_| connect(&token)).collect();
    let outcome = slow.wait();
    assert_ne!(outcome.code, Some(123), "it is not lost: {outcome:?}");
    drop(clients);
    sandbox.release(&token).assert_code(0);
}

#[test]
fn many_checks_at_once_are_all_answered() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let checks: Vec<_> = (0..60).map(|_| sandbox.lockrun(&["check", &token]).start()).collect();
    for check in checks {
        check.wait().assert_code(0).assert_silent();
    }
}

#[test]
fn of_two_releases_at_once_one_is_answered() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc"]);
    let holder = holder_of(&sandbox.lock_file("calc"));
    let mut clients = [connect(&token), connect(&token)];
    // The holder has accepted both when it has answered a third one.
    sandbox.check(&token).assert_code(0);
    // SAFETY: kill has no memory effects; the holder lives.
    unsafe { libc::kill(holder, libc::SIGSTOP) };
    eventually("it has stopped", || status_field(holder, "State").starts_with('T'));
    let request = format!("{{\"secret\":\"{}\",\"ask\":\"Release\"}}\n", part(&token, "s"));
    clients.iter_mut().for_each(|client| client.write_all(request.as_bytes()).unwrap());
    // SAFETY: as above.
    unsafe { libc::kill(holder, libc::SIGCONT) };
    let answers = clients.map(|mut client| {
        let mut answer = String::new();
        client.read_to_string(&mut answer).map_or_else(|error| error.to_string(), |_| answer)
    });
    let released = answers.iter().filter(|answer| answer.contains("Released")).count();
    assert_eq!(released, 1, "{answers:?}");
    sandbox.release(&token).assert_code(123).assert_one_line(&["calc: no longer held: released at"]);
}

#[test]
fn of_many_releases_at_once_one_succeeds() {
    let sandbox = Sandbox::new();
    for _ in 0..20 {
        let token = sandbox.acquire(&["-l", "calc"]);
        let releases: Vec<_> = (0..8).map(|_| sandbox.lockrun(&["release", &token]).start()).collect();
        let outcomes: Vec<_> = releases.into_iter().map(|release| release.wait()).collect();
        let (released, late): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.code == Some(0));
        assert_eq!(released.len(), 1, "{outcomes:?}");
        for outcome in late {
            outcome.assert_code(123).assert_one_line(&["calc: no longer held: released at"]);
        }
    }
}

#[test]
fn released_means_free_even_where_unlocking_fails() {
    let sandbox = Sandbox::new();
    let calls = sandbox.path("calls");
    let lockrun = sandbox.path("bin/lockrun");
    // In the holder: the first call locks, the second one unlocks. Its end would free the lock as well.
    let strace = ["-f", "-qq", "-e", "trace=flock,exit_group", "-e", "inject=flock:error=EIO:when=2"];
    let slow = ["-e", "inject=exit_group:delay_enter=600000000", "-o"];
    let acquire = [lockrun.to_str().unwrap(), "acquire", "-l", "calc", "--expires", "1h"];
    let words = [&strace as &[&str], &slow, &[calls.to_str().unwrap()], &acquire].concat();
    let running = sandbox.command("strace", &words).start().until_says("\n");
    let token = running.stdout().trim_end().to_owned();
    assert!(is_held(&sandbox.lock_file("calc")));
    sandbox.release(&token).assert_code(0).assert_silent();
    assert!(!is_held(&sandbox.lock_file("calc")));
    let calls = std::fs::read_to_string(calls).unwrap();
    assert!(calls.contains("LOCK_UN") && calls.contains("(INJECTED)"), "{calls}");
}
