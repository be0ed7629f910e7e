//! The directories and environment of one test.

use super::{Holder, Invocation};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Marks every process of a sandbox, so that none outlives it. Keepers of tokens keep
/// only the variables of CI systems.
const MARKER: &str = "JENKINS_NODE_COOKIE";

/// Directories that only one test uses:
///
/// ```text
/// bin/lockrun   the program under test, also runnable by other users
/// locks/        $LOCKRUN_DIR
/// home/         $HOME
/// work/         the directory that commands run in
/// ```
///
/// Dropping it kills what still runs in it and removes the files.
pub struct Sandbox {
    root: PathBuf,
    outputs: AtomicU32,
}

/// Undoes that a script which runs the tests with `&` makes their processes ignore
/// Ctrl-C.
fn hear_the_keyboard() {
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default action is no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

impl Sandbox {
    pub fn new() -> Self {
        static SANDBOXES: AtomicU32 = AtomicU32::new(0);
        static HEARING: Once = Once::new();
        HEARING.call_once(hear_the_keyboard);
        let number = SANDBOXES.fetch_add(1, Ordering::Relaxed);
        let name = format!("lockrun-test-{}-{number}", std::process::id());
        let sandbox =
            Self { root: fs::canonicalize(std::env::temp_dir()).unwrap().join(name), outputs: AtomicU32::new(0) };
        for directory in ["", "bin", "home", "work", "output"] {
            sandbox.make_dir(directory, 0o755);
        }
        sandbox.make_dir("locks", 0o700);
        install(&sandbox.path("bin/lockrun"));
        sandbox
    }

    /// A path inside the sandbox, whether it exists or not.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// The locks directory.
    pub fn locks(&self) -> PathBuf {
        self.path("locks")
    }

    /// The file behind a plain NAME (one whose bytes need no encoding).
    pub fn lock_file(&self, name: &str) -> PathBuf {
        self.locks().join(format!("{name}.lock"))
    }

    /// The names in the locks directory, sorted; none when it is missing.
    pub fn files_in_locks(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.locks()) else {
            return Vec::new();
        };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Makes a directory with exactly this mode, whatever the umask.
    pub fn make_dir(&self, inside: &str, mode: u32) -> PathBuf {
        let path = self.path(inside);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Writes a file, in the sandbox's own user's name, mode 0644.
    pub fn write(&self, inside: &str, text: &str) -> PathBuf {
        let path = self.path(inside);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// A full FIFO in `work`, which nobody reads; it stays full until the result is
    /// dropped.
    pub fn full_pipe(&self, name: &str) -> File {
        self.command("mkfifo", &[name]).run().assert_code(0);
        let path = self.path("work").join(name);
        let mut fifo = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        while fifo.write(&[b'x'; 4096]).is_ok() {}
        fifo
    }

    /// `lockrun ARGS...` with `LOCKRUN_DIR` set to [`Self::locks`].
    pub fn lockrun<A: AsRef<OsStr>>(&self, args: &[A]) -> Invocation {
        self.command(self.path("bin/lockrun"), args)
    }

    /// `sh -c SCRIPT`; `lockrun` is on its PATH.
    pub fn sh(&self, script: &str) -> Invocation {
        self.command("/bin/sh", &["-c", script])
    }

    /// Any program, in the sandbox's clean environment.
    pub fn command<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: &[A]) -> Invocation {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.path("work"))
            .env_clear()
            .env("PATH", self.search_path())
            .env("HOME", self.path("home"))
            .env("LOCKRUN_DIR", self.locks())
            .env(MARKER, &self.root);
        let number = self.outputs.fetch_add(1, Ordering::Relaxed);
        Invocation::new(command, self.path(&format!("output/{number}")))
    }

    /// These locks in the order in which a set takes them, by their inode numbers,
    /// which differ from run to run.
    pub fn in_order<const N: usize>(&self, mut names: [&'static str; N]) -> [&'static str; N] {
        names.sort_by_cached_key(|name| {
            self.lockrun(&["-l", name, "--", "true"]).run().assert_code(0);
            fs::metadata(self.lock_file(name)).unwrap().ino()
        });
        names
    }

    /// A lockrun with these lock options that holds until told to end.
    pub fn hold<A: AsRef<OsStr>>(&self, options: &[A]) -> Holder {
        let args = options.iter().map(AsRef::as_ref);
        let args: Vec<_> = args.chain(["--", "sh", "-c", Holder::COMMAND].map(OsStr::new)).collect();
        Holder::start(self.lockrun(&args))
    }

    /// flock(1) with these options that holds `path` until told to end.
    pub fn hold_by_flock(&self, options: &[&str], path: &Path) -> Holder {
        let mut args: Vec<_> = options.iter().map(OsStr::new).collect();
        args.push(path.as_os_str());
        args.extend(["sh", "-c", Holder::COMMAND].map(OsStr::new));
        Holder::start(self.command("flock", &args))
    }

    /// Python that holds `path` by fcntl.flock until told to end, as its
    /// filelock package does.
    pub fn hold_by_python(&self, path: &Path) -> Holder {
        let script = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); \
                      print('holding', flush=True); sys.stdin.read()";
        let args = ["-c".as_ref(), script.as_ref(), path.as_os_str()];
        Holder::start(self.command("python3", &args))
    }

    /// What `list --json` prints with these words: an object for each lock.
    #[track_caller]
    pub fn list<A: AsRef<OsStr>>(&self, words: &[A]) -> Vec<serde_json::Value> {
        let args = ["list", "--json"].map(OsStr::new).into_iter().chain(words.iter().map(AsRef::as_ref));
        let outcome = self.lockrun(&args.collect::<Vec<_>>()).run();
        outcome.assert_code(0).assert_silent();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    }

    fn search_path(&self) -> String {
        let own = self.path("bin");
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        format!("{}:{system}", own.display())
    }

    /// What was started in it and still runs. A process that is just executing a program
    /// has no environment, and is not found.
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("{MARKER}={}\0", self.root.display());
        let is_ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|part| part == mark.as_bytes())
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).filter(is_ours).collect()
    }

    /// Again and again, as what is killed may have started something just before.
    fn kill_leftovers(&self) {
        // SAFETY: kill has no memory effects; a pid that is gone is ESRCH.
        let kill = |pid: i32| unsafe { libc::kill(pid, libc::SIGKILL) } == 0;
        while self.processes().into_iter().fold(false, |found, pid| found | kill(pid)) {}
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill_leftovers();
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Puts the program where other users can reach it. A copy is made by cp(1): a
/// file that this process had open for writing could not be executed (ETXTBSY)
/// while a child forked by another test still has the descriptor.
fn install(program: &Path) {
    let built = env!("CARGO_BIN_EXE_lockrun");
    if fs::hard_link(built, program).is_err() {
        let copied = Command::new("cp").arg(built).arg(program).status().unwrap();
        assert!(copied.success(), "cannot copy {built}");
    }
}
