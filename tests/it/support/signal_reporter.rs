//! A command that says which signals reach it.

use super::Running;

/// Shell text for a command that prints `ready`, then the name of every signal
/// that reaches it, each on a line; it ends with code 3 when it gets PROF.
///
/// Pending signals arrive in no particular order: wait for one to be reported
/// before sending the next.
pub struct SignalReporter;

impl SignalReporter {
    pub const SCRIPT: &str = r#"
        for signal in HUP INT QUIT USR1 USR2 TERM CONT WINCH ALRM PIPE URG 40; do
            trap "echo $signal" $signal
        done
        trap 'echo end; exit 3' PROF
        # Started by setsid: what a terminal sends to the group must not end it.
        setsid sleep 1000 &
        echo ready
        while :; do wait; done"#;

    /// Ends the command and returns what reached it, without that last signal.
    /// `reporter` may be the lockrun around it.
    #[track_caller]
    pub fn reported(reporter: Running) -> Vec<String> {
        let reporter = reporter.until_says("ready\n");
        reporter.signal(libc::SIGPROF);
        let outcome = reporter.wait();
        outcome.assert_code(3).assert_silent();
        let lines: Vec<_> = outcome.stdout.lines().map(str::to_owned).collect();
        let ["ready", between @ .., "end"] = &lines.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
            panic!("it did not report: {outcome:?}");
        };
        between.iter().map(|&line| line.to_owned()).collect()
    }
}
