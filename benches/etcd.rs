//! Locks on an etcd server of the bench's own, with its data in memory where there is
//! a /dev/shm, beside `etcdctl lock`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::Bench;
use crate::machine::first_line;
use crate::peers::{Lock, Way, in_path};
use crate::processes::{self, Memory};
use crate::report::{Goals, Section, Table, share_cell, spread};
use crate::samples::Samples;
use crate::stamps::{self, Stamps};

const CONTENDERS: usize = 40;
/// By then a holder has begun its watch.
const SETTLING: Duration = Duration::from_secs(1);
const RENEWING: Duration = Duration::from_secs(6);

/// One tool and what was measured of it.
struct Contender {
    name: &'static str,
    /// Everything before COMMAND.
    line: Vec<OsString>,
    run: Samples,
    run_cost: Cost,
    hand_over: Samples,
    hand_over_cost: Cost,
    turns: usize,
    waiter: Samples,
}

/// What the server did, all in all.
#[derive(Clone, Copy, Default)]
struct Cost {
    requests: f64,
    fsyncs: f64,
}

impl Cost {
    fn each(self, count: usize) -> [String; 2] {
        [self.requests, self.fsyncs].map(|figure| format!("{:.1}", figure / count as f64))
    }

    fn add(&mut self, before: Self, after: Self) {
        self.requests += after.requests - before.requests;
        self.fsyncs += after.fsyncs - before.fsyncs;
    }
}

pub fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section {
        title: "Locks on etcd",
        method: format!(
            "One server on this machine, its data in memory where there is a /dev/shm. Whole runs as \
             above, by turns; hand-overs between {CONTENDERS} contenders. Requests and fsyncs are the \
             server's own counts, for one run or hand-over."
        ),
        tables: Vec::new(),
        remarks: Vec::new(),
        goals: Goals::default(),
    };
    let (Some(etcd), Some(etcdctl)) = (in_path("etcd"), in_path("etcdctl")) else {
        section.remarks.push("No etcd and etcdctl here: apt install etcd-server etcd-client".into());
        return Ok(section);
    };
    if cfg!(not(feature = "etcd")) {
        section.remarks.push("Not measured: built without the feature etcd".into());
        return Ok(section);
    }
    let Some(lockrun) = bench.peers.get(Way::Lockrun) else { return Ok(section) };
    let server = Server::start(&etcd)?;
    let url = format!("etcd://{}/bench", server.address);
    let mut contenders = [
        ("lockrun", vec![lockrun.program().into(), "--store".into(), url.into(), "-l".into(), "a".into(), "--".into()]),
        ("etcdctl lock", vec![etcdctl.clone().into(), "lock".into(), "bench/a".into()]),
    ]
    .map(|(name, line)| Contender {
        name,
        line,
        run: Samples::default(),
        run_cost: Cost::default(),
        hand_over: Samples::default(),
        hand_over_cost: Cost::default(),
        turns: 0,
        waiter: Samples::default(),
    });
    // First: leases that etcdctl leaves behind cost an fsync each when they expire.
    let mut line = contenders[0].line.clone();
    line[2].push("?ttl=2");
    let renewals = renewals(bench, &server, &line)?;
    let runs = bench.effort.runs / 5;
    for _ in 0..runs {
        for contender in &mut contenders {
            whole_run(bench, &server, contender)?;
        }
    }
    // etcdctl gives its COMMAND no input, by which a holder is told to end.
    let holder = contenders[0].line.clone();
    for _ in 0..bench.effort.queues {
        for contender in &mut contenders {
            hand_through(bench, &server, &etcdctl, &holder, contender)?;
        }
    }
    let [ours, theirs] = &contenders;
    let mut table = Table::new(&["a whole run", "median ms", "middle half", "÷ etcdctl", "requests", "fsyncs"]);
    for each in &contenders {
        let ([median, half], cost) = (spread(&each.run, 2), each.run_cost.each(runs));
        table.row(
            [each.name.into(), median, half, share_cell(Some(&each.run), Some(&theirs.run))].into_iter().chain(cost),
        );
    }
    section.tables.push(table);
    let mut table = Table::new(&["a hand-over", "median ms", "middle half", "÷ etcdctl", "requests", "fsyncs"]);
    for each in &contenders {
        let ([median, half], cost) = (spread(&each.hand_over, 2), each.hand_over_cost.each(each.turns));
        let share = share_cell(Some(&each.hand_over), Some(&theirs.hand_over));
        table.row([each.name.into(), median, half, share].into_iter().chain(cost));
    }
    section.tables.push(table);
    let mut table = Table::new(&["a waiter", "anonymous Pss, kB", "÷ etcdctl"]);
    for each in &contenders {
        let share = share_cell(Some(&each.waiter), Some(&theirs.waiter));
        table.row([each.name.into(), format!("{:.0}", each.waiter.median()), share]);
    }
    section.tables.push(table);
    section.tables.push(renewals);

    let goals = &mut section.goals;
    let mut ratio = |what: &str, one, other, at_most| {
        goals.ratio(format!("{what} on etcd, lockrun ÷ etcdctl lock"), Some(one), Some(other), at_most);
    };
    ratio("a whole run", &ours.run, &theirs.run, 0.5);
    ratio("a hand-over", &ours.hand_over, &theirs.hand_over, 0.75);
    ratio("a waiter's memory", &ours.waiter, &theirs.waiter, 0.25);
    goals.figure("fsyncs of a whole run on etcd", Some(ours.run_cost.fsyncs / runs as f64), 3.0);
    // The holder's own release is one more.
    let hand_over = ours.hand_over_cost.fsyncs / ours.turns as f64;
    goals.figure("fsyncs of a hand-over on etcd", Some(hand_over), 1.0 + 1.0 / CONTENDERS as f64);
    let version = |program: &Path, word: &str| first_line(&program.to_string_lossy(), &[word]);
    section.remarks.push(format!("{}; {}", version(&etcd, "--version"), version(&etcdctl, "version")));
    Ok(section)
}

