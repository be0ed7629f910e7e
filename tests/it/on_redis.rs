//! What is Redis's own about locks in its keys.

use crate::support::redis::{Keys, Redis};
use crate::support::{Authority, Holder, Invocation, Outcome, Place, Running, Sandbox, eventually, keeper_of, signal};
use std::fs;

const SHORT: &str = "?ttl=3";
/// A command that cannot be ended but by KILL.
const STUBBORN: &str = "trap '' TERM; echo holding; while :; do sleep 600; done";

fn lockrun(sandbox: &Sandbox, store: &str, args: &[&str]) -> Invocation {
    sandbox.command("env", &[&["-u", "LOCKRUN_DIR", "lockrun"], args].concat()).env("LOCKRUN_STORE", store)
}

fn run(sandbox: &Sandbox, store: &str) -> Outcome {
    lockrun(sandbox, store, &["-n", "-l", "calc", "--", "true"]).run()
}

/// One that holds until its input ends.
fn hold(sandbox: &Sandbox, store: &str) -> Holder {
    let args = ["-l", "calc", "-c", "echo holding; exec cat"];
    Holder::from(lockrun(sandbox, store, &args).input("").start().until_says("holding"))
}

fn stubborn(sandbox: &Sandbox, store: &str) -> Running {
    lockrun(sandbox, store, &["-l", "calc", "-c", STUBBORN]).start().until_says("holding")
}

fn keys() -> (Place, Sandbox) {
    (Place::Redis(Keys::unused()), Sandbox::new())
}

fn cli(place: &Place, sandbox: &Sandbox, words: &[&str]) -> String {
    let Place::Redis(keys) = place else { panic!("no Redis") };
    keys.cli(sandbox, words)
}

/// The number of rows.
fn rows(server: &Redis, sandbox: &Sandbox) -> usize {
    let fields = server.cli(sandbox, &["hkeys", "lockrun:lock:calc"]).assert_code(0).stdout.clone();
    fields.lines().filter(|field| field.len() == 32).count()
}

#[test]
fn a_row_of_the_dead_is_removed_when_its_lease_ends() {
    let (place, sandbox) = keys();
    let holder = place.lockrun_with(&sandbox, SHORT, &["-l", "calc", "-c", STUBBORN]).start().until_says("holding");
    let before: u64 = cli(&place, &sandbox, &["hget", "PREFIX:lock:calc", "cut"]).parse().unwrap();
    let waiter = place.lockrun_with(&sandbox, SHORT, &["-l", "calc", "-c", "echo $LOCKRUN_FENCE"]).start();
    place.until_waiting(&sandbox, 1);
    let keeper = keeper_of(holder.pid());
    signal(holder.pid(), libc::SIGSTOP);
    signal(keeper, libc::SIGKILL);
    signal(holder.pid(), libc::SIGKILL);
    let after = waiter.wait();
    assert!(after.assert_code(0).stdout.trim().parse::<u64>().unwrap() > before, "{after:?}");
    holder.wait();
}

/// As if the server's clock had been set this many seconds ahead: the times in the granted
/// rows are set back.
fn set_clock(place: &Place, sandbox: &Sandbox, ahead: i64) {
    let step = "local k, by = KEYS[1], tonumber(ARGV[1]) * 1000000; for _, id in ipairs(redis.call('HKEYS', k)) do \
                local t = redis.call('HGET', k, id); \
                local a, f, b, e, s, n = string.match(t, '^(%d+|%d+|x|)(%d+)(||%d+|%d+|)(%d+)|(%-?%d+)(|.*)$'); \
                if f and f ~= '0' then redis.call('HSET', k, id, a .. f .. b .. string.format('%.0f|%.0f', e - by, \
                s - by) .. n) end end return 'stepped'";
    let ahead = ahead.to_string();
    assert_eq!(cli(place, sandbox, &["eval", step, "1", "PREFIX:lock:calc", &ahead]), "stepped");
}

