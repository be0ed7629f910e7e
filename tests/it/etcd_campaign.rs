//! Locks of every kind on three servers of etcd: servers are frozen, killed and cut
//! off, lockruns killed and stopped. [`judge`] compares what each command wrote while
//! it was alive. `LOCKRUN_TEST_FULL=1` makes 2,000 grants instead of some hundred.

use crate::campaign::size;
use crate::etcd_oracle::{Grant, Had, Window, judge};
use crate::support::{Cluster, LIMIT, NODES, Random, Running, Sandbox, children, eventually, is_alive};
use lockrun::sys::suspend_aware_now;
use std::collections::{BTreeMap, BTreeSet};
use std::env::{current_exe, var};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{scope, sleep};
use std::time::Duration;
use std::time::Instant;

const CONTENDERS: u32 = 12;
const TTL: Duration = Duration::from_secs(3);

/// What the threads of a campaign share.
struct Campaign<'a> {
    sandbox: &'a Sandbox,
    cluster: &'a Cluster,
    is_over: AtomicBool,
    /// Wrappers that run and that nothing has been done to.
    victims: Mutex<BTreeSet<i32>>,
    /// Wrappers that were interfered with.
    harmed: Mutex<BTreeSet<i32>>,
    /// Those of which both processes were.
    unwatched: Mutex<BTreeSet<i32>>,
    /// See [`may_revoke_live_leases`].
    may_revoke_live_leases: bool,
    windows: Mutex<Vec<Window>>,
    codes: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<BTreeMap<&'static str, usize>>,
}

#[test]
fn locks_exclude_and_nobody_is_stuck() {
    let Some(cluster) = Cluster::start() else { return };
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("work/beats")).unwrap();
    let campaign = Campaign {
        sandbox: &sandbox,
        cluster: &cluster,
        is_over: AtomicBool::new(false),
        victims: Mutex::default(),
        harmed: Mutex::default(),
        unwatched: Mutex::default(),
        may_revoke_live_leases: may_revoke_live_leases(&cluster.version()),
        windows: Mutex::default(),
        codes: Mutex::default(),
        faults: Mutex::default(),
    };
    cluster.inside(|| campaign.run(size(150, 2000)));
    cluster.heal();
    let grants = campaign.grants();
    let windows = campaign.windows.lock().unwrap();
    let verdict = judge(grants.clone(), &windows);
    println!("{} grants, {} pairs that exclude each other", grants.len(), verdict.pairs);
    println!("ends: {:?}", campaign.codes.lock().unwrap());
    println!("faults: {:?}", campaign.faults.lock().unwrap());
    println!("excused: {:#?}", verdict.excused);
    let faults: usize = campaign.faults.lock().unwrap().values().sum();
    println!(
        "summary: three servers of etcd: {} grants, {} overlaps, {} excused, 0 stuck, {faults} faults",
        grants.len(),
        verdict.overlaps.len(),
        verdict.excused.len()
    );
    assert!(verdict.overlaps.is_empty(), "{:#?}", verdict.overlaps);
    assert!(verdict.fence_errors.is_empty(), "{:#?}", verdict.fence_errors);
    assert!(verdict.pairs > grants.len(), "{}", verdict.pairs);
    eventually("no key is left", || cluster.keys("jobs/").is_empty());
}

