//! `lockrun renew` and `lockrun check` without a token inside a run: its own lockrun lets
//! COMMAND expire later, and its own locks are looked at.

use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use crate::support::{Sandbox, eventually, may_act_as_root};

const CALC: [&str; 2] = ["-l", "calc"];

#[test]
fn of_nested_runs_the_innermost_one_counts() {
    let sandbox = Sandbox::new();
    let inner = "lockrun -l inner -- lockrun renew";
    sandbox.lockrun(&["-l", "calc", "--expires", "1h", "-c", inner]).run().assert_code(125);
    sandbox.lockrun(&["renew"]).run().assert_code(125).assert_stderr_has(&["no token"]);
}

#[test]
fn the_first_time_passes_without_effect() {
    let sandbox = Sandbox::new();
    let script = "lockrun renew --expires 1h && sleep 5.2 && lockrun check --json";
    let outcome = sandbox.lockrun(&["-l", "calc", "--expires", "5", "-c", script]).run();
    let json: serde_json::Value = serde_json::from_str(&outcome.assert_code(0).assert_silent().stdout).unwrap();
    assert!(json["remaining"].as_f64().unwrap() > 3000.0, "{json}");
}

#[test]
fn without_a_time_it_is_as_long_as_it_was_given_for_and_forever_ends_it() {
    let sandbox = Sandbox::new();
    let remaining = "lockrun check --json | sed 's/.*remaining\": *//; s/[.}].*//'";
    let script = format!(
        "lockrun renew --expires 1h && lockrun renew && {remaining}; lockrun renew --expires forever && {remaining}"
    );
    let outcome = sandbox.lockrun(&["-l", "calc", "--expires", "1000", "-c", &script]).run();
    let lines: Vec<_> = outcome.assert_code(0).assert_silent().stdout.lines().collect();
    assert!((900..=1000).contains(&lines[0].parse().unwrap()), "{outcome:?}");
    assert_eq!(lines[1], "null", "{outcome:?}");
}

#[test]
fn every_kind_of_lock_has_its_expiry_renewed_in_list() {
    let pools = [&["-s"] as &[&str], &["--slots", "2"], &["-l", "other"]];
    for options in pools {
        let sandbox = Sandbox::new();
        let script = "lockrun renew --expires 1h || exit; lockrun check --json";
        let outcome = sandbox.lockrun(&[&CALC as &[&str], options, &["--expires", "60", "-c", script]].concat()).run();
        let json: serde_json::Value =
            serde_json::from_str(outcome.assert_code(0).assert_silent().stdout.lines().next().unwrap()).unwrap();
        assert!(json["remaining"].as_f64().unwrap() > 3000.0, "{options:?}: {json}");
    }
}

#[test]
fn a_token_comes_first() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "token", "--expires", "60"]);
    let script = format!("export LOCKRUN_TOKEN={token}; lockrun renew --expires 2h && lockrun check --json");
    let outcome = sandbox.lockrun(&["-l", "calc", "--expires", "1000", "-c", &script]).run();
    let json: serde_json::Value = serde_json::from_str(&outcome.assert_code(0).stdout).unwrap();
    assert_eq!(json["name"], "token");
    assert!(json["remaining"].as_f64().unwrap() > 7000.0, "{json}");
}

#[test]
fn a_command_that_is_being_ended_is_not_renewed() {
    let sandbox = Sandbox::new();
    // All that the command starts gets TERM as well.
    let script = "give_up() { trap '' TERM; lockrun renew --expires 1h; echo renew $?; exit; }
        trap give_up TERM; lockrun renew --expires 50ms; while :; do sleep 0.01; done";
    let args = ["-l", "calc", "--expires", "1h", "--kill-after", "1h", "-c", script];
    let outcome = sandbox.lockrun(&args).run();
    outcome.assert_code(123).assert_stdout("renew 123\n").assert_stderr_has(&["calc: lost: expired"]);
}

#[test]
fn what_outlives_its_run_renews_nothing() {
    let sandbox = Sandbox::new();
    let script = "(until [ -e released ]; do sleep 0.01; done; lockrun renew; echo $? >code) >/dev/null 2>&1 &";
    sandbox.lockrun(&["-l", "calc", "--expires", "1h", "--", "sh", "-c", script]).run().assert_code(0);
    let _next = sandbox.hold(&CALC);
    sandbox.write("work/released", "");
    let code = || std::fs::read_to_string(sandbox.path("work/code")).unwrap_or_default();
    eventually("it has tried", || code().ends_with('\n'));
    assert_eq!(code(), "123\n");
}

