//! A terminal with a user.

use super::{Invocation, Outcome, Running, Sandbox, eventually};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;

/// A command that runs on a terminal of its own, as the leader of its session,
/// and somebody who types and reads. [`Running`]'s output is empty: it is on the
/// [`screen`](Self::screen).
pub struct Terminal {
    running: Running,
    /// The other end of the terminal; `None` when it has been hung up.
    master: Option<File>,
    screen: Vec<u8>,
    /// Everything on the screen up to here has been read.
    read: usize,
}

impl Terminal {
    #[track_caller]
    pub fn start(invocation: Invocation) -> Self {
        Self::start_with_width(invocation, 0)
    }

    /// On a terminal with this many columns; 0: unknown.
    #[track_caller]
    pub fn start_with_width(invocation: Invocation, columns: u16) -> Self {
        let mut ptmx = File::options();
        let master = ptmx.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/ptmx").unwrap();
        let size = libc::winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let (unlocked, flags) = (0, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        // SAFETY: ioctls on an open descriptor; the first two read live locals,
        // the third returns a new descriptor that nobody else owns.
        let slave = unsafe {
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked);
            libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size);
            let slave = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags);
            assert_ne!(slave, -1, "no terminal: {}", std::io::Error::last_os_error());
            File::from_raw_fd(slave)
        };
        let running = invocation.start_on(slave);
        Self { running, master: Some(master), screen: Vec::new(), read: 0 }
    }

    /// An interactive bash that has shown its first prompt, `ready> `.
    #[track_caller]
    pub fn shell(sandbox: &Sandbox) -> Self {
        let bash = sandbox.command("bash", &["--norc", "--noprofile", "--noediting", "-i"]);
        let mut shell = Self::start(bash.env("PS1", "ready> ").env("TERM", "xterm"));
        shell.until_shows("ready> ");
        shell
    }

    /// Types a line and passes over its echo.
    #[track_caller]
    pub fn enter(&mut self, line: &str) {
        self.press(&format!("{line}\n"));
        self.until_shows("\n");
    }

    /// Presses these keys; `\x03` is Ctrl-C, `\x1a` Ctrl-Z, `\x1c` Ctrl-\.
    pub fn press(&mut self, keys: &str) {
        let mut master = self.master.as_ref().expect("it was hung up");
        master.write_all(keys.as_bytes()).expect("typing");
    }

    /// Everything that was ever written to the screen.
    pub fn screen(&mut self) -> String {
        let mut buffer = [0; 4096];
        // EAGAIN: nothing more yet. EIO: the last process has closed it.
        while let Some(Ok(length @ 1..)) = self.master.as_ref().map(|mut master| master.read(&mut buffer)) {
            self.screen.extend(&buffer[..length]);
        }
        String::from_utf8_lossy(&self.screen).into_owned()
    }

    /// Reads up to the next `text`, and returns what came before it.
    #[track_caller]
    pub fn until_shows(&mut self, text: &str) -> String {
        let (read, command) = (self.read, format!("{:?}", self.running));
        let mut screen = String::new();
        eventually(&format!("{text:?} on the terminal of {command}"), || {
            screen = self.screen();
            let found = screen[read..].find(text);
            assert!(found.is_some() || !self.running.has_ended(), "ended before {text:?}: {screen:?}");
            found.is_some()
        });
        let (passed, _) = screen[read..].split_once(text).unwrap();
        self.read += passed.len() + text.len();
        passed.to_owned()
    }

    /// Takes the terminal away, as closing its window does.
    pub fn hang_up(&mut self) {
        self.screen();
        self.master = None;
    }

    pub fn has_ended(&mut self) -> bool {
        self.screen();
        self.running.has_ended()
    }

    /// Waits for its end; the screen is the outcome's stdout.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        eventually("the end of what runs on the terminal", || self.has_ended());
        let stdout = self.screen();
        Outcome { stdout, ..self.running.wait() }
    }
}

impl Deref for Terminal {
    type Target = Running;
    fn deref(&self) -> &Running {
        &self.running
    }
}

/// The visible lines, after carriage returns and erased lines.
pub fn visible_lines(screen: &str) -> Vec<String> {
    screen.split('\n').map(visible).collect()
}

/// One line after its carriage returns and escape sequences.
fn visible(line: &str) -> String {
    let mut cells: Vec<char> = Vec::new();
    let mut column = 0;
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        match character {
            '\r' => column = 0,
            '\x1b' => match rest.by_ref().skip_while(|c| *c == '[').find(|c| c.is_ascii_alphabetic()) {
                Some('K') => cells.truncate(column),
                _ => continue,
            },
            _ => {
                cells.resize(cells.len().max(column + 1), ' ');
                cells[column] = character;
                column += 1;
            }
        }
    }
    cells.into_iter().collect::<String>().trim_end().to_owned()
}
