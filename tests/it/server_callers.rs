//! The callers of a campaign on a server: locks of every kind, by many at once, who are
//! killed and stopped. What each command wrote while it was alive is for [`judge`].

use crate::oracle::{Grant, Had, Verdict, Window, judge};
use crate::support::{LIMIT, Outcome, Random, Running, Sandbox, children, eventually, is_alive, signal};
use lockrun::sys::suspend_aware_now;
use std::collections::{BTreeMap, BTreeSet};
use std::env::{current_exe, var};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const CALLERS: u32 = 12;
const NAMES: [&str; 5] = ["only-x", "x-and-s", "x-and-slots", "all", REPLACED];
/// Its holders are replaced and broken. One that does not hear of it in time may outlive
/// its lock.
const REPLACED: &str = "replaced";
/// Of a token, in seconds. Its command ends by itself before.
const EXPIRES: &str = "12";

/// What the threads of a campaign share.
pub struct Callers<'a> {
    sandbox: &'a Sandbox,
    /// Ways to the store.
    urls: Vec<String>,
    is_over: AtomicBool,
    /// Calls that run and that nothing has been done to.
    victims: Mutex<BTreeSet<i32>>,
    /// Calls that were interfered with.
    harmed: Mutex<BTreeSet<i32>>,
    /// Those of which both processes were.
    unwatched: Mutex<BTreeSet<i32>>,
    codes: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<BTreeMap<&'static str, usize>>,
}