/// Nobody renews a token's row, so all of it is up to who finds it.
#[test]
fn a_clock_that_is_set_back_and_set_right_again_takes_no_lock_away() {
    let (place, sandbox) = keys();
    let token = place.acquire(&sandbox, &["-l", "calc", "--expires", "600"]);
    for ahead in [-3600, 3600] {
        set_clock(&place, &sandbox, ahead);
        place.lockrun(&sandbox, &["-t", "0.1", "-l", "calc", "--", "true"]).run().assert_code(124);
        place.lockrun(&sandbox, &["check", &token]).run().assert_code(0);
    }
}

#[test]
fn a_step_of_the_servers_clock_takes_no_lock_from_the_living() {
    let (place, sandbox) = keys();
    let holder = place.hold_with(&sandbox, SHORT, &["-l", "calc"]);
    set_clock(&place, &sandbox, 3600);
    // Who enters would remove what has ended.
    place.lockrun_with(&sandbox, SHORT, &["-t", "0.1", "-l", "calc", "--", "true"]).run().assert_code(124);
    let waiter = place.lockrun_with(&sandbox, SHORT, &["-l", "calc", "-c", "echo mine"]).start();
    place.until_waiting(&sandbox, 1);
    let skews = || cli(&place, &sandbox, &["hvals", "PREFIX:lock:calc"]);
    let is_renewed = |rows: String| {
        let granted =
            rows.lines().find(|row| row.split('|').nth(3).is_some_and(|fence| fence != "0")).unwrap().to_owned();
        granted.split('|').nth(8).unwrap().parse::<i64>().unwrap().abs() < 60_000_000
    };
    eventually("the holder has renewed", || is_renewed(skews()));
    place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(1);
    holder.release().assert_code(0).assert_silent();
    waiter.wait().assert_code(0).assert_stdout("mine\n");
}

#[test]
fn a_restart_that_forgets_everything_takes_no_lock_from_the_living() {
    let (sandbox, mut server) = (Sandbox::new(), Redis::start(&[]));
    let [grace, none] = ["ttl=3", "ttl=3&grace=0"].map(|parameters| server.url(parameters));
    let first = run(&sandbox, &grace);
    first.assert_code(75).assert_one_line(&["busy", "the server has just started"]);
    let holder = hold(&sandbox, &none);
    server.kill();
    server.restart();
    lockrun(&sandbox, &grace, &["status", "calc"]).run().assert_code(1);
    let waiter = lockrun(&sandbox, &grace, &["-l", "calc", "-c", "echo mine"]).start();
    // Its row, and that of the waiter.
    eventually("the row is back", || rows(&server, &sandbox) == 2);
    let pid = holder.pid().to_string();
    eventually("the grace period is over", || !run(&sandbox, &grace).stderr.contains("just started"));
    run(&sandbox, &grace).assert_code(75).assert_one_line(&["busy", &pid]);
    holder.release().assert_code(0);
    waiter.wait().assert_code(0).assert_stdout("mine\n");
}

#[test]
fn whoever_comes_first_after_a_restart_it_is_the_same_store() {
    let (sandbox, mut server) = (Sandbox::new(), Redis::start(&[]));
    let [grace, none] = ["ttl=6", "ttl=6&grace=0"].map(|parameters| server.url(parameters));
    let holder = hold(&sandbox, &none);
    signal(keeper_of(holder.pid()), libc::SIGSTOP);
    server.kill();
    server.restart();
    // It gives the store a new name.
    run(&sandbox, &grace).assert_code(75);
    signal(keeper_of(holder.pid()), libc::SIGCONT);
    eventually("the row is back", || rows(&server, &sandbox) == 1);
    holder.release().assert_code(0);
}

