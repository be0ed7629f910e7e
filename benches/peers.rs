//! The tools that run a command under a lock: which there are, how each is
//! called, and where to get one that is missing.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::machine::first_line;
use crate::scratch::Scratch;
use crate::yardstick::Yardstick;

/// The lockrun that this bench was built with.
const LOCKRUN: &str = env!("CARGO_BIN_EXE_lockrun");

/// Names another lockrun to compare with, such as the one of the commit before.
const BEFORE: &str = "LOCKRUN_BENCH_BEFORE";

/// Copies a program, as an installation does. The pages of a program that the
/// linker wrote, or that was read from disk piece by piece, are scattered, and
/// take 3 to 15 % longer to map than those of a fresh copy. So every program
/// is measured as a fresh copy.
fn fresh_copy(program: &Path, way: Way, scratch: &Scratch) -> anyhow::Result<PathBuf> {
    let directory = scratch.path().join(format!("{way:?}"));
    fs::create_dir(&directory)?;
    let copy = directory.join(program.file_name().context("a program has a name")?);
    fs::copy(program, &copy).with_context(|| format!("copying {}", program.display()))?;
    File::open(&copy)?.sync_all()?;
    Ok(copy)
}

/// One way to run a command under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Lockrun,
    LockrunExec,
    /// One of four slots instead of the whole lock.
    LockrunSlots,
    /// The lockrun that [`BEFORE`] names.
    LockrunBefore,
    Flock,
    FlockNoFork,
    Setlock,
    S6Setlock,
    /// The static C program that opens, locks, vforks, execs and waits.
    LockSpawn,
    /// The static C program that opens, locks and execs.
    LockExec,
}

/// Slots of [`Way::LockrunSlots`].
pub const SLOTS: usize = 4;

impl Way {
    const ALL: [Way; 10] = [
        Way::Lockrun,
        Way::LockrunExec,
        Way::LockrunSlots,
        Way::LockrunBefore,
        Way::Flock,
        Way::FlockNoFork,
        Way::Setlock,
        Way::S6Setlock,
        Way::LockSpawn,
        Way::LockExec,
    ];

    /// How the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Way::Lockrun => "lockrun",
            Way::LockrunExec => "lockrun --exec",
            Way::LockrunSlots => "lockrun --slots 4",
            Way::LockrunBefore => "lockrun before",
            Way::Flock => "flock(1)",
            Way::FlockNoFork => "flock --no-fork",
            Way::Setlock => "setlock",
            Way::S6Setlock => "s6-setlock",
            Way::LockSpawn => "C: lock, vfork, exec",
            Way::LockExec => "C: lock, exec",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Way::LockrunExec => &["--exec"],
            Way::LockrunSlots => &["--slots", "4"],
            Way::FlockNoFork => &["--no-fork"],
            _ => &[],
        }
    }

    fn locks_by_name(self) -> bool {
        matches!(self, Way::Lockrun | Way::LockrunExec | Way::LockrunSlots | Way::LockrunBefore)
    }

    /// A word of `PROGRAM --help` without which the tool is too old for this.
    fn needs_in_help(self) -> Option<&'static str> {
        match self {
            Way::LockrunSlots => Some("--slots"),
            Way::FlockNoFork => Some("--no-fork"),
            _ => None,
        }
    }

    /// Debian's package of a tool that is not built here.
    fn package(self) -> Option<&'static str> {
        match self {
            Way::Flock | Way::FlockNoFork => Some("util-linux"),
            Way::Setlock => Some("daemontools"),
            Way::S6Setlock => Some("s6"),
            _ => None,
        }
    }
}

/// A way and the program for it, found to work on this machine.
#[derive(Clone, Debug)]
pub struct Tool {
    pub way: Way,
    program: PathBuf,
}

/// A lock for every tool of one measurement, each its own file.
pub struct Lock<'a> {
    pub directory: &'a Path,
}

impl Tool {
    /// The copy that is measured.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The whole command line that runs `command` under the tool's lock.
    ///
    /// lockrun finds the directory in its environment, see [`Lock::environment`], so
    /// that its command line is the one people type.
    pub fn command_line(&self, lock: &Lock, command: &[OsString]) -> Vec<OsString> {
        let mut line = vec![self.program.clone().into_os_string()];
        line.extend(self.way.options().iter().map(OsString::from));
        if self.way.locks_by_name() {
            line.extend(["-l", "a", "--"].map(OsString::from));
        } else {
            let file = format!("{:?}", self.way);
            line.push(lock.directory.join(file).into_os_string());
        }
        line.extend_from_slice(command);
        line
    }

