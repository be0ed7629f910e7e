//! Everything at once, while wrappers, waiters, COMMANDs and keepers are killed and stopped
//! at random: never two inside, nobody stuck, nothing left running, and no stray signal. It
//! stops after some thousand grants, with `LOCKRUN_TEST_FULL=1` after 100,000.

use crate::campaign::size;
use crate::support::{LIMIT, Random, Running, Sandbox, children};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The command under the locks of LOCKRUN_NAME, or of its words. While it is inside it
/// records itself, the lock and the fence, and every other that it meets there. It looks by
/// record locks, because those vanish before flock(2) locks do when a process ends.
const COMMAND: &str = r#"
my $id = "$$.$^T";
my $pause = shift;
my @names = defined $ENV{LOCKRUN_NAME} ? split(/\n/, $ENV{LOCKRUN_NAME}) : @ARGV;
my @fences = split(/\n/, $ENV{LOCKRUN_FENCE} // "");
# A process that meets us reads here who we are.
open(my $me, ">", "who-$$");
syswrite($me, $id);
note($ENV{ID_FILE}, $id) if $ENV{ID_FILE};
# struct flock on 64 bits: F_SETLK is 6, F_GETLK 5, F_WRLCK 1.
my ($form, @all) = ("ssx4qqlx4", 1, 0, 0, 0, 0);
sub note { open(my $file, ">>", shift); syswrite($file, shift . "\n"); }
for my $name (@names) {
    open(my $file, "+>>", "witness-$name") or die;
    push @open, $file;
    while (!fcntl($file, 6, my $lock = pack($form, @all))) {
        fcntl($file, 5, $lock);
        my ($type, $pid) = (unpack($form, $lock))[0, 4];
        # 2, F_UNLCK: gone, before we could see who it was.
        next if $type == 2;
        open(my $other, "<", "who-$pid");
        note("conflicts", "$name $id " . (<$other> // ""));
        last;
    }
    note("grants", "$name " . (shift(@fences) // 0) . " $id");
}
select(undef, undef, undef, rand($pause));
"#;

/// Random calls until there is a file `stop`, and how each of them ended.
const LOOP: &str = r#"
one_of() { shift $((RANDOM % $#)); echo "$1"; }
# The owner is a process of its own: nothing outlives it.
token() (
    export ID_FILE=id-$BASHPID
    T=$(lockrun acquire -q $wait -l $name --owner $BASHPID) || exit
    perl command.pl $pause $name
    lockrun release "$T" 2>/dev/null || cat $ID_FILE >>lost
    rm -f $ID_FILE
)
while [ ! -e stop ]; do
    name=$(one_of a a b)
    pause=$(one_of 0.001 0.001 0.004 0.03)
    wait=$(one_of "" "" "-t 20" "-t 0.01" -n "--max-waiters 2" --replace --replace)
    run="lockrun -q $wait -l $name"
    command="perl command.pl $pause $name"
    case $((RANDOM % 8)) in
        0|1) $run -- $command ;;
        2|3) $run --exec -- $command ;;
        4) $run --expires 0.02 --kill-after 0.02 -- $command ;;
        5) $run --hold tree -c "trap 'exit 7' TERM; $command & wait" ;;
        6) token ;;
        7) lockrun -q -l b -l a -- $command ;;
    esac 2>>said
    echo "run $?" >>codes
done
"#;

/// The same for `break`, and for `prune`.
const BREAK: &str = r#"
while [ ! -e stop ]; do
    sleep 0.0$((RANDOM % 9))
    name=a; [ $((RANDOM % 3)) = 0 ] && name=b
    lockrun break --kill-after 0.05 $name 2>>said
    echo "break $?" >>codes
done
"#;
const PRUNE: &str = r#"
while [ ! -e stop ]; do
    lockrun prune >/dev/null 2>>said
    echo "prune $?" >>codes
    sleep 0.01
done
"#;

/// Writes every signal that it gets into `signalled`, and ends when it has no
/// children any more, or with its input where it never had any. All signals come
/// through for what it starts: each of its words is a bash script. Orphans become
/// its children, as they become those of the first process of a container.
const RECORDER: &str = r#"
import ctypes, os, select, signal, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
all = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, all)
def unblock(): signal.pthread_sigmask(signal.SIG_UNBLOCK, all)
for script in sys.argv[1:]: subprocess.Popen(['bash', '-c', script], preexec_fn=unblock)
def goes_on():
    if len(sys.argv) == 1: return not select.select([0], [], [], 0)[0]
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
        return True
    except ChildProcessError:
        return False
print('ready', flush=True)
while goes_on():
    info = signal.sigtimedwait(all, 0.05)
    if info: open('signalled', 'a').write(f'{sys.argv[1:]} {info}\n')
"#;

#[test]
fn nothing_goes_wrong_whatever_happens() {
    let sandbox = Sandbox::new();
    let enough = size(1_500, 100_000);
    sandbox.write("work/command.pl", COMMAND);
    // Nobody ends these, who are in the same session: one that has nothing to do
    // with locks, and one under a lock of its own.
    let bystanders = [
        sandbox.command("python3", &["-c", RECORDER]),
        sandbox.lockrun(&["-l", "bystander", "--", "python3", "-c", RECORDER]),
    ];
    let bystanders = bystanders.map(|bystander| bystander.input("").start().until_says("ready"));
    let storm = [[LOOP; 6].as_slice(), &[BREAK, PRUNE]].concat();
    let mut storm = sandbox.command("python3", &[&["-c", RECORDER], &storm[..]].concat()).start().until_says("ready");

    let start = Instant::now();
    let (mut grants, mut last) = (0, Instant::now());
    let mut log = File::options().append(true).create(true).read(true).open(sandbox.path("work/grants")).unwrap();
    let mut violence = Violence { storm: storm.pid(), random: Random(1), stopped: Vec::new(), sent: BTreeMap::new() };
    while grants < enough {
        violence.strike();
        let mut new = Vec::new();
        log.read_to_end(&mut new).unwrap();
        if !new.is_empty() {
            grants += new.iter().filter(|byte| **byte == b'\n').count();
            last = Instant::now();
        }
        assert!(last.elapsed() < LIMIT, "stuck after {grants} grants:\n{}", processes());
        assert!(!storm.has_ended(), "{storm:?}");
    }
    sandbox.write("work/stop", "");
    violence.let_go_on();
    let stopping = Instant::now();
    while !storm.has_ended() {
        assert!(stopping.elapsed() < LIMIT, "left running:\n{}", processes());
        sleep(Duration::from_millis(1));
    }
    let Violence { sent, .. } = violence;

    let signalled = fs::read_to_string(sandbox.path("work/signalled"));
    assert!(signalled.is_err(), "{signalled:?}");
    for bystander in bystanders {
        bystander.wait().assert_code(0).assert_silent();
    }
    assert_codes(&sandbox);
    assert_no_overlap(&sandbox);
    assert_fences_rise(&sandbox);
    for name in ["a", "b"] {
        sandbox.lockrun(&["-t", "50", "-l", name, "--", "true"]).run().assert_code(0);
    }
    let of = |signal: Signal| sent.get(&signal.as_raw()).copied().unwrap_or_default();
    println!(
        "summary: storm on files: {grants} grants, 0 overlaps, 0 stuck, 0 left running, {} kills, {} terminations, \
         {} stops, {} seconds",
        of(Signal::KILL),
        of(Signal::TERM),
        of(Signal::STOP),
        start.elapsed().as_secs()
    );
}

/// Kills and stops processes of the storm, but for the shells that make the calls.
struct Violence {
    storm: i32,
    random: Random,
    /// Until when.
    stopped: Vec<(OwnedFd, Instant)>,
    /// How many of each signal.
    sent: BTreeMap<i32, usize>,
}

impl Violence {
    fn strike(&mut self) {
        sleep(Duration::from_micros(self.random.below(20_000) as u64));
        let now = Instant::now();
        for (process, _) in self.stopped.extract_if(.., |(_, until)| *until <= now) {
            let _ = pidfd_send_signal(&process, Signal::CONT);
        }
        let victims: Vec<i32> = descendants(self.storm).into_iter().filter(|pid| is_victim(*pid)).collect();
        if victims.is_empty() {
            return;
        }
        let victim = victims[self.random.below(victims.len())];
        let process = Pid::from_raw(victim).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Its number may have gone to a stranger before we had opened it.
        let Some(process) = process.filter(|_| is_victim(victim) && descendants(self.storm).contains(&victim)) else {
            return;
        };
        let signal = [Signal::KILL, Signal::KILL, Signal::TERM, Signal::STOP, Signal::STOP][self.random.below(5)];
        if pidfd_send_signal(&process, signal).is_ok() {
            *self.sent.entry(signal.as_raw()).or_default() += 1;
        }
        if signal == Signal::STOP {
            self.stopped.push((process, now + Duration::from_millis(self.random.below(30) as u64)));
        }
    }

    fn let_go_on(&mut self) {
        for (process, _) in self.stopped.drain(..) {
            let _ = pidfd_send_signal(&process, Signal::CONT);
        }
    }
}

fn is_victim(pid: i32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    ["lockrun", "perl", "dash"].iter().any(|name| program.file_name().is_some_and(|file| file == *name))
}

fn descendants(root: i32) -> Vec<i32> {
    let mut found = children(root);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

fn processes() -> String {
    let args = ["-e", "-o", "pid,ppid,sid,stat,wchan:24,args", "--cols", "200"];
    let list = std::process::Command::new("ps").args(args).output().unwrap();
    String::from_utf8_lossy(&list.stdout).into_owned()
}

fn lines(sandbox: &Sandbox, file: &str) -> Vec<String> {
    let text = fs::read_to_string(sandbox.path("work").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// What lockrun says; the last two with exit code 125.
const EXPECTED: [&str; 10] = [
    " replaced by pid ",
    " replaced while waiting, by ",
    " broken by pid ",
    " broken while waiting, by ",
    " expired after ",
    " lost before the token was printed: ",
    " lost as soon as the token was printed: ",
    " not held, nothing to break",
    " the process that waited for the lock was ended by signal ",
    " the process that holds the lock was ended before the token could be printed",
];

/// Only TERM and KILL end anybody by a signal, and nothing fails in a way that
/// was not asked for.
fn assert_codes(sandbox: &Sandbox) {
    let mut codes = BTreeMap::<String, usize>::new();
    for line in lines(sandbox, "codes") {
        *codes.entry(line).or_default() += 1;
    }
    let mut said = BTreeMap::<String, usize>::new();
    for line in lines(sandbox, "said").into_iter().filter(|line| line.starts_with("lockrun: ")) {
        let kind = EXPECTED.iter().find(|kind| line.contains(**kind)).copied().unwrap_or(&line).to_owned();
        *said.entry(kind).or_default() += 1;
    }
    println!("{codes:#?}\n{said:#?}");
    for code in codes.keys() {
        let expected = match code.split_once(' ') {
            // 7: a shell that was ended. 125: see below.
            Some(("run", code)) => ["0", "7", "75", "121", "123", "124", "125", "137", "143"].contains(&code),
            Some((_, code)) => ["0", "137", "143"].contains(&code),
            None => false,
        };
        assert!(expected, "{code}: {codes:?} {said:?}");
    }
    assert!(said.keys().all(|kind| EXPECTED.contains(&kind.as_str())), "{said:?}");
}

/// Two were inside only where one of them had lost its token.
fn assert_no_overlap(sandbox: &Sandbox) {
    let lost: BTreeSet<String> = lines(sandbox, "lost").into_iter().collect();
    let conflicts = lines(sandbox, "conflicts");
    println!("{} tokens were lost, {} were met inside for that", lost.len(), conflicts.len());
    let overlaps = conflicts.iter().filter(|line| !line.split(' ').skip(1).any(|id| lost.contains(id)));
    let overlaps: Vec<_> = overlaps.collect();
    assert!(overlaps.is_empty(), "{overlaps:#?}");
}

fn assert_fences_rise(sandbox: &Sandbox) {
    let mut highest = BTreeMap::<String, u64>::new();
    for line in lines(sandbox, "grants") {
        let words: Vec<_> = line.split(' ').collect();
        let fence: u64 = words[1].parse().unwrap();
        let highest = highest.entry(words[0].to_owned()).or_default();
        // A script under a token is not told its fence.
        assert!(fence == 0 || fence > *highest, "{line} after {highest}");
        *highest = fence.max(*highest);
    }
}

/// Waiters that become COMMAND while another lockrun is about to end them.
#[test]
fn replace_and_exec_end_commands_by_term_alone() {
    let sandbox = Sandbox::new();
    let script = format!(
        "for i in $(seq {}); do
            lockrun -q --replace --exec -l calc -- sh -c 'trap \"exit 1\" TERM; sleep 0.02 & wait'; echo $? >>codes
        done",
        size(40, 250)
    );
    let loops: [Running; 4] = [(); 4].map(|()| sandbox.sh(&script).start());
    for running in loops {
        running.wait();
    }
    let mut codes = BTreeMap::<String, usize>::new();
    for code in lines(&sandbox, "codes") {
        *codes.entry(code).or_default() += 1;
    }
    println!("{codes:?}");
    assert!(codes.keys().all(|code| ["0", "1", "123", "143"].contains(&code.as_str())), "{codes:?}");
}