fn whole_run(bench: &Bench, server: &Server, contender: &mut Contender) -> anyhow::Result<()> {
    let before = server.cost()?;
    let begun = Instant::now();
    let status = command(bench, server, &contender.line, vec![bench.yardstick.truth.clone().into()])?.status()?;
    contender.run.push_time(begun.elapsed());
    ensure!(status.success(), "{} ended with {status}", contender.name);
    contender.run_cost.add(before, server.cost()?);
    Ok(())
}

fn hand_through(
    bench: &Bench,
    server: &Server,
    etcdctl: &Path,
    holder: &[OsString],
    contender: &mut Contender,
) -> anyhow::Result<()> {
    let directory = bench.scratch.locks_directory()?;
    let stamps = Stamps::new(&bench.yardstick, &directory)?;
    let mut queue = Processes(vec![hold(bench, server, holder)?]);
    for id in 0..CONTENDERS {
        queue.0.push(command(bench, server, &contender.line, stamps.command(id))?.spawn()?);
    }
    processes::wait_until("all contenders are in the queue", || {
        count_keys(etcdctl, server) == Some(CONTENDERS as u64 + 1)
            && queue.0.iter().all(|child| processes::sleeps(child.id()))
    })?;
    for waiter in queue.0.iter().skip(1).step_by(8) {
        contender.waiter.push(Memory::of_tree(waiter.id(), &bench.yardstick.hold)?.anonymous as f64);
    }
    let before = server.cost()?;
    drop(queue.0[0].stdin.take());
    for child in queue.0.iter_mut().rev() {
        let status = processes::wait_for(child)?;
        ensure!(status.success(), "a contender of {} ended with {status}", contender.name);
    }
    contender.hand_over_cost.add(before, server.cost()?);
    contender.turns += CONTENDERS;
    for gap in stamps::hand_overs(&stamps.read()?, 1)? {
        contender.hand_over.push(gap as f64 / 1e6);
    }
    Ok(())
}