    /// [`Tool::command_line`] ready to be spawned, detached from the terminal.
    pub fn command(&self, lock: &Lock, command: &[OsString]) -> Command {
        let line = self.command_line(lock, command);
        let mut process = Command::new(&line[0]);
        process.args(&line[1..]);
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        lock.environment(&mut process);
        process
    }
}

impl Lock<'_> {
    /// Points lockrun to the directory, and takes out of the environment what
    /// cargo put in and what else may tell lockrun something. cargo's
    /// LD_LIBRARY_PATH alone would be unfair: a dynamically linked tool searches
    /// ten directories for libc because of it.
    pub fn environment(&self, process: &mut Command) {
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let of_cargo = ["CARGO", "RUST", "LD_LIBRARY_PATH"];
            if text.starts_with("LOCKRUN_") || of_cargo.iter().any(|part| text.starts_with(part)) {
                process.env_remove(&name);
            }
        }
        process.env("LOCKRUN_DIR", self.directory);
    }
}

/// The tools of this machine.
pub struct Peers {
    tools: Vec<Tool>,
    remarks: Vec<String>,
}

impl Peers {
    /// Looks for every tool and tries each once.
    pub fn find(yardstick: &Yardstick, scratch: &Scratch) -> anyhow::Result<Self> {
        let directory = scratch.locks_directory()?;
        let lock = Lock { directory: &directory };
        let mut peers = Peers { tools: Vec::new(), remarks: Vec::new() };
        for way in Way::ALL {
            let program = match way {
                Way::Lockrun | Way::LockrunExec | Way::LockrunSlots => Some(LOCKRUN.into()),
                Way::LockrunBefore => match env::var_os(BEFORE) {
                    Some(before) => Some(before.into()),
                    None => continue,
                },
                Way::LockSpawn => Some(yardstick.lock_spawn.clone()),
                Way::LockExec => Some(yardstick.lock_exec.clone()),
                Way::Flock | Way::FlockNoFork => in_path("flock"),
                Way::Setlock => in_path("setlock"),
                Way::S6Setlock => in_path("s6-setlock"),
            };
            let Some(program) = program else {
                let package = way.package().unwrap_or("?");
                let name = way.name();
                peers.remarks.push(format!("No {name} here: apt install {package}"));
                continue;
            };
            let tool = Tool { way, program: fresh_copy(&program, way, scratch)? };
            match tool.try_once(&lock, yardstick)? {
                Ok(()) => peers.tools.push(tool),
                Err(reason) => peers.remarks.push(reason),
            }
        }
        Ok(peers)
    }

    pub fn get(&self, way: Way) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.way == way)
    }

    /// Those of `ways` that there are, in that order.
    pub fn among(&self, ways: &[Way]) -> Vec<&Tool> {
        ways.iter().filter_map(|way| self.get(*way)).collect()
    }

    /// What is missing and why.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Each distinct program with its version.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        self.among(&[Way::Lockrun, Way::Flock, Way::Setlock, Way::S6Setlock])
            .into_iter()
            .map(|tool| (tool.way.name(), tool.version()))
            .collect()
    }
}

impl Tool {
    /// Runs `true` under a lock; the inner error says why this tool is left out.
    fn try_once(&self, lock: &Lock, yardstick: &Yardstick) -> anyhow::Result<Result<(), String>> {
        let name = self.way.name();
        if let Some(word) = self.way.needs_in_help() {
            let help =
                Command::new(&self.program).arg("--help").output().with_context(|| format!("running {name} --help"))?;
            if !String::from_utf8_lossy(&help.stdout).contains(word) {
                return Ok(Err(format!("{name}: not measured, it does not know {word}")));
            }
        }
        let output = self
            .command(lock, &[yardstick.truth.clone().into()])
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("running {name}"))?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let message = String::from_utf8_lossy(&output.stderr);
        Ok(Err(format!(
            "{name}: not measured, it cannot run `true`: {}: {}",
            output.status,
            message.lines().next().unwrap_or("no message")
        )))
    }

    fn version(&self) -> String {
        match (self.way, self.way.package()) {
            (Way::Setlock | Way::S6Setlock, Some(package)) => {
                let version = first_line("dpkg-query", &["-W", "-f", "${Version}", package]);
                format!("{package} {version}")
            }
            _ => first_line(&self.program.to_string_lossy(), &["--version"]),
        }
    }
}

/// The program that a shell would run for `name`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|file| file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0))
}
