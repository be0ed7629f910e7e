//! Three etcd servers on a network of their own, each in a network namespace, so
//! that they can be cut off from each other and from their clients.

use super::server::{freeze, memory, signal};
use super::{eventually, is_alive, may_act_as_root};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Makes the network, starts a server for each number that it reads, and takes
/// everything down when its input ends: then the test has ended, in whatever way.
///
/// The network namespace of this shell is the clients'. In it a bridge connects
/// the servers' namespaces.
const GUARD: &str = r#"
set -e
data=$1
ip link set lo up
ip link add bridge type bridge
ip address add 10.77.0.10/24 dev bridge
ip link set bridge up
places=
for node in 1 2 3; do
    unshare --net sleep infinity &
    place=$!
    until [ "$(readlink /proc/$place/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
    ip link add "node$node" type veth peer name eth0 netns "$place"
    ip link set "node$node" master bridge up
    nsenter -t "$place" -n sh -c "ip link set lo up; ip address add 10.77.0.$node/24 dev eth0; ip link set eth0 up"
    places="$places $place"
done
echo $$ $places
set +e
all=http://10.77.0
servers=
while read -r node; do
    set -- $places
    shift $((node - 1))
    nsenter -t "$1" -n etcd --name "n$node" --data-dir "$data/$node" --log-level error \
        --heartbeat-interval 50 --election-timeout 500 \
        --listen-client-urls "$all.$node:2379" --advertise-client-urls "$all.$node:2379" \
        --listen-peer-urls "$all.$node:2380" --initial-advertise-peer-urls "$all.$node:2380" \
        --initial-cluster "n1=$all.1:2380,n2=$all.2:2380,n3=$all.3:2380" >>"$data/log" 2>&1 &
    servers="$servers $!"
    echo $!
done
kill -9 $servers $places 2>/dev/null
wait
rm -rf "$data"
"#;

/// Three servers. Dropping it ends them and their network.
pub struct Cluster {
    guard: Child,
    input: Mutex<(Option<ChildStdin>, BufReader<ChildStdout>)>,
    clients: i32,
    /// Processes in whose network namespaces the servers are.
    places: Vec<i32>,
    servers: Mutex<Vec<i32>>,
    data: PathBuf,
}

/// One of the servers: 0, 1, 2.
pub type Node = usize;

pub const NODES: [Node; 3] = [0, 1, 2];

impl Cluster {
    /// Started, with a leader. `None` without root.
    #[track_caller]
    pub fn start() -> Option<Self> {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        if !may_act_as_root("a network of one's own") {
            return None;
        }
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let data = memory().join(format!("lockrun-test-{}-cluster-{number}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let mut guard = Command::new("unshare")
            .args(["--net", "sh", "-c", GUARD, "guard"])
            .arg(&data)
            .current_dir(&data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let (input, output) = (guard.stdin.take().unwrap(), guard.stdout.take().unwrap());
        let mut output = BufReader::new(output);
        let mut processes = numbers(&mut output);
        assert_eq!(processes.len(), 4, "the network could not be made");
        let clients = processes.remove(0);
        let input = Mutex::new((Some(input), output));
        let cluster = Self { guard, input, clients, places: processes, servers: Mutex::new(vec![0; 3]), data };
        for node in NODES {
            cluster.restart(node);
        }
        cluster.until_healthy();
        Some(cluster)
    }

    /// `HOST:PORT` of a server.
    pub fn address(&self, node: Node) -> String {
        format!("10.77.0.{}:2379", node + 1)
    }

    /// For `--store`, with all servers and this prefix.
    pub fn url(&self, prefix: &str) -> String {
        format!("etcd://{}/{prefix}", NODES.map(|node| self.address(node)).join(","))
    }

    /// Calls `inside` on a thread of its own in the clients' network. Processes
    /// that it starts are in there, too.
    pub fn inside<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.clients)).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The leader that a majority sees; waits until there is one.
    pub fn leader(&self) -> Node {
        let mut leader = None;
        eventually("a leader", || {
            leader = NODES.into_iter().find(|node| self.is_leader(*node));
            leader.is_some()
        });
        leader.unwrap()
    }

    /// Whether the server is the leader and has a majority.
    pub fn is_leader(&self, node: Node) -> bool {
        let status = self.etcdctl(node, &["endpoint", "status", "-w", "json", "--command-timeout=1s"]);
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&status.stdout) else { return false };
        let status = &status[0]["Status"];
        let leads = !status["leader"].is_null() && status["leader"] == status["header"]["member_id"];
        leads && self.etcdctl(node, &["get", "x", "--command-timeout=1s"]).status.success()
    }

    /// Of the servers, `3.4.23`.
    pub fn version(&self) -> String {
        let status = self.etcdctl(self.leader(), &["endpoint", "status", "-w", "json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        status[0]["Status"]["version"].as_str().unwrap().to_owned()
    }

    /// etcdctl, in the clients' network, to its end.
    pub fn etcdctl(&self, node: Node, args: &[&str]) -> Output {
        self.in_network(self.clients, "etcdctl")
            .args(args)
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", self.address(node))
            .output()
            .expect("nsenter")
    }

    /// All keys below a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let found = self.etcdctl(self.leader(), &["get", "--prefix", "--keys-only", prefix]);
        let keys = String::from_utf8(found.stdout).unwrap();
        keys.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Cuts these servers off from each other.
    pub fn cut(&self, node: Node, others: &[Node]) {
        for other in others {
            let host = format!("10.77.0.{}", other + 1);
            self.iptables(node, &["-A", "INPUT", "-s", &host, "-j", "DROP"]);
            self.iptables(node, &["-A", "OUTPUT", "-d", &host, "-j", "DROP"]);
        }
    }

    /// Cuts a server off from its clients.
    pub fn cut_from_clients(&self, node: Node) {
        self.iptables(node, &["-A", "INPUT", "-s", "10.77.0.10", "-j", "DROP"]);
        self.iptables(node, &["-A", "OUTPUT", "-d", "10.77.0.10", "-j", "DROP"]);
    }

    /// Loses a server's answers to its clients.
    pub fn lose_answers(&self, node: Node) {
        self.iptables(node, &["-A", "OUTPUT", "-d", "10.77.0.10", "-j", "DROP"]);
    }

    /// Reconnects everything.
    pub fn heal(&self) {
        for node in NODES {
            self.iptables(node, &["-F"]);
        }
    }

    /// Stops a server with SIGSTOP.
    pub fn freeze(&self, node: Node) {
        freeze(self.server(node));
    }

    /// Continues it.
    pub fn thaw(&self, node: Node) {
        signal(self.server(node), libc::SIGCONT);
    }

    /// Ends a server without warning.
    pub fn kill(&self, node: Node) {
        let server = self.server(node);
        signal(server, libc::SIGKILL);
        eventually("the server has ended", || !is_alive(server));
    }

    /// Starts a server, again with the data that it had.
    pub fn restart(&self, node: Node) {
        let mut input = self.input.lock().unwrap();
        writeln!(input.0.as_mut().unwrap(), "{}", node + 1).unwrap();
        let pid = numbers(&mut input.1)[0];
        self.servers.lock().unwrap()[node] = pid;
    }

    /// Waits until all servers answer with a majority.
    pub fn until_healthy(&self) {
        for node in NODES {
            eventually("the server answers", || {
                let log = || fs::read_to_string(self.data.join("log")).unwrap_or_default();
                assert!(is_alive(self.server(node)), "etcd ended: {}", log());
                self.etcdctl(node, &["get", "x", "--command-timeout=1s"]).status.success()
            });
        }
    }

    fn server(&self, node: Node) -> i32 {
        self.servers.lock().unwrap()[node]
    }

    fn iptables(&self, node: Node, rule: &[&str]) {
        let done = self.in_network(self.places[node], "iptables").arg("-w").args(rule).output().expect("nsenter");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn in_network(&self, process: i32, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &process.to_string(), program]);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in self.servers.lock().unwrap().iter() {
            signal(*server, libc::SIGKILL);
        }
        self.input.lock().unwrap().0 = None;
        let _ = self.guard.wait();
    }
}

/// The numbers in a line.
fn numbers(output: &mut impl BufRead) -> Vec<i32> {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.split_whitespace().map(|word| word.parse().expect("a process id")).collect()
}
