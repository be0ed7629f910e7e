//! A lockrun was stopped inside the door of a lock: for the others, timeouts and
//! signals still work.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::support::{Form, Sandbox, eventually, is_held, sleeps_in_a_lock_call};

/// Where the door is in a lock file, see `src/lock/file/queue.rs`.
const DOOR: i64 = 8 << 59;

const WAYS: [&[&str]; 3] = [&["-s"], &["--slots", "2"], &["--slots", "2", "--slot", "1"]];

/// Keeps everybody out of the door.
fn block_door(sandbox: &Sandbox) -> File {
    let file = File::options().read(true).write(true).open(sandbox.lock_file("calc")).unwrap();
    let range = libc::flock { l_type: libc::F_WRLCK as _, l_whence: 0, l_start: DOOR, l_len: 1, l_pid: 0 };
    // SAFETY: the file is open, and the range outlives the call.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) }, 0);
    file
}

fn runs(way: &[&'static str]) -> Vec<Vec<&'static str>> {
    let forms: [&[&str]; 2] = [&[], &["--exec"]];
    forms.map(|form| [form, way, &["-l", "calc"]].concat()).to_vec()
}

#[test]
fn after_the_grant_the_timeout_counts() {
    for way in WAYS {
        for options in runs(way) {
            let sandbox = Sandbox::new();
            let holder = sandbox.hold(&["-l", "calc"]);
            let waiter = sandbox.lockrun(&[&options[..], &["-q", "-t", "1", "--", "echo", "ran"]].concat());
            let waiter = waiter.start().until_waiting();
            let _door = block_door(&sandbox);
            holder.release();
            waiter.wait().assert_code(124).assert_stdout("");
            assert!(!is_held(&sandbox.lock_file("calc")));
        }
    }
}

#[test]
fn after_the_grant_a_signal_ends_lockrun() {
    for way in WAYS {
        for options in runs(way) {
            let sandbox = Sandbox::new();
            let holder = sandbox.hold(&["-l", "calc"]);
            let waiter = sandbox.lockrun(&[&options[..], &["--", "echo", "ran"]].concat()).start().until_waiting();
            let _door = block_door(&sandbox);
            holder.release();
            eventually("it is granted and waits", || {
                is_held(&sandbox.lock_file("calc")) && sleeps_in_a_lock_call(waiter.pid())
            });
            waiter.signal(libc::SIGTERM);
            waiter.wait().assert_signal(libc::SIGTERM).assert_stdout("");
            assert!(!is_held(&sandbox.lock_file("calc")));
        }
    }
}

#[test]
fn acquire_gives_up_too() {
    for way in WAYS {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&["-l", "calc"]);
        let waiter = Form::Acquire.ask(&sandbox, &[way, &["-q", "-t", "1", "-l", "calc"]].concat()).until_waiting();
        let _door = block_door(&sandbox);
        holder.release();
        waiter.end().assert_code(124).assert_stdout("");
        assert!(!is_held(&sandbox.lock_file("calc")));
    }
}

#[test]
fn everybody_gets_in_when_the_door_is_free_again() {
    for way in WAYS {
        for options in runs(way) {
            let sandbox = Sandbox::new();
            let holder = sandbox.hold(&["-l", "calc"]);
            let waiter = sandbox.lockrun(&[&options[..], &["--", "echo", "ran"]].concat()).start().until_waiting();
            let door = block_door(&sandbox);
            holder.release();
            eventually("it is granted", || is_held(&sandbox.lock_file("calc")));
            drop(door);
            waiter.wait().assert_code(0).assert_stdout("ran\n");
        }
    }
}
