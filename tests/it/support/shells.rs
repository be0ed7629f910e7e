//! The shells that scripts are written for.

use super::{Invocation, Sandbox};

/// A shell, and what is different in it about descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shell {
    program: &'static [&'static str],
    /// ksh closes descriptors above 2 that `exec` opened when it runs a program.
    closes: bool,
}

const fn shell(program: &'static [&'static str], closes: bool) -> Shell {
    Shell { program, closes }
}

/// All of them.
pub const SHELLS: [Shell; 6] = [
    shell(&["bash"], false),
    shell(&["dash"], false),
    shell(&["zsh", "-f"], false),
    shell(&["busybox", "ash"], false),
    shell(&["ksh93"], true),
    shell(&["mksh"], true),
];

impl Shell {
    /// Whether a program has the descriptor that `exec 9<>file` opened.
    pub fn passes_on_what_exec_opens(self) -> bool {
        !self.closes
    }

    /// A script that does `body` with the lock file of `calc` as descriptor 9, as
    /// the manual writes it for this shell.
    pub fn with_descriptor(self, body: &str) -> String {
        match self.closes {
            true => format!("file=$(lockrun path calc) || exit; ( {body}\n) 9<>\"$file\""),
            false => format!("exec 9<>\"$(lockrun path calc)\" || exit; {body}"),
        }
    }
}

impl Sandbox {
    /// A script for this shell.
    pub fn shell(&self, shell: Shell, script: &str) -> Invocation {
        let args = [&shell.program[1..], &["-c", script]].concat();
        self.command(shell.program[0], &args)
    }
}
