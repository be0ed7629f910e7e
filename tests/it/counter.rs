//! The experiment that the project began with: two loops add 1000 and 2000 to
//! one counter file, a read, an addition and a write per turn.

use crate::support::{Outcome, Sandbox};
use std::fs;

const STARTING: &str = "File doesn't exist, starting to count from 0\n";

/// One turn: reads the counter, adds one, writes it back.
const TURN: &str = r#"if [ -f counter ]; then
    read count <counter
else
    echo "File doesn't exist, starting to count from 0"
    count=0
fi
echo $((count + 1)) >counter
"#;

/// Two loops at once, of so many turns each; what they printed, and the sum.
fn count(prefix: &str, turns: [u32; 2]) -> (String, u32) {
    let sandbox = Sandbox::new();
    sandbox.write("work/turn", TURN);
    let start = |turns| {
        let script = format!("for i in $(seq {turns}); do {prefix} sh ./turn || exit 1; done");
        sandbox.sh(&script).start()
    };
    let printed = turns.map(start).map(|running| {
        let Outcome { stdout, .. } = running.wait().assert_code(0).clone();
        stdout
    });
    let sum = fs::read_to_string(sandbox.path("work/counter")).unwrap();
    (printed.concat(), sum.trim().parse().unwrap_or(0))
}

#[test]
fn without_a_lock_the_sum_is_wrong() {
    let wrong = (0..20).any(|_| count("", [200, 300]).1 != 500);
    assert!(wrong, "the experiment shows nothing: right 20 times without a lock");
}

#[test]
fn with_lockrun_the_sum_is_exactly_3000() {
    let (printed, sum) = count("lockrun --name counter --", [1000, 2000]);
    assert_eq!((printed.as_str(), sum), (STARTING, 3000));
}