#[test]
fn what_is_on_disk_survives_a_restart() {
    let (sandbox, mut server) = (Sandbox::new(), Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]));
    let store = server.url("grace=0");
    let token = lockrun(&sandbox, &store, &["acquire", "-l", "token"]).run().assert_code(0).stdout.trim().to_owned();
    let holder = hold(&sandbox, &store);
    let waiter = lockrun(&sandbox, &store, &["-l", "calc", "-c", "echo mine"]).start();
    eventually("one waits", || rows(&server, &sandbox) == 2);
    server.kill();
    server.restart();
    lockrun(&sandbox, &store, &["check", &token]).run().assert_code(0);
    run(&sandbox, &store).assert_code(75);
    lockrun(&sandbox, &store, &["release", &token]).run().assert_code(0);
    holder.release().assert_code(0);
    waiter.wait().assert_code(0).assert_stdout("mine\n");
}

#[test]
fn a_holder_puts_back_what_flushall_took_unless_another_was_granted_it() {
    let (sandbox, server) = (Sandbox::new(), Redis::start(&[]));
    let store = server.url("ttl=3&grace=0");
    let holder = hold(&sandbox, &store);
    server.cli(&sandbox, &["flushall"]).assert_code(0);
    eventually("the row is back", || rows(&server, &sandbox) == 1);
    run(&sandbox, &store).assert_code(75);
    holder.release().assert_code(0).assert_silent();
    eventually("another ttl is taken", || run(&sandbox, &server.url("grace=0")).code == Some(0));
    let store = server.url("grace=0");
    let holder = stubborn(&sandbox, &store);
    // It puts its row back too late.
    let keeper = keeper_of(holder.pid());
    signal(keeper, libc::SIGSTOP);
    server.cli(&sandbox, &["flushall"]).assert_code(0);
    let next = hold(&sandbox, &store);
    signal(keeper, libc::SIGCONT);
    let pid = next.pid().to_string();
    holder.wait().assert_code(123).assert_stderr_has(&["calc: lost: the store has taken it away", "KILL", &pid]);
    next.release().assert_code(0).assert_silent();
}

#[test]
fn a_broken_lock_is_not_put_back() {
    let (sandbox, server) = (Sandbox::new(), Redis::start(&[]));
    let store = server.url("ttl=3&grace=0");
    let holder = stubborn(&sandbox, &store);
    let keeper = keeper_of(holder.pid());
    signal(keeper, libc::SIGSTOP);
    signal(holder.pid(), libc::SIGSTOP);
    lockrun(&sandbox, &store, &["break", "--kill-after", "0.1", "calc"]).run();
    run(&sandbox, &store).assert_code(0);
    signal(holder.pid(), libc::SIGCONT);
    signal(keeper, libc::SIGCONT);
    holder.wait().assert_code(123);
    assert_eq!(rows(&server, &sandbox), 0);
}

#[test]
fn a_server_that_forgot_the_script_is_told_it_again() {
    let (sandbox, server) = (Sandbox::new(), Redis::start(&[]));
    let store = server.url("grace=0");
    let holder = hold(&sandbox, &store);
    server.cli(&sandbox, &["script", "flush"]).assert_code(0);
    run(&sandbox, &store).assert_code(75);
    server.cli(&sandbox, &["script", "flush"]).assert_code(0);
    holder.release().assert_code(0).assert_silent();
    run(&sandbox, &store).assert_code(0);
}

#[test]
fn a_server_without_memory_keeps_what_is_held() {
    let (sandbox, server) = (Sandbox::new(), Redis::start(&[]));
    let store = server.url("ttl=2&grace=0");
    let holder = hold(&sandbox, &store);
    server.cli(&sandbox, &["config", "set", "maxmemory", "1mb"]).assert_code(0);
    let expiry = || server.cli(&sandbox, &["hvals", "lockrun:lock:calc"]).stdout.clone();
    for _ in 0..2 {
        let before = expiry();
        eventually("it is renewed", || expiry() != before);
    }
    lockrun(&sandbox, &store, &["-l", "other", "--", "true"])
        .run()
        .assert_code(125)
        .assert_one_line(&["no memory left"]);
    holder.release().assert_code(0).assert_silent();
    assert_eq!(rows(&server, &sandbox), 0);
}

