//! Readers, writers, slots and sets in one queue: no conflicting request overtakes
//! another.

use crate::support::{Asked, Form, Sandbox, eventually};

#[test]
fn conflicting_waiters_go_in_the_order_of_arrival() {
    for form in Form::BOTH {
        let sandbox = Sandbox::new();
        // A set comes to a lock when it has those before it in the order.
        let [calc, other] = sandbox.in_order(["a", "b"]);
        let kinds: [&[&str]; 8] = [
            &["-l", calc],
            &["-s", "-l", calc],
            &["-l", calc, "--slots", "2"],
            &["-l", calc, "-l", other],
            &["-l", calc, "--slots", "2", "--slot", "1"],
            &["-s", "-l", calc, "-l", other],
            &["-l", calc, "--slots", "3"],
            &["-l", calc],
        ];
        let mut holder = form.hold(&sandbox, &["-l", calc]);
        let mut waiters: Vec<_> = kinds.map(|options| form.ask(&sandbox, options).until_waiting()).into();
        while !waiters.is_empty() {
            holder.release().assert_code(0);
            holder = waiters.remove(0).until_held();
            waiters.iter().for_each(Asked::assert_waits);
        }
    }
}

#[test]
fn compatible_waiters_go_together_in_their_turn() {
    let sandbox = Sandbox::new();
    let holder = Form::Run.hold(&sandbox, &["-l", "calc"]);
    let ask = |options: &[&str]| Form::Run.ask(&sandbox, &[&["-l", "calc"], options].concat()).until_waiting();
    let readers = [(); 2].map(|()| ask(&["-s"]));
    let places = [(); 2].map(|()| ask(&["--slots", "2"]));
    let third = ask(&["--slots", "2"]);
    let writer = ask(&[]);
    let late = ask(&["-s"]);
    holder.release();
    let readers = readers.map(Asked::until_held);
    [&places[0], &places[1], &third, &writer, &late].into_iter().for_each(Asked::assert_waits);
    drop(readers);
    let [one, two] = places.map(Asked::until_held);
    [&third, &writer, &late].into_iter().for_each(Asked::assert_waits);
    one.release();
    let third = third.until_held();
    two.release();
    [&writer, &late].into_iter().for_each(Asked::assert_waits);
    third.release();
    let writer = writer.until_held();
    late.assert_waits();
    writer.release();
    late.until_held();
}

#[test]
fn greedy_loops_of_every_kind_all_get_their_turns() {
    let sandbox = Sandbox::new();
    let kinds = ["-l calc", "-s -l calc", "--slots 2 -l calc", "--slots 2 --slot 1 -l calc", "-l calc -l other"];
    let greedy = |(number, options): (usize, &&str)| {
        let turn = format!("lockrun -q {options} -c 'echo >>turns-{number}' || echo $?");
        sandbox.sh(&format!("while [ ! -e done ]; do {turn}; done")).start()
    };
    let loops: Vec<_> = kinds.iter().enumerate().map(greedy).collect();
    let turns = || {
        let length =
            |number| std::fs::metadata(sandbox.path(&format!("work/turns-{number}"))).map_or(0, |file| file.len());
        (0..kinds.len()).map(length).collect::<Vec<_>>()
    };
    eventually("some have had many turns", || turns().iter().any(|turns| *turns >= 100));
    let turns = turns();
    sandbox.write("work/done", "");
    for running in loops {
        running.wait().assert_code(0).assert_stdout("");
    }
    assert!(turns.iter().all(|turns| *turns >= 20), "{turns:?}");
}

#[test]
fn a_set_is_not_starved_by_loops_over_its_parts() {
    let sandbox = Sandbox::new();
    let take = |options: &str| format!("while [ ! -e done ]; do lockrun -q {options} -- sleep 0.005; done");
    let parts = ["-l a", "-l a", "-s -l b", "-l b", "-l c --slots 2", "-l c --slots 2"];
    let loops = parts.map(|options| sandbox.sh(&take(options)).start());
    for _ in 0..5 {
        sandbox.lockrun(&["-l", "c", "-l", "b", "-l", "a", "--", "true"]).run().assert_code(0);
    }
    sandbox.write("work/done", "");
    for running in loops {
        running.wait().assert_code(0).assert_silent();
    }
}