#[test]
fn a_killed_lockrun_cannot_be_asked() {
    let sandbox = Sandbox::new();
    // The command is ended by nobody then, and still has the lock.
    let script = "kill -9 $PPID; until [ -e dead ]; do sleep 0.01; done; lockrun renew 2>line; echo $? >code";
    let run = sandbox.lockrun(&["-l", "calc", "--expires", "1h", "-c", script]).start();
    run.wait().assert_signal(libc::SIGKILL);
    sandbox.write("work/dead", "");
    let code = || std::fs::read_to_string(sandbox.path("work/code")).unwrap_or_default();
    eventually("it has tried", || code().ends_with('\n'));
    assert_eq!(code(), "125\n");
    let line = std::fs::read_to_string(sandbox.path("work/line")).unwrap();
    assert!(line.contains("cannot be reached, so nothing was renewed"), "{line}");
}

#[test]
fn another_user_cannot_renew() {
    if !may_act_as_root("another user") {
        return;
    }
    let sandbox = Sandbox::new();
    let as_other = "setpriv --reuid 65534 --regid 65534 --clear-groups lockrun renew --expires 2h";
    let script = format!("{as_other}; echo $?; lockrun check --json");
    let outcome = sandbox.lockrun(&["-l", "calc", "--expires", "1000", "-c", &script]).run();
    let (code, json) = outcome.assert_code(0).stdout.split_once('\n').unwrap();
    assert_eq!(code, "125", "{outcome:?}");
    outcome.assert_stderr_has(&["only that user and root"]);
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert!(json["remaining"].as_f64().unwrap() <= 1000.0, "{json}");
}

/// Many that are connected and say nothing, or not enough, or the wrong thing.
fn bad_clients(id: &str) -> Vec<UnixStream> {
    let address = SocketAddr::from_abstract_name(format!("lockrun/{id}")).unwrap();
    let says: [&[u8]; 4] = [b"", b"{\"secret\":", b"\x00\xff nonsense\n", b"{\"secret\":\"no\",\"ask\":\"Check\"}\n"];
    let clients = (0..50).map(|number: usize| {
        let mut client = UnixStream::connect_addr(&address).unwrap();
        drop(client.write_all(says[number % says.len()]));
        client
    });
    clients.collect()
}

#[test]
fn bad_clients_keep_no_signal_end_or_renewal_from_the_supervisor() {
    let sandbox = Sandbox::new();
    let script =
        "echo ${LOCKRUN_RUN%%:*}; trap 'lockrun renew; echo renew $?; exit 7' TERM; while :; do sleep 0.01; done";
    let run = sandbox.lockrun(&["-l", "calc", "--expires", "1h", "-c", script]).start().until_says("\n");
    let _clients = bad_clients(run.stdout().trim());
    run.signal(libc::SIGTERM);
    let outcome = run.wait();
    outcome.assert_code(7);
    assert!(outcome.stdout.ends_with("renew 0\n"), "{outcome:?}");
}

#[test]
fn a_run_without_expiry_opens_no_socket() {
    let sandbox = Sandbox::new();
    let script = "ls -l /proc/$PPID/fd | grep -c socket: ; echo \"${LOCKRUN_RUN-unset}\"";
    let null = |command: &str| sandbox.sh(&format!("{command} </dev/null 2>/dev/null")).run();
    null(&format!("lockrun -l calc -c '{script}'")).assert_stdout("0\nunset\n");
}

#[test]
fn check_names_the_one_of_a_set_that_was_lost() {
    for lost in ["a", "b"] {
        let sandbox = Sandbox::new();
        let script = format!("rm {}; lockrun check; echo $?", sandbox.lock_file(lost).display());
        let outcome = sandbox.lockrun(&["-l", "a", "-l", "b", "-c", &script]).run();
        outcome.assert_code(123).assert_stdout("123\n");
        outcome.assert_stderr_has(&[&format!("lockrun: {lost}: lost: its file was removed")]);
    }
}