#[test]
fn servers_that_cannot_keep_locks_are_refused_and_say_why() {
    let sandbox = Sandbox::new();
    let refused = |options: &[&str], code: i32, says: &str| {
        let server = Redis::start(options);
        run(&sandbox, &server.url("connect=0.3&grace=0")).assert_code(code).assert_one_line(&[says]);
    };
    refused(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], 125, "it may evict locks");
    refused(&["--cluster-enabled", "yes"], 125, "it is a Redis Cluster");
    let primary = Redis::start(&[]);
    let of_primary = primary.address.replace(':', " ");
    refused(&["--replicaof", &of_primary], 69, "it is a read-only replica");
    let volatile = Redis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]);
    run(&sandbox, &volatile.url("grace=0")).assert_code(0).assert_silent();
    let replica = Redis::start(&["--replicaof", &of_primary]);
    let both = format!("redis://{},{}?grace=0", replica.address, primary.address);
    for _ in 0..3 {
        run(&sandbox, &both).assert_code(0).assert_silent();
    }
}

#[test]
fn a_password_is_found_and_never_shown() {
    let sandbox = Sandbox::new();
    let server = Redis::start(&["--requirepass", "geheim"]);
    let store = server.url("grace=0");
    let never_shown = |outcome: &Outcome| assert!(!outcome.stderr.contains("geheim"), "{outcome:?}");
    run(&sandbox, &store).assert_code(125).assert_one_line(&["wants a password", "password-file"]);
    let with =
        |word: &str| lockrun(&sandbox, &store, &["-v", "-l", "calc", "--", "true"]).env("REDISCLI_AUTH", word).run();
    never_shown(with("falsch").assert_code(125).assert_stderr_has(&["WRONGPASS"]));
    never_shown(with("geheim").assert_code(0).assert_stderr_has(&["Redis "]));
    let file = sandbox.path("work/password");
    fs::write(&file, "geheim\n").unwrap();
    run(&sandbox, &format!("{store}&password-file={}", file.display())).assert_code(0);
    let given = store.replacen("redis://", "redis://:geheim@", 1);
    never_shown(run(&sandbox, &given).assert_code(0));
    let shown = lockrun(&sandbox, "file:", &["--store", &given, "-l", "calc", "--", "true"]).run();
    never_shown(shown.assert_code(125).assert_one_line(&["password-file"]));
}

/// The commands that lockrun-store(7) names.
const RIGHTS: &str = "+info +select +eval +evalsha +time +hget +hset +hmget +hgetall +hdel +hexists +del +zadd +zrem \
                      +zrangebylex +publish +subscribe";

#[test]
fn a_user_needs_the_rights_that_the_manual_names() {
    let (sandbox, server) = (Sandbox::new(), Redis::start(&[]));
    let user = |name: &str, rights: &str| {
        let rights = format!("acl setuser {name} on >word ~lockrun:* &lockrun:* {rights}");
        server.cli(&sandbox, &rights.split_whitespace().collect::<Vec<_>>()).assert_stdout("OK\n");
        server.url("grace=0&ttl=3").replacen("redis://", &format!("redis://{name}:word@"), 1)
    };
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/parts/lockrun-store.7")).unwrap();
    for right in RIGHTS.split_whitespace() {
        assert!(manual.contains(&right[1..].to_uppercase()), "{right}");
    }
    let store = user("deploy", RIGHTS);
    let holder = hold(&sandbox, &store);
    let waiter = lockrun(&sandbox, &store, &["-l", "calc", "-c", "echo mine"]).start();
    eventually("one waits", || rows(&server, &sandbox) == 2);
    holder.release().assert_code(0).assert_silent();
    waiter.wait().assert_code(0).assert_stdout("mine\n");
    lockrun(&sandbox, &store, &["list"]).run().assert_code(0);
    lockrun(&sandbox, &store, &["prune"]).run().assert_code(0);
    // Looking needs no more than reading.
    let reader = user("reader", "+info +eval +evalsha +time +hget +hmget +hgetall +hexists +zrangebylex +subscribe");
    lockrun(&sandbox, &reader, &["status", "calc"]).run().assert_code(0).assert_silent();
    lockrun(&sandbox, &reader, &["list"]).run().assert_code(0);
    lockrun(&sandbox, &format!("{reader}&prefix=lockrun:new"), &["status", "calc"])
        .run()
        .assert_code(0)
        .assert_silent();
    run(&sandbox, &reader).assert_code(125).assert_one_line(&["lockrun-store(7)"]);
    assert_eq!(rows(&server, &sandbox), 0);
}