/// Ends the campaign when one of its threads has seen enough, or has failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl<'a> Callers<'a> {
    /// `urls`: ways to the same store, for `--store`.
    pub fn new(sandbox: &'a Sandbox, urls: Vec<String>) -> Self {
        fs::create_dir(sandbox.path("work/beats")).unwrap();
        Self {
            sandbox,
            urls,
            is_over: AtomicBool::new(false),
            victims: Mutex::default(),
            harmed: Mutex::default(),
            unwatched: Mutex::default(),
            codes: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    /// Until this many grants were made, and `disturb_server` has returned false. It
    /// makes one fault of the server after the other.
    pub fn run(&self, enough: usize, mut disturb_server: impl FnMut(&mut Random) -> bool + Send) {
        let wants_more = AtomicBool::new(true);
        scope(|scope| {
            for seed in 0..CALLERS {
                let wants_more = &wants_more;
                scope.spawn(move || {
                    let _end = End(&self.is_over);
                    let mut random = Random(seed);
                    let goes_on = || wants_more.load(Relaxed) || self.number_of_grants() < enough;
                    while goes_on() && !self.is_over.load(Relaxed) {
                        self.turn(&mut random);
                    }
                });
            }
            scope.spawn(|| {
                let _end = End(&self.is_over);
                let mut random = Random(1000);
                while !self.is_over.load(Relaxed) {
                    self.pause(&mut random, 200..1600);
                    wants_more.store(disturb_server(&mut random), Relaxed);
                }
            });
            scope.spawn(|| self.disturb_calls(&mut Random(2000)));
            scope.spawn(|| self.look_and_tidy(&mut Random(3000)));
        });
    }

    /// Says what happened and asserts that it is as promised. `windows`: see [`judge`].
    pub fn check(&self, servers: &str, windows: &[Window]) {
        let grants = self.grants();
        let verdict = judge(grants.clone(), windows);
        let Verdict { pairs, overlaps, excused, fence_errors } = &verdict;
        println!("{} grants, {pairs} pairs that exclude each other", grants.len());
        println!("ends: {:?}", self.codes.lock().unwrap());
        println!("faults: {:?}", self.faults.lock().unwrap());
        println!("excused: {excused:#?}");
        let faults: usize = self.faults.lock().unwrap().values().sum();
        println!(
            "summary: {servers}: {} grants, {} overlaps, {} excused, 0 stuck, {faults} faults",
            grants.len(),
            overlaps.len(),
            excused.len()
        );
        assert!(overlaps.is_empty(), "{overlaps:#?}");
        assert!(fence_errors.is_empty(), "{fence_errors:#?}");
        assert!(*pairs > grants.len(), "{pairs}");
        eventually("nothing is left running", || self.sandbox.processes().is_empty());
        for name in NAMES {
            self.lockrun(&self.urls[0], &["-t", "60", "-l", name, "--", "true"]).run().assert_code(0);
        }
    }

    /// Notes a fault.
    pub fn count(&self, fault: &'static str) {
        *self.faults.lock().unwrap().entry(fault).or_default() += 1;
    }

    /// Waits for some milliseconds of this range, or until the campaign ends.
    pub fn pause(&self, random: &mut Random, milliseconds: Range<u64>) {
        let time = milliseconds.start + random.below((milliseconds.end - milliseconds.start) as usize) as u64;
        let until = Instant::now() + Duration::from_millis(time);
        while Instant::now() < until && !self.is_over.load(Relaxed) {
            sleep(Duration::from_millis(20));
        }
    }

    fn number_of_grants(&self) -> usize {
        fs::read_dir(self.sandbox.path("work/beats")).unwrap().count()
    }

    fn lockrun(&self, url: &str, args: &[&str]) -> crate::support::Invocation {
        let (command, rest) = match args {
            [command, rest @ ..] if !command.starts_with('-') => (Some(*command), rest),
            _ => (None, args),
        };
        let words: Vec<_> = command.into_iter().chain(["--store", url]).chain(rest.iter().copied()).collect();
        self.sandbox.lockrun(&words)
    }

    /// One call with random options.
    fn turn(&self, random: &mut Random) {
        let names: &[&str] =
            [&NAMES[..1], &NAMES[1..2], &NAMES[2..3], &NAMES[3..4], &NAMES[4..], &["all", "only-x"]][random.below(6)];
        let kinds: &[&[&str]] = match names[0] {
            "only-x" | REPLACED => &[&["-x"]],
            "x-and-s" => &[&["-x"], &["-s"], &["-s"]],
            "x-and-slots" => &[&["-x"], &["--slots", "2"], &["--slots", "3"], &["--slots", "3", "--slot", "1"]],
            _ => &[&["-x"], &["-s"], &["--slots", "2"], &["--slots", "2", "--slot", "1"]],
        };
        let mode = if names.len() > 1 { &["-x"][..] } else { kinds[random.below(kinds.len())] };
        let patience: &[&str] = match names[0] {
            REPLACED => [&["-t", "12", "--replace"][..], &["-t", "3"]][random.below(2)],
            _ => [&["-n"][..], &["-t", "0.5"], &["-t", "3"], &["-t", "12"], &["-t", "25"], &["--max-waiters", "3"]]
                [random.below(6)],
        };
        let url = &self.urls[random.below(self.urls.len())];
        let options: Vec<_> = ["-q"].iter().chain(mode).chain(patience).copied().collect();
        let options: Vec<_> = options.into_iter().chain(names.iter().flat_map(|name| ["-l", *name])).collect();
        let time = [5, 20, 60, 200, 1500][random.below(5)];
        if names.len() == 1 && names[0] != REPLACED && random.below(5) == 0 {
            self.hold_by_token(url, &options, mode[0], time);
        } else {
            let at_least: &[&str] = if random.below(10) == 0 { &["--at-least", "0.4"] } else { &[] };
            let program = program();
            let command = ["--kill-after", "0.2", "--", &program, "--exact", BEAT, "--ignored"];
            let running = self.lockrun(url, &[&options, at_least, &command].concat());
            self.end_of(running.env(MODE, mode[0]).env(TIME, time.to_string()).start());
        }
    }

    /// By a token that nobody watches.
    fn hold_by_token(&self, url: &str, options: &[&str], mode: &str, time: u64) {
        let asked = self.lockrun(url, &[&["acquire", "--expires", EXPIRES], options].concat());
        let outcome = self.end_of(asked.start());
        if outcome.code != Some(0) {
            return;
        }
        let token = outcome.stdout.trim();
        let (before, state) = self.insist(url, &["check", "--json", token]);
        if state.code == Some(0) {
            let state: serde_json::Value = serde_json::from_str(&state.stdout).unwrap();
            let number = |name: &str| state[name].as_number().map(ToString::to_string).unwrap_or_default();
            let remaining = Duration::from_secs_f64(state["remaining"].as_f64().expect("a number"));
            // A second for the command to end.
            let until = before + remaining.saturating_sub(Duration::from_secs(1));
            let beat = self.sandbox.command(program(), &["--exact", BEAT, "--ignored"]);
            let beat = beat.env(MODE, mode).env(TIME, time.to_string()).env(UNTIL, until.as_nanos().to_string());
            let beat = beat.env("LOCKRUN_NAME", state["name"].as_str().unwrap());
            beat.env("LOCKRUN_FENCE", number("fence")).env("LOCKRUN_SLOT", number("slot")).run().assert_code(0);
        }
        let (_, outcome) = self.insist(url, &["release", token]);
        *self.codes.lock().unwrap().entry(format!("release {:?}", outcome.code)).or_default() += 1;
    }

    /// Until the server can be reached; what comes first is from before the last try.
    fn insist(&self, url: &str, args: &[&str]) -> (Duration, Outcome) {
        let mut last = None;
        eventually("the server is reached", || {
            let before = suspend_aware_now();
            let outcome = self.lockrun(url, args).run();
            assert!(matches!(outcome.code, Some(0 | 69 | 123)), "{outcome:?}");
            let is_told = outcome.code != Some(69);
            last = Some((before, outcome));
            is_told
        });
        last.unwrap()
    }

    fn end_of(&self, mut running: Running) -> Outcome {
        let (start, process) = (Instant::now(), running.pid());
        self.victims.lock().unwrap().insert(process);
        while !running.has_ended() && start.elapsed() < LIMIT {
            sleep(Duration::from_millis(2));
        }
        self.victims.lock().unwrap().remove(&process);
        if start.elapsed() >= LIMIT {
            let args = ["-e", "-o", "pid,ppid,sid,stat,wchan:24,args", "--cols", "300"];
            let list = std::process::Command::new("ps").args(args).output().unwrap();
            panic!("stuck: {running:?}\n{}", String::from_utf8_lossy(&list.stdout));
        }
        let outcome = running.wait();
        let harmed = self.harmed.lock().unwrap().contains(&process);
        let end = match outcome.code {
            Some(code) => format!("{code}{}", if harmed { " (harmed)" } else { "" }),
            None => format!("signal {:?}", outcome.signal),
        };
        *self.codes.lock().unwrap().entry(end).or_default() += 1;
        let expected = matches!(outcome.code, Some(0 | 69 | 75 | 121 | 123 | 124));
        assert!(expected || harmed, "{outcome:?}");
        outcome
    }

    /// Each call is disturbed at most once.
    fn disturb_calls(&self, random: &mut Random) {
        while !self.is_over.load(Relaxed) {
            self.pause(random, 100..900);
            let wrapper = {
                let mut victims = self.victims.lock().unwrap();
                let place = random.below(victims.len().max(1));
                let Some(wrapper) = victims.iter().nth(place).copied() else { continue };
                victims.remove(&wrapper);
                wrapper
            };
            self.harmed.lock().unwrap().insert(wrapper);
            let children = children(wrapper).into_iter();
            let (keepers, commands): (Vec<_>, Vec<_>) = children.partition(|child| is_lockrun(*child));
            let (keeper, command) = (keepers.first().copied(), commands.first().copied());
            match (random.below(10), keeper, command) {
                (0, ..) => self.kill("wrapper killed", &[wrapper]),
                (1, Some(keeper), _) => self.kill("keeper killed", &[keeper]),
                (2, ..) => self.stop("wrapper stopped", &[wrapper], random),
                (3, Some(keeper), _) => self.stop("keeper stopped", &[keeper], random),
                (4, Some(keeper), _) => {
                    self.unwatched.lock().unwrap().insert(wrapper);
                    self.kill("both killed", &[wrapper, keeper]);
                }
                (5, Some(keeper), _) => {
                    self.unwatched.lock().unwrap().insert(wrapper);
                    self.stop("both stopped", &[wrapper, keeper], random);
                }
                (6, _, Some(command)) => self.kill("command killed", &[command]),
                (7, _, Some(command)) => self.stop("command stopped", &[command], random),
                (8, Some(keeper), Some(command)) => {
                    // As if their host had died.
                    let all = [keeper, wrapper, command];
                    all.iter().for_each(|process| signal(*process, libc::SIGSTOP));
                    self.kill("all killed", &all);
                }
                _ => signal(wrapper, libc::SIGTERM),
            }
        }
    }

    fn kill(&self, fault: &'static str, processes: &[i32]) {
        self.count(fault);
        processes.iter().for_each(|process| signal(*process, libc::SIGKILL));
    }

    fn stop(&self, fault: &'static str, processes: &[i32], random: &mut Random) {
        self.count(fault);
        processes.iter().filter(|process| is_alive(**process)).for_each(|process| signal(*process, libc::SIGSTOP));
        self.pause(random, 100..5000);
        processes.iter().for_each(|process| signal(*process, libc::SIGCONT));
    }

    /// Commands that take no lock.
    fn look_and_tidy(&self, random: &mut Random) {
        let _end = End(&self.is_over);
        while !self.is_over.load(Relaxed) {
            self.pause(random, 200..1500);
            let url = &self.urls[random.below(self.urls.len())];
            let args: &[&str] =
                [&["list", "--json"][..], &["status", "all"], &["prune"], &["break", "--kill-after", "0.2", REPLACED]]
                    [random.below(4)];
            let outcome = self.lockrun(url, args).run();
            self.count(["looked", "tidied or broke"][usize::from(matches!(args[0], "prune" | "break"))]);
            let was_removed = args[0] == "break" && outcome.stderr.contains("it may still run");
            assert!(matches!(outcome.code, Some(0 | 1 | 69)) || was_removed, "{outcome:?}");
        }
    }

    fn grants(&self) -> Vec<Grant> {
        let unwatched = self.unwatched.lock().unwrap();
        let files = fs::read_dir(self.sandbox.path("work/beats")).unwrap().map(|entry| entry.unwrap().path());
        files.flat_map(|file| read_beats(&file, &unwatched)).collect()
    }
}

fn program() -> String {
    current_exe().unwrap().into_os_string().into_string().unwrap()
}

fn is_lockrun(process: i32) -> bool {
    fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|path| path.ends_with("lockrun"))
}

