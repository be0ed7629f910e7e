//! A command before it runs.

use super::{Outcome, Running};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A command to be run; options first, then [`run`](Self::run) or
/// [`start`](Self::start).
///
/// Its output goes to files, which can be read while it runs. A process that it leaves
/// behind with open descriptors then holds up no test.
pub struct Invocation {
    command: Command,
    output: PathBuf,
    input: Option<Vec<u8>>,
}

impl Invocation {
    pub(super) fn new(command: Command, output: PathBuf) -> Self {
        Self { command, output, input: None }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Text for its standard input, which is /dev/null otherwise.
    pub fn input(mut self, text: &str) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Runs it as this user and group, without others; needs root.
    pub fn by_user(mut self, uid: u32, gid: u32) -> Self {
        self.command.uid(uid).gid(gid);
        self
    }

    pub fn umask(self, mask: u32) -> Self {
        self.before_exec(move || {
            // SAFETY: umask always succeeds and is async-signal-safe.
            unsafe { libc::umask(mask) };
        })
    }

    /// Calls `prepare` in the child between fork and exec: only
    /// async-signal-safe calls, no allocation.
    pub fn before_exec(mut self, prepare: impl Fn() + Send + Sync + 'static) -> Self {
        let prepare = move || {
            prepare();
            Ok(())
        };
        // SAFETY: the callers keep to what the doc comment asks for.
        unsafe { self.command.pre_exec(prepare) };
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Starts it as the leader of a new session on this terminal.
    #[track_caller]
    pub(super) fn start_on(self, terminal: File) -> Running {
        let mut invocation = self.before_exec(|| {
            // SAFETY: both calls are async-signal-safe and touch no memory.
            unsafe {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
            }
        });
        let text = invocation.text();
        let [stdin, stdout] = [(); 2].map(|()| terminal.try_clone().unwrap());
        let command = invocation.command.stdin(stdin).stdout(stdout).stderr(terminal);
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        Running::new(
            started,
            child,
            text,
            invocation.output.with_extension("out"),
            invocation.output.with_extension("err"),
        )
    }

    /// Starts it in a process group of its own. Its standard input is a pipe
    /// that [`Running`] holds open if [`input`](Self::input) was called.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let (stdout, stderr) = (self.output.with_extension("out"), self.output.with_extension("err"));
        let text = self.text();
        let stdin = match self.input {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        };
        let started = Instant::now();
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        if let (Some(text), Some(pipe)) = (self.input, child.stdin.as_mut()) {
            pipe.write_all(&text).expect("writing to its stdin");
        }
        Running::new(started, child, text, stdout, stderr)
    }

    fn text(&self) -> String {
        let args = self.command.get_args().collect::<Vec<_>>();
        format!("{:?} {args:?}", self.command.get_program())
    }
}
