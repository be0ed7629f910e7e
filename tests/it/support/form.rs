//! The two ways to take a lock.

use super::{Outcome, Running, Sandbox, eventually, status_field};

/// How a lock is taken: around a command, or for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Run,
    Acquire,
}

impl Form {
    pub const BOTH: [Self; 2] = [Self::Run, Self::Acquire];

    /// Asks for a lock with these options, in the background.
    #[track_caller]
    pub fn ask<'sandbox>(self, sandbox: &'sandbox Sandbox, options: &[&str]) -> Asked<'sandbox> {
        let running = match self {
            Self::Run => sandbox.lockrun(&[options, &["-c", RUN]].concat()).input("").start(),
            Self::Acquire => sandbox.lockrun(&[&["acquire", "--expires", "100"], options].concat()).start(),
        };
        Asked { form: self, sandbox, running: Some(running) }
    }

    /// Asks for a lock and gets it.
    #[track_caller]
    pub fn hold<'sandbox>(self, sandbox: &'sandbox Sandbox, options: &[&str]) -> Asked<'sandbox> {
        self.ask(sandbox, options).until_held()
    }

    /// Asks for a lock and is refused.
    #[track_caller]
    pub fn fail(self, sandbox: &Sandbox, options: &[&str]) -> Outcome {
        self.ask(sandbox, options).end()
    }

    /// Whether `--timeout 0` gets it now; releases it.
    #[track_caller]
    pub fn gets_now(self, sandbox: &Sandbox, options: &[&str]) -> bool {
        let options = [&["-n", "-q"], options].concat();
        match self {
            Self::Run => sandbox.lockrun(&[&options[..], &["--", "true"]].concat()).run().code == Some(0),
            Self::Acquire => {
                let outcome = self.fail(sandbox, &options);
                outcome.code == Some(0) && sandbox.lockrun(&["release", outcome.stdout.trim()]).run().code == Some(0)
            }
        }
    }
}

const RUN: &str = "echo \"place:$LOCKRUN_SLOT:\"; exec cat";

/// A lock that was asked for. Dropping it releases the lock.
pub struct Asked<'sandbox> {
    form: Form,
    sandbox: &'sandbox Sandbox,
    running: Option<Running>,
}

impl Asked<'_> {
    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Returns once it waits in the queue.
    #[track_caller]
    pub fn until_waiting(mut self) -> Self {
        self.running = self.running.take().map(Running::until_waiting);
        self
    }

    /// Returns once it has the lock.
    #[track_caller]
    pub fn until_held(mut self) -> Self {
        eventually("the lock is granted", || {
            let ended = self.running.as_mut().unwrap().has_ended();
            assert!(!ended || self.holds(), "{:?}", self.running);
            self.holds()
        });
        self
    }

    pub fn holds(&self) -> bool {
        let said = self.running().stdout();
        match self.form {
            Form::Run => said.starts_with("place:"),
            Form::Acquire => said.ends_with('\n'),
        }
    }

    /// Asserts that it still waits, after what has just happened.
    #[track_caller]
    pub fn assert_waits(&self) {
        eventually("it sleeps again, if it was woken", || {
            let sleeps = self.running().is_waiting();
            assert!(!self.holds(), "{:?}", self.running());
            sleeps
        });
    }

    /// Its slot.
    #[track_caller]
    pub fn place(&self) -> u32 {
        let said = self.running().stdout();
        let text = match self.form {
            Form::Run => said.split(':').nth(1).unwrap().to_owned(),
            Form::Acquire => {
                let state = self.sandbox.lockrun(&["check", "--json", said.trim()]).run().stdout;
                let place = state.split("\"slot\":").nth(1).unwrap_or_else(|| panic!("no slot in {state}"));
                place.trim_start().chars().take_while(char::is_ascii_digit).collect()
            }
        };
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    /// The token, of [`Form::Acquire`].
    pub fn token(&self) -> String {
        self.running().stdout().trim().to_owned()
    }

    /// Releases it, and returns how it ended.
    #[track_caller]
    pub fn release(mut self) -> Outcome {
        let running = self.running.take().unwrap();
        match self.form {
            Form::Run => running.wait(),
            Form::Acquire => self.sandbox.lockrun(&["release", running.stdout().trim()]).run(),
        }
    }

    /// How it ended, by itself.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let mut running = self.running.take().unwrap();
        // Its input stays open, so we do not end it.
        eventually("it ends by itself", || running.has_ended());
        running.wait()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let (Form::Acquire, Some(running)) = (self.form, &self.running)
            && self.holds()
        {
            self.sandbox.lockrun(&["release", running.stdout().trim()]).run();
        }
    }
}

/// A holder that ignores TERM, and ends with its input.
#[track_caller]
pub fn stubborn_holder(sandbox: &Sandbox, options: &[&str]) -> Running {
    let script = "trap '' TERM; echo holding; exec cat";
    let args = [options, &["--kill-after", "100", "-c", script]].concat();
    sandbox.lockrun(&args).input("").start().until_says("holding")
}

/// Lets a [`stubborn_holder`] end once it has been asked to, and returns how. Its input
/// must not end before that.
#[track_caller]
pub fn end_of_stubborn(holder: Running) -> Outcome {
    eventually("it has read that it is to end", || {
        let pending = u64::from_str_radix(&status_field(holder.pid(), "ShdPnd"), 16).unwrap();
        pending >> (libc::SIGTERM - 1) & 1 == 0
    });
    holder.wait()
}