/// Of a lock that is held for a while.
fn renewals(bench: &Bench, server: &Server, line: &[OsString]) -> anyhow::Result<Table> {
    let holder = Processes(vec![hold(bench, server, line)?]);
    thread::sleep(SETTLING);
    let (cost, renewed) = (server.cost()?, server.requests("LeaseKeepAlive")?);
    thread::sleep(RENEWING);
    let mut made = Cost::default();
    made.add(cost, server.cost()?);
    let count = server.requests("LeaseKeepAlive")? - renewed;
    drop(holder);
    let [requests, fsyncs] = made.each(count as usize);
    let mut table = Table::new(&["a renewal", "requests", "fsyncs", "measured"]);
    table.row(["lockrun".into(), requests, fsyncs, count.to_string()]);
    Ok(table)
}

/// A holder, once it has the lock. It ends with its input.
fn hold(bench: &Bench, server: &Server, line: &[OsString]) -> anyhow::Result<Child> {
    let mut holder = command(bench, server, line, vec![bench.yardstick.hold.clone().into()])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut says = holder.stdout.take().context("no pipe to the holder")?;
    says.read_exact(&mut [0]).context("the holder ended before its COMMAND ran")?;
    Ok(holder)
}

fn command(bench: &Bench, server: &Server, line: &[OsString], command: Vec<OsString>) -> anyhow::Result<Command> {
    let mut process = Command::new(&line[0]);
    process.args(&line[1..]).args(command);
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Lock { directory: bench.scratch.path() }.environment(&mut process);
    process.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &server.address);
    Ok(process)
}

fn count_keys(etcdctl: &Path, server: &Server) -> Option<u64> {
    let mut process = Command::new(etcdctl);
    process.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &server.address);
    let found = process.args(["get", "--prefix", "--keys-only", "-w", "json", "bench/"]).output().ok()?;
    serde_json::from_slice::<serde_json::Value>(&found.stdout).ok()?["count"].as_u64()
}

/// Killed when they are dropped, if they have not ended.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An etcd that ends with its input, so with the bench, in whatever way that ends.
struct Server {
    address: String,
    guard: Child,
    data: PathBuf,
}

impl Server {
    fn start(etcd: &Path) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { memory.into() } else { env::temp_dir() };
        let data = memory.join(format!("lockrun-bench-etcd-{}", std::process::id()));
        let free_port = || Ok::<_, anyhow::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let (client, peer) = (free_port()?, format!("http://127.0.0.1:{}", free_port()?));
        let (address, url) = (format!("127.0.0.1:{client}"), format!("http://127.0.0.1:{client}"));
        let script = "\"$@\" & read -r _; kill -9 $!; wait";
        let guard = Command::new("sh")
            .args(["-c", script, "guard"])
            .arg(etcd)
            .args(["--log-level=error", "--data-dir", &data.to_string_lossy()])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting etcd")?;
        let server = Self { address, guard, data };
        processes::wait_until("etcd answers", || server.cost().is_ok_and(|cost| cost.fsyncs > 0.0))?;
        Ok(server)
    }

    fn cost(&self) -> anyhow::Result<Cost> {
        let metrics = self.metrics()?;
        let sum = |name: &str| sum(metrics.lines().filter(|line| line.starts_with(name)));
        Ok(Cost {
            requests: sum("grpc_server_started_total{"),
            fsyncs: sum("etcd_disk_wal_fsync_duration_seconds_count"),
        })
    }

    /// Calls of one method of its API.
    fn requests(&self, method: &str) -> anyhow::Result<f64> {
        let metrics = self.metrics()?;
        let started = metrics.lines().filter(|line| line.starts_with("grpc_server_started_total{"));
        Ok(sum(started.filter(|line| line.contains(&format!("grpc_method=\"{method}\"")))))
    }

    fn metrics(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// Of the values of some metrics.
fn sum<'a>(lines: impl Iterator<Item = &'a str>) -> f64 {
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