#[test]
fn tls_proves_who_the_server_is() {
    let sandbox = Sandbox::new();
    let authority = Authority::in_directory(&sandbox, "tls");
    let other = Authority::in_directory(&sandbox, "other");
    let server = Redis::start_with_tls(&authority);
    let url = |parameters: &str| server.tls_url(&format!("ttl=3&grace=0{parameters}"));
    let trusting = |authority: &Authority| format!("&cacert={}", authority.cert().display());
    run(&sandbox, &url(&trusting(&other))).assert_code(125).assert_one_line(&["not signed by"]);
    run(&sandbox, &url("")).assert_code(125);
    let holder = hold(&sandbox, &url(&trusting(&authority)));
    // Valkey's scheme, on the same server.
    let waiting = url(&trusting(&authority)).replacen("rediss://", "valkeys://", 1);
    let waiter = lockrun(&sandbox, &waiting, &["-l", "calc", "-c", "echo mine"]).start();
    eventually("one waits", || rows(&server, &sandbox) == 2);
    holder.release().assert_code(0).assert_silent();
    waiter.wait().assert_code(0).assert_stdout("mine\n").assert_silent();
}

#[test]
fn a_server_that_stays_away_ends_the_command_before_its_lease_does() {
    let sandbox = Sandbox::new();
    for freezes in [false, true] {
        let server = Redis::start(&[]);
        let store = server.url("ttl=3&grace=0");
        let holder = stubborn(&sandbox, &store);
        if freezes {
            server.freeze()
        } else {
            server.kill()
        }
        holder.wait().assert_code(123).assert_stderr_has(&[
            "cannot be renewed",
            "lost",
            "could not be reached",
            "KILL",
        ]);
        if freezes {
            server.thaw();
            eventually("it is free", || run(&sandbox, &store).code == Some(0));
        } else {
            run(&sandbox, &server.url("connect=0.2")).assert_code(69);
        }
    }
}

#[test]
fn all_hosts_need_the_same_ttl() {
    let (sandbox, server) = (Sandbox::new(), Redis::start(&[]));
    let holder = hold(&sandbox, &server.url("ttl=5&grace=0"));
    let other = lockrun(&sandbox, &server.url("ttl=7&grace=0"), &["-l", "other", "--", "true"]).run();
    other.assert_code(125).assert_one_line(&["?ttl=5", "all hosts"]);
    // Looking has none.
    lockrun(&sandbox, &server.url("ttl=7&grace=0"), &["status", "other"]).run().assert_code(0);
    holder.release().assert_code(0);
}