/// Ends the campaign when a contender has seen enough, or has failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Campaign<'_> {
    fn run(&self, enough: usize) {
        scope(|scope| {
            for seed in 0..CONTENDERS {
                scope.spawn(move || {
                    let _end = End(&self.is_over);
                    let mut random = Random(seed);
                    while self.number_of_grants() < enough && !self.is_over.load(Relaxed) {
                        self.turn(&mut random);
                    }
                });
            }
            scope.spawn(|| self.disturb_servers(&mut Random(1000)));
            scope.spawn(|| self.disturb_lockruns(&mut Random(2000)));
        });
    }

    fn number_of_grants(&self) -> usize {
        fs::read_dir(self.sandbox.path("work/beats")).unwrap().count()
    }

    /// One call with random options.
    fn turn(&self, random: &mut Random) {
        let names: &[&str] =
            [&["only-x"][..], &["x-and-s"], &["x-and-slots"], &["all"], &["all", "only-x"]][random.below(5)];
        let kinds: &[&[&str]] = match names[0] {
            "only-x" => &[&["-x"]],
            "x-and-s" => &[&["-x"], &["-s"], &["-s"]],
            "x-and-slots" => &[&["-x"], &["--slots", "2"], &["--slots", "3"], &["--slots", "3", "--slot", "1"]],
            _ => &[&["-x"], &["-s"], &["--slots", "2"], &["--slots", "2", "--slot", "1"]],
        };
        let mode = if names.len() > 1 { &["-x"][..] } else { kinds[random.below(kinds.len())] };
        let patience: &[&str] =
            [&["-n"][..], &["-t", "0.5"], &["-t", "3"], &["-t", "12"], &["-t", "25"]][random.below(5)];
        let names: Vec<_> = names.iter().flat_map(|name| ["-l", name]).collect();
        let program = current_exe().unwrap().into_os_string().into_string().unwrap();
        let command = ["--kill-after", "0.2", "--", &program, "--exact", "etcd_campaign::beat", "--ignored"];
        let url = format!("{}?ttl=3", self.cluster.url("jobs"));
        let args = [&["-q", "--store", &url], mode, patience, &names, &command].concat();
        let running = self
            .sandbox
            .lockrun(&args)
            .env(MODE, mode[0])
            .env(TIME, [5, 20, 60, 200, 1500][random.below(5)].to_string())
            .start();
        let wrapper = running.pid();
        self.victims.lock().unwrap().insert(wrapper);
        self.end_of(running, wrapper);
    }

    fn end_of(&self, mut running: Running, wrapper: i32) {
        let start = Instant::now();
        while !running.has_ended() && start.elapsed() < LIMIT {
            sleep(Duration::from_millis(2));
        }
        self.victims.lock().unwrap().remove(&wrapper);
        if start.elapsed() >= LIMIT {
            let args = ["-e", "-o", "pid,ppid,sid,stat,wchan:24,args", "--cols", "300"];
            let list = std::process::Command::new("ps").args(args).output().unwrap();
            panic!("stuck: {running:?}\n{}", String::from_utf8_lossy(&list.stdout));
        }
        let outcome = running.wait();
        let harmed = self.harmed.lock().unwrap().contains(&wrapper);
        let end = match outcome.code {
            Some(code) => format!("{code}{}", if harmed { " (harmed)" } else { "" }),
            None => format!("signal {:?}", outcome.signal),
        };
        *self.codes.lock().unwrap().entry(end).or_default() += 1;
        let expected = matches!(outcome.code, Some(0 | 69 | 75 | 123 | 124));
        assert!(expected || harmed, "{outcome:?}");
    }

    fn count(&self, fault: &'static str) {
        *self.faults.lock().unwrap().entry(fault).or_default() += 1;
    }

    fn pause(&self, random: &mut Random, milliseconds: std::ops::Range<u64>) {
        let time = milliseconds.start + random.below((milliseconds.end - milliseconds.start) as usize) as u64;
        let until = Instant::now() + Duration::from_millis(time);
        while Instant::now() < until && !self.is_over.load(Relaxed) {
            sleep(Duration::from_millis(20));
        }
    }

    /// One fault of the servers after the other.
    fn disturb_servers(&self, random: &mut Random) {
        let cluster = self.cluster;
        while !self.is_over.load(Relaxed) {
            self.pause(random, 500..2500);
            let node = random.below(3);
            let others: Vec<_> = NODES.into_iter().filter(|other| *other != node).collect();
            match random.below(9) {
                0 => {
                    let leads = cluster.is_leader(node);
                    self.count(if leads { "leader frozen" } else { "follower frozen" });
                    let from = suspend_aware_now();
                    cluster.freeze(node);
                    self.pause(random, 200..6000);
                    cluster.thaw(node);
                    let to = suspend_aware_now();
                    if leads && to - from > TTL && self.may_revoke_live_leases {
                        self.windows.lock().unwrap().push((from, to + TTL));
                    }
                }
                1 => {
                    self.count("server killed");
                    cluster.kill(node);
                    self.pause(random, 0..2000);
                    cluster.restart(node);
                }
                2 => {
                    self.count("server cut off from the others");
                    cluster.cut(node, &others);
                    self.pause(random, 500..5000);
                }
                3 => {
                    self.count("leader cut off from the others");
                    let leader = cluster.leader();
                    let others: Vec<_> = NODES.into_iter().filter(|other| *other != leader).collect();
                    cluster.cut(leader, &others);
                    self.pause(random, 500..5000);
                }
                4 => {
                    self.count("server cut off from the clients");
                    cluster.cut_from_clients(node);
                    self.pause(random, 500..4000);
                }
                5 => {
                    self.count("answers lost");
                    cluster.lose_answers(node);
                    self.pause(random, 200..3000);
                }
                6 => {
                    self.count("clients cut off");
                    NODES.into_iter().for_each(|node| cluster.cut_from_clients(node));
                    self.pause(random, 200..4000);
                }
                7 => {
                    self.count("no majority");
                    cluster.cut(0, &[1, 2]);
                    cluster.cut(1, &[2]);
                    self.pause(random, 200..3000);
                }
                _ => {
                    self.count("compaction");
                    let found = cluster.etcdctl(node, &["get", "x", "-w", "json", "--command-timeout=1s"]).stdout;
                    let found: serde_json::Value = serde_json::from_slice(&found).unwrap_or_default();
                    if let Some(revision) = found["header"]["revision"].as_i64() {
                        cluster.etcdctl(node, &["compact", &revision.to_string(), "--command-timeout=1s"]);
                    }
                }
            }
            cluster.heal();
        }
    }

    /// Each lockrun is disturbed at most once.
    fn disturb_lockruns(&self, random: &mut Random) {
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
            let keeper = children(wrapper).into_iter().find(|child| is_lockrun(*child));
            match (random.below(7), keeper) {
                (0, _) => self.kill("wrapper killed", &[wrapper]),
                (1, Some(keeper)) => self.kill("keeper killed", &[keeper]),
                (2, _) => self.stop("wrapper stopped", &[wrapper], random),
                (3, Some(keeper)) => self.stop("keeper stopped", &[keeper], random),
                (4, Some(keeper)) => {
                    self.unwatched.lock().unwrap().insert(wrapper);
                    self.kill("both killed", &[wrapper, keeper]);
                }
                (5, Some(keeper)) => {
                    self.unwatched.lock().unwrap().insert(wrapper);
                    self.stop("both stopped", &[wrapper, keeper], random);
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

    fn grants(&self) -> Vec<Grant> {
        let unwatched = self.unwatched.lock().unwrap();
        let files = fs::read_dir(self.sandbox.path("work/beats")).unwrap().map(|entry| entry.unwrap().path());
        files.flat_map(|file| read_beats(&file, &unwatched)).collect()
    }
}

/// A leader of etcd before 3.4.31 and 3.5.13 that wakes after more than a lease's time
/// revokes leases that its successor has renewed (etcd issue 15247).
fn may_revoke_live_leases(version: &str) -> bool {
    let numbers: Vec<u32> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [3, 4, patch] => patch < 31,
        [3, 5, patch] => patch < 13,
        [major, minor, _] => (major, minor) < (3, 4),
        _ => panic!("no version: {version}"),
    }
}

#[test]
fn versions_that_revoke_live_leases() {
    for (version, revokes) in [("3.4.23", true), ("3.4.31", false), ("3.5.1", true), ("3.5.13", false)] {
        assert_eq!(may_revoke_live_leases(version), revokes, "{version}");
    }
    assert!(!may_revoke_live_leases("3.6.0"));
}

fn signal(process: i32, signal: i32) {
    // SAFETY: kill has no memory effects. At worst the number is that of another
    // process of this campaign.
    unsafe { libc::kill(process, signal) };
}

fn is_lockrun(process: i32) -> bool {
    fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|path| path.ends_with("lockrun"))
}

const MODE: &str = "LOCKRUN_TEST_MODE";
const TIME: &str = "LOCKRUN_TEST_TIME";
/// Two times of 8 bytes come first in a file of beats.
const TIMES: u64 = 16;

/// The command under the locks.
#[test]
#[ignore = "this is what the campaign runs"]
fn beat() {
    let Ok(mode) = var(MODE) else { return };
    let time: u64 = var(TIME).unwrap().parse().unwrap();
    let first = suspend_aware_now();
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
        is_unwatched: wrapper.parse().is_ok_and(|wrapper: i32| unwatched.contains(&wrapper)),
    });
    locks.collect()
}
