//! A locks directory on a full or read-only disk: the text in a lock file is only a
//! hint, the lock is the kernel's.

use crate::support::{Outcome, Sandbox, with_mounts};

/// Runs `script` where `$LOCKRUN_DIR` is a small file system of its own.
fn on_small_disk(script: &str) -> Option<Outcome> {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    let script = format!(
        "mount -t tmpfs -o size=64k,nr_inodes=9,mode=700 none \"$LOCKRUN_DIR\"
        fill() {{ cat /dev/zero >\"$LOCKRUN_DIR/big\" 2>/dev/null || true; }}
        exhaust() {{ for i in $(seq 20); do touch \"$LOCKRUN_DIR/$i\" 2>/dev/null || true; done; }}
        {script}"
    );
    Some(with_mounts(&sandbox, &script)?.run())
}

#[test]
fn a_lock_is_taken_on_a_full_disk() {
    let script = "fill; lockrun -l calc -- lockrun -l other -- echo ran";
    let Some(outcome) = on_small_disk(script) else {
        return;
    };
    outcome.assert_code(0).assert_stdout("ran\n").assert_silent();
}

#[test]
fn on_a_full_disk_holders_exclude_each_other() {
    let script = "fill
        lockrun -l calc -- flock -n $LOCKRUN_DIR/calc.lock true || echo excluded $?
        flock $LOCKRUN_DIR/calc.lock lockrun -n -l calc -- true || echo excluded $?";
    let Some(outcome) = on_small_disk(script) else {
        return;
    };
    outcome.assert_stdout("excluded 1\nexcluded 75\n");
}

#[test]
fn on_a_full_disk_fences_rise() {
    let script = "fill; for i in 1 2 3 4 5; do lockrun -l calc -c 'echo $LOCKRUN_FENCE'; done";
    let Some(outcome) = on_small_disk(script) else {
        return;
    };
    outcome.assert_code(0).assert_silent();
    let fences: Vec<u64> = outcome.stdout.lines().flat_map(str::parse).collect();
    assert_eq!(fences.len(), 5, "{outcome:?}");
    assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
}

#[test]
fn a_lock_is_taken_on_a_read_only_disk() {
    let script = "lockrun -l calc -- true; mount -o remount,bind,ro \"$LOCKRUN_DIR\"
        lockrun -l calc -- flock -n $LOCKRUN_DIR/calc.lock true || echo excluded $?
        flock $LOCKRUN_DIR/calc.lock lockrun -n -q -l calc -- true || echo excluded $?
        flock $LOCKRUN_DIR/calc.lock lockrun -t 0.01 -q -l calc -- true || echo excluded $?
        lockrun -l calc -- echo ran";
    let Some(outcome) = on_small_disk(script) else {
        return;
    };
    let expected = "excluded 1\nexcluded 75\nexcluded 124\nran\n";
    outcome.assert_code(0).assert_stdout(expected).assert_silent();
}

/// The kernel sends a signal (SIGXFSZ) to who writes more than that.
#[test]
fn a_limit_on_the_size_of_files_does_not_end_the_command() {
    for form in ["", "-v", "-s", "--slots 2", "--exec"] {
        let sandbox = Sandbox::new();
        let limited = format!("ulimit -f 0; exec lockrun {form} -l calc -- sh -c 'exit 4' 2>/dev/null");
        sandbox.sh(&limited).run().assert_code(4);
        let holder = sandbox.hold(&["-l", "calc"]);
        let waiter = sandbox.sh(&limited).start().until_waiting();
        holder.release();
        waiter.wait().assert_code(4);
    }
}

/// It is known by the lock that it holds, there as well.
#[test]
fn on_a_read_only_disk_an_expiry_spares_the_keeper_of_a_token() {
    let inner = "lockrun acquire -l calc --expires 1000 >$HOME/token; exec sleep 1000";
    let script = format!(
        "lockrun -l calc -- true; mount -o remount,bind,ro \"$LOCKRUN_DIR\"
        lockrun -q -d \"$HOME/locks\" -l other --expires 1 -c '{inner}' || echo $?
        lockrun check \"$(cat $HOME/token)\" >/dev/null && lockrun release \"$(cat $HOME/token)\" && echo released"
    );
    let Some(outcome) = on_small_disk(&script) else {
        return;
    };
    outcome.assert_code(0).assert_stdout("123\nreleased\n");
}

#[test]
fn slots_need_a_disk_that_can_be_written() {
    let script = "lockrun -l calc -- true; mount -o remount,bind,ro \"$LOCKRUN_DIR\"
        lockrun --slots 2 -l calc -- echo ran";
    let Some(outcome) = on_small_disk(script) else {
        return;
    };
    outcome.assert_code(125).assert_stdout("").assert_one_line(&["calc", "read-only", "--dir"]);
}

#[test]
fn a_file_that_cannot_be_made_is_named_even_with_quiet() {
    for make in ["exhaust", "mount -o remount,bind,ro \"$LOCKRUN_DIR\""] {
        let script = format!("{make}; lockrun -n -E 0 -q -l calc -- echo ran");
        let Some(outcome) = on_small_disk(&script) else {
            return;
        };
        outcome.assert_code(125).assert_stdout("").assert_one_line(&["calc"]);
    }
}

/// The first file that goes makes room for what has to be remembered of it.
#[test]
fn on_a_full_disk_prune_remembers_fencing_tokens() {
    let script = "for name in a b c; do lockrun -l $name -c 'echo $LOCKRUN_FENCE' >>last; done
        fill; lockrun prune; printf '%020d\\n' $(tail -n 1 last) | cmp - $LOCKRUN_DIR/.floor; ls -A $LOCKRUN_DIR";
    let Some(outcome) = on_small_disk(script) else {
        return;
    };
    outcome.assert_code(0).assert_silent().assert_stdout("a\nb\nc\n.floor\nbig\n");
}

/// A number ahead of the clock is remembered before its file goes.
#[test]
fn on_a_full_disk_prune_keeps_a_file_ahead_of_the_clock() {
    let script = "lockrun -l a -c 'echo $LOCKRUN_FENCE' >first; lockrun -l b -- true
        sed -i \"s/$(cat first)/4$(cat first | cut -c 2-)/\" $LOCKRUN_DIR/a.lock
        fill; lockrun prune; [ $(lockrun -l a -c 'echo $LOCKRUN_FENCE') -gt 4$(cut -c 2- first) ]";
    let Some(outcome) = on_small_disk(script) else {
        return;
    };
    outcome.assert_code(0).assert_silent().assert_stdout("b\na\n");
}
