//! How a command ended and what it said.

use std::time::Duration;

/// How a command ended and what it said. Every `assert_` prints all of it when
/// it fails.
#[derive(Clone)]
pub struct Outcome {
    pub command: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub dumped_core: bool,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        self.check(self.code == Some(code), &format!("exit code {code}"))
    }

    #[track_caller]
    pub fn assert_signal(&self, signal: i32) -> &Self {
        self.check(self.signal == Some(signal), &format!("end by signal {signal}"))
    }

    #[track_caller]
    pub fn assert_stdout(&self, text: &str) -> &Self {
        self.check(self.stdout == text, &format!("stdout {text:?}"))
    }

    /// Nothing on stderr.
    #[track_caller]
    pub fn assert_silent(&self) -> &Self {
        self.check(self.stderr.is_empty(), "nothing on stderr")
    }

    /// Exactly one line on stderr, which names lockrun and contains all `words`.
    #[track_caller]
    pub fn assert_one_line(&self, words: &[&str]) -> &Self {
        self.check(self.stderr.ends_with('\n'), "a line on stderr")
            .check(self.stderr.lines().count() == 1, "one line on stderr")
            .check(self.stderr.starts_with("lockrun: "), "a line of lockrun's")
            .assert_stderr_has(words)
    }

    /// Two lines on stderr, what is wrong and what to do, that contain all `words`.
    #[track_caller]
    pub fn assert_usage_error(&self, words: &[&str]) -> &Self {
        let lines: Vec<_> = self.stderr.lines().collect();
        self.assert_code(125)
            .check(lines.len() == 2 && self.stderr.ends_with('\n'), "two lines on stderr")
            .check(lines.iter().all(|line| line.starts_with("lockrun: ")), "lines of lockrun's")
            .check(lines[1].starts_with("lockrun: try: "), "a second line with what to do")
            .assert_stderr_has(words)
    }

    #[track_caller]
    pub fn assert_stderr_has(&self, words: &[&str]) -> &Self {
        for word in words {
            self.check(self.stderr.contains(word), &format!("{word:?} on stderr"));
        }
        self
    }

    /// Nothing on stderr that a terminal would obey.
    #[track_caller]
    pub fn assert_printable(&self) -> &Self {
        let printable = |line: &str| !line.chars().any(char::is_control);
        self.check(self.stderr.lines().all(printable), "no control characters on stderr")
    }

    #[track_caller]
    fn check(&self, holds: bool, expected: &str) -> &Self {
        assert!(holds, "expected {expected} from {self:?}");
        self
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (code, signal) = (self.code, self.signal);
        writeln!(out, "{}", self.command)?;
        writeln!(out, "code {code:?}, signal {signal:?}, after {:?}", self.took)?;
        writeln!(out, "--- stdout\n{}", self.stdout)?;
        writeln!(out, "--- stderr\n{}", self.stderr)
    }
}