const BEAT: &str = "server_callers::beat";
const MODE: &str = "LOCKRUN_TEST_MODE";
const TIME: &str = "LOCKRUN_TEST_TIME";
const UNTIL: &str = "LOCKRUN_TEST_UNTIL";
/// Two times of 8 bytes come first in a file of beats.
const TIMES: u64 = 16;

/// The command under the locks.
#[test]
#[ignore = "this is what the campaigns run"]
fn beat() {
    let Ok(mode) = var(MODE) else { return };
    let time: u64 = var(TIME).unwrap().parse().unwrap();
    let until = var(UNTIL).map_or(Duration::MAX, |until| Duration::from_nanos(until.parse().unwrap()));
    let first = suspend_aware_now();
    if first >= until {
        return;
    }
    let lines = |name| var(name).unwrap_or_default().lines().collect::<Vec<_>>().join(",");
    let [names, fences, slots] = ["LOCKRUN_NAME", "LOCKRUN_FENCE", "LOCKRUN_SLOT"].map(lines);
    let (wrapper, process) = (parent_id(), std::process::id());
    let about = format!("{wrapper} {mode} {names} {fences} {slots}");
    // Under another name until it is whole.
    let (part, whole) = (format!("part-{process}"), format!("beats/{}-{process}", first.as_nanos()));
    let file = File::create(&part).unwrap();
    file.write_all_at(about.as_bytes(), TIMES).unwrap();
    let write = |last: Duration| {
        let times = [first, last].map(|time| (time.as_nanos() as u64).to_ne_bytes());
        file.write_all_at(&times.concat(), 0).unwrap();
    };
    write(first);
    fs::rename(part, whole).unwrap();
    loop {
        let now = suspend_aware_now();
        if now >= until {
            break;
        }
        write(now);
        if now - first >= Duration::from_millis(time) {
            break;
        }
        sleep(Duration::from_millis(3));
    }
}

fn read_beats(file: &Path, unwatched: &BTreeSet<i32>) -> Vec<Grant> {
    let bytes = fs::read(file).unwrap();
    let time = |from: usize| Duration::from_nanos(u64::from_ne_bytes(bytes[from..from + 8].try_into().unwrap()));
    let about = String::from_utf8(bytes[TIMES as usize..].to_vec()).unwrap();
    let words: Vec<_> = about.split(' ').collect();
    let [wrapper, mode, names, fences, slots] = words[..] else { panic!("{about}") };
    let locks = names.split(',').zip(fences.split(','));
    let locks = locks.map(|(name, fence)| Grant {
        lock: name.into(),
        had: match mode {
            "-s" => Had::Share,
            "-x" => Had::Everything,
            _ => Had::Slot(slots.parse().expect("a slot")),
        },
        fence: fence.parse().expect("a number"),
        first: time(0),
        last: time(8),
        who: format!("{} {about}", file.file_name().unwrap().display()),
        may_outlive: name == REPLACED || wrapper.parse().is_ok_and(|wrapper: i32| unwatched.contains(&wrapper)),
    });
    locks.collect()
}