#[test]
fn what_others_left_in_the_keys_blocks_or_is_refused_and_never_crashes() {
    let (sandbox, server) = (Sandbox::new(), Redis::start(&[]));
    let store = server.url("grace=0");
    let cli = |words: &[&str]| server.cli(&sandbox, words);
    let id = "0123456789abcdef0123456789abcdef";
    let row = "1|1|x|1||7|20000000|9000000000000000|0|{}";
    for (field, text) in [
        ("hello", "world"),
        ("\u{ff}", ""),
        (id, ""),
        (id, "1|2|3"),
        (id, &row.replace("|x|", "|y|")),
        (id, &row.replace("20000000", &"9".repeat(400))),
        (id, &row.replacen('1', "-1", 1)),
        (id, &row.replace("|x|", "|s|")),
    ] {
        cli(&["hset", "lockrun:lock:calc", field, text]).assert_code(0);
        run(&sandbox, &store).assert_code(75).assert_one_line(&["calc: busy"]);
        lockrun(&sandbox, &store, &["-t", "0.3", "-l", "calc", "--", "true"]).run().assert_code(124);
        lockrun(&sandbox, &store, &["list"]).run().assert_code(0);
        lockrun(&sandbox, &store, &["break", "calc"]).run().assert_code(125).assert_one_line(&["another program"]);
        lockrun(&sandbox, &store, &["prune"]).run().assert_code(0);
        cli(&["del", "lockrun:lock:calc"]).assert_code(0);
    }
    // A row that ends can be read.
    cli(&["hset", "lockrun:lock:calc", id, &row.replace("9000000000000000", "5")]).assert_code(0);
    run(&sandbox, &store).assert_code(0);
    for number in ["1e300", "-5", "x", "9007199254740991"] {
        cli(&["hset", "lockrun:lock:calc", "seq", number]).assert_code(0);
        let code = if number == "-5" { 0 } else { 125 };
        run(&sandbox, &store).assert_code(code);
    }
    cli(&["del", "lockrun:lock:calc"]).assert_code(0);
    cli(&["set", "lockrun:lock:calc", "x"]).assert_code(0);
    run(&sandbox, &store).assert_code(125).assert_one_line(&["of another program", "?prefix="]);
    cli(&["hset", "lockrun:store", "format", "2"]).assert_code(0);
    run(&sandbox, &store).assert_code(125).assert_one_line(&["a newer lockrun", "format 2"]);
    cli(&["hset", "lockrun:store", "format", "x"]).assert_code(0);
    run(&sandbox, &store).assert_code(125).assert_one_line(&["damaged"]);
}

#[test]
fn another_store_at_one_of_the_addresses_is_no_answer() {
    let sandbox = Sandbox::new();
    let (first, second) = (Redis::start(&[]), Redis::start(&[]));
    let token = lockrun(&sandbox, &first.url("grace=0"), &["acquire", "-l", "calc"]).run();
    let token = token.assert_code(0).stdout.trim().to_owned();
    run(&sandbox, &second.url("grace=0")).assert_code(0);
    // It has just been started, and may have forgotten everything; not if it remembers a
    // store from before.
    let check = || lockrun(&sandbox, &second.url("grace=0&ttl=600"), &["check", &token]).run();
    check().assert_code(123);
    second.cli(&sandbox, &["hset", "lockrun:store", "born", "5"]).assert_code(0);
    check().assert_code(125).assert_stderr_has(&["another store"]);
    lockrun(&sandbox, &first.url("grace=0"), &["release", &token]).run().assert_code(0);
}

#[test]
fn fences_rise_on_after_a_name_was_pruned() {
    let (place, sandbox) = keys();
    let fence = || {
        let outcome = place.lockrun(&sandbox, &["-l", "calc", "-c", "echo $LOCKRUN_FENCE"]).run();
        outcome.assert_code(0).stdout.trim().parse::<u64>().unwrap()
    };
    let first = fence();
    // As if the server's clock had been an hour ahead.
    let ahead = (first + 3_600_000_000).to_string();
    cli(&place, &sandbox, &["hset", "PREFIX:lock:calc", "seq", &ahead]);
    cli(&place, &sandbox, &["hset", "PREFIX:store", "floor", &ahead]);
    cli(&place, &sandbox, &["del", "PREFIX:lock:calc"]);
    assert!(fence() > first + 3_600_000_000);
    place.lockrun(&sandbox, &["prune"]).run().assert_code(0);
}
