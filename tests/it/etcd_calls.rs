//! The requests to etcd, each against a real server: answers, repeated requests, and
//! what a failing server does to them.

use crate::support::{Authority, Etcd, Sandbox, eventually, http_message};
use lockrun::lock::server::etcd::calls::{Calls, Condition, LeaseId, Read, Renewed, Span, Write};
use lockrun::lock::server::etcd::gateway::Gateway;
use lockrun::lock::server::etcd::watch::{Heard, Wish};
use lockrun::lock::server::store::Trouble;
use lockrun::lock::server::url::{self, Origin, Store};
use lockrun::net::http::Client;
use lockrun::net::{Dialer, Limits};
use lockrun::sys::suspend_aware_now;
use std::fs;
use std::future::Future;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const ROW: &str = "jobs/calc/x1";

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Time enough for anything on a busy machine.
fn long() -> Limits {
    Limits::new(suspend_aware_now() + Duration::from_secs(60), Duration::from_secs(60))
}

fn short() -> Limits {
    Limits::new(suspend_aware_now() + Duration::from_millis(400), Duration::from_millis(200))
}

/// To the server of this URL.
fn calls_by(url: &str) -> Calls {
    let Ok(Store::Server(server)) = url::parse(url, Origin::Environment, |_| None) else { panic!("{url}") };
    let client = Client::new(Dialer::new(server.addresses, server.tls));
    Calls { gateway: Gateway::new(client, server.account, None) }
}

fn calls_to(addresses: &[&str]) -> Calls {
    calls_by(&format!("etcd://{}/jobs", addresses.join(",")))
}

fn calls(etcd: &Etcd) -> Calls {
    calls_to(&[etcd.address()])
}

/// As the user `lockrun`, with a password from this file.
fn calls_with_password(etcd: &Etcd, password: &Path) -> Calls {
    calls_by(&format!("etcd://{}/jobs?user=lockrun&password-file={}", etcd.address(), password.display()))
}

/// Makes a lease and a row on it.
async fn enter(calls: &mut Calls, lease: LeaseId) -> i64 {
    calls.grant(lease, 20, long()).await.unwrap();
    let row = Span::one(ROW);
    let put = [Write::put(ROW, b"{}", lease)];
    let written = calls.write(&[Condition::empty(&row)], &put, &[], &[Read::all(row)], long()).await.unwrap();
    written.expect("the lease is there").revision
}

#[track_caller]
fn refused<T>(result: Result<T, Trouble>) -> String {
    match result {
        Err(Trouble::Refused(text)) => text,
        Err(Trouble::Unreachable(unreachable)) if unreachable.is_refused() => unreachable.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_lease_lasts_as_long_as_the_server_says() {
    let etcd = Etcd::start_with(&["--election-timeout=2000", "--heartbeat-interval=100"]);
    run(async {
        let before = suspend_aware_now();
        let until = calls(&etcd).grant(LeaseId(7), 1, long()).await.unwrap().until;
        // At least one and a half elections.
        let ttl = Duration::from_secs(3);
        assert!((before + ttl..=suspend_aware_now() + ttl).contains(&until));
    });
}

#[test]
fn a_repeated_grant_counts_from_the_first_try() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        calls.grant(LeaseId(7), 20, long()).await.unwrap();
        let before = suspend_aware_now();
        let until = calls.grant(LeaseId(7), 20, long()).await.unwrap().until;
        let ttl = Duration::from_secs(20);
        assert!(until >= before + ttl && until <= suspend_aware_now() + ttl);
    });
}

#[test]
fn entering_twice_makes_one_row() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        let row = Span::one(ROW);
        let put = [Write::put(ROW, b"other", LeaseId(7))];
        let again =
            calls.write(&[Condition::empty(&row)], &put, &[], &[Read::all(row)], long()).await.unwrap().unwrap();
        assert!(!again.done);
        let found = &again.found[0].kvs[0];
        assert_eq!((found.create_revision, found.mod_revision, &found.value[..]), (made, made, &b"{}"[..]));
    });
}

#[test]
fn nothing_is_written_without_its_lease() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        let written = calls.write(&[], &[Write::put(ROW, b"", LeaseId(7))], &[], &[], long()).await.unwrap();
        assert!(written.is_none());
        let (found, _) = calls.read(&Read::all(Span::one(ROW)), long()).await.unwrap();
        assert!(found.kvs.is_empty());
    });
}

#[test]
fn a_renewed_lease_lasts_from_before_the_renewal_was_sent() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        let before = suspend_aware_now();
        let kept = calls.keep(LeaseId(7), &[(ROW.into(), made)], &[Span::one("other")], long()).await.unwrap();
        let Renewed::Until { lasting, own, also } = kept else { panic!("{kept:?}") };
        let until = lasting.until;
        let ttl = Duration::from_secs(20);
        assert!(until >= before + ttl && until <= suspend_aware_now() + ttl);
        assert_eq!((own.len(), also.len(), also[0].kvs.len()), (1, 1, 0));
    });
}

/// A way to a server, and when each request came past on it. `change` may alter the answer
/// to the request of a number.
fn way_with_a_clock(
    server: &str,
    change: impl Fn(usize, &mut Vec<u8>) + Send + 'static,
) -> (String, Arc<Mutex<Vec<Duration>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut upstream = TcpStream::connect(server).unwrap();
        for number in 0.. {
            let Some(request) = http_message(&mut client) else { return };
            noted.lock().unwrap().push(suspend_aware_now());
            upstream.write_all(&request).unwrap();
            let mut answer = http_message(&mut upstream).unwrap();
            change(number, &mut answer);
            client.write_all(&answer).unwrap();
        }
    });
    (address, times)
}

/// However late the answer is.
#[test]
fn a_lease_never_counts_from_the_answer() {
    let etcd = Etcd::start();
    let (way, passed) = way_with_a_clock(etcd.address(), |_, _| {});
    run(async {
        let mut calls = calls_to(&[&way]);
        let granted = calls.grant(LeaseId(7), 20, long()).await.unwrap();
        let kept = calls.keep(LeaseId(7), &[], &[], long()).await.unwrap();
        let Renewed::Until { lasting: renewed, .. } = kept else { panic!("{kept:?}") };
        let passed = passed.lock().unwrap();
        for (lasting, passed) in [granted, renewed].iter().zip(passed.iter()) {
            assert!(lasting.until - lasting.ttl <= *passed, "it was sent before {passed:?}: {lasting:?}");
        }
        assert_eq!(passed.len(), 2);
    });
}

/// A deposed leader may have confirmed the renewal, and its successor the row.
#[test]
fn a_renewal_in_another_term_than_the_read_after_it_is_made_again() {
    const FIRST_RENEWAL: usize = 2;
    let etcd = Etcd::start();
    let (way, passed) = way_with_a_clock(etcd.address(), |number, answer| {
        if number == FIRST_RENEWAL {
            let term = b"\"raft_term\":\"";
            let place = answer.windows(term.len()).position(|part| part == term).unwrap() + term.len();
            answer[place] -= 1;
        }
    });
    run(async {
        let mut calls = calls_to(&[&way]);
        let made = enter(&mut calls, LeaseId(7)).await;
        let kept = calls.keep(LeaseId(7), &[(ROW.into(), made)], &[], long()).await.unwrap();
        let Renewed::Until { lasting, .. } = kept else { panic!("{kept:?}") };
        let passed = passed.lock().unwrap();
        assert_eq!(passed.len(), FIRST_RENEWAL + 4, "a renewal and a read, twice");
        assert!(lasting.until - lasting.ttl > passed[FIRST_RENEWAL + 1], "it counts from the second renewal");
    });
}

/// The gateway answers 200 without a TTL.
#[test]
fn a_lease_that_was_revoked_cannot_be_kept() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(0x77)).await;
        etcd.etcdctl(&sandbox, &["lease", "revoke", "77"]).assert_code(0);
        let keys = [(ROW.to_owned(), made)];
        assert!(matches!(calls.keep(LeaseId(0x77), &keys, &[], long()).await.unwrap(), Renewed::Gone));
        assert!(matches!(calls.keep(LeaseId(0x77), &[], &[], long()).await.unwrap(), Renewed::Gone));
        assert!(!calls.revoke(LeaseId(0x77), long()).await.unwrap());
    });
}

#[test]
fn a_row_that_was_removed_or_remade_is_gone_though_the_lease_lives() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        let keys = [(ROW.to_owned(), made)];
        etcd.etcdctl(&sandbox, &["del", ROW]).assert_code(0);
        assert!(matches!(calls.keep(LeaseId(7), &keys, &[], long()).await.unwrap(), Renewed::Gone));
        etcd.etcdctl(&sandbox, &["put", "--lease=7", ROW, "{}"]).assert_code(0);
        assert!(matches!(calls.keep(LeaseId(7), &keys, &[], long()).await.unwrap(), Renewed::Gone));
    });
}

#[test]
fn revoking_removes_all_rows_of_the_lease() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        enter(&mut calls, LeaseId(7)).await;
        assert!(calls.revoke(LeaseId(7), long()).await.unwrap());
        assert!(!calls.revoke(LeaseId(7), long()).await.unwrap());
        let (found, _) = calls.read(&Read::count(Span::one(ROW)), long()).await.unwrap();
        assert_eq!(found.count, 0);
    });
}

#[test]
fn a_row_that_moves_to_another_lease_keeps_its_place() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        calls.grant(LeaseId(8), 20, long()).await.unwrap();
        let row = Span::one(ROW);
        let (conditions, writes) = ([Condition::made_in(&row, made)], [Write::keep_on(ROW, LeaseId(8))]);
        let then = [Read::all(row.clone())];
        let moved = calls.write(&conditions, &writes, &then, &[], long()).await.unwrap().unwrap();
        let found = &moved.found[0].kvs[0];
        assert_eq!((found.create_revision, found.lease, &found.value[..]), (made, 8, &b"{}"[..]));
        calls.revoke(LeaseId(7), long()).await.unwrap();
        let (found, _) = calls.read(&Read::count(row), long()).await.unwrap();
        assert_eq!(found.count, 1);
    });
}

#[test]
fn a_call_changes_the_row_and_not_its_lease_and_only_the_row_that_was_seen() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        let row = Span::one(ROW);
        let call = |text: &'static [u8]| ([Condition::written_in(ROW, made)], [Write::change(ROW, text)]);
        let (conditions, writes) = call(b"break");
        let read = [Read::all(row)];
        let called = calls.write(&conditions, &writes, &read, &read, long()).await.unwrap().unwrap();
        let found = &called.found[0].kvs[0];
        assert!(called.done && found.lease == 7 && found.value == b"break" && found.create_revision == made);
        let (conditions, writes) = call(b"other");
        let late = calls.write(&conditions, &writes, &read, &read, long()).await.unwrap().unwrap();
        assert!(!late.done && late.found[0].kvs[0].value == b"break");
    });
}

fn wish(key: &str, only_removal: bool, after: i64) -> Wish {
    Wish { span: Span::one(key), only_removal, after }
}

#[test]
fn a_watch_reports_what_happened_since_the_look() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        etcd.etcdctl(&sandbox, &["put", "--ignore-lease", ROW, "break"]).assert_code(0);
        etcd.etcdctl(&sandbox, &["del", ROW]).assert_code(0);
        let wishes = [wish(ROW, false, made), wish("other", true, made)];
        let mut watch = calls.watch(&wishes, long()).await.unwrap();
        let heard = watch.next().await;
        assert!(matches!(&heard, Heard::Changed(row) if row.value == b"break"), "{heard:?}");
        let heard = watch.next().await;
        assert!(matches!(&heard, Heard::Removed(key) if key == ROW), "{heard:?}");
        etcd.etcdctl(&sandbox, &["put", "other", ""]).assert_code(0);
        etcd.etcdctl(&sandbox, &["del", "other"]).assert_code(0);
        let heard = watch.next().await;
        assert!(matches!(&heard, Heard::Removed(key) if key == "other"), "{heard:?}");
    });
}

#[test]
fn a_compaction_ends_a_watch_that_starts_before_it_and_disturbs_no_other() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        let mut running = calls.watch(&[wish(ROW, false, made)], long()).await.unwrap();
        for text in ["a", "b"] {
            etcd.etcdctl(&sandbox, &["put", "noise", text]).assert_code(0);
        }
        etcd.etcdctl(&sandbox, &["compaction", &(made + 2).to_string()]).assert_code(0);
        let mut late = calls.watch(&[wish(ROW, false, made)], long()).await.unwrap();
        let heard = late.next().await;
        assert!(matches!(&heard, Heard::Ended(why) if why.contains("compacted")), "{heard:?}");
        etcd.etcdctl(&sandbox, &["del", ROW]).assert_code(0);
        let heard = running.next().await;
        assert!(matches!(&heard, Heard::Removed(_)), "{heard:?}");
    });
}

#[test]
fn a_watch_ends_with_its_server() {
    let etcd = Etcd::start();
    run(async {
        let mut watch = calls(&etcd).watch(&[wish(ROW, false, 1)], long()).await.unwrap();
        etcd.kill();
        let heard = watch.next().await;
        assert!(matches!(heard, Heard::Ended(_)), "{heard:?}");
    });
}

#[test]
fn a_frozen_server_costs_no_more_than_the_limits_and_is_found_again() {
    let etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        let keys = [(ROW.to_owned(), made)];
        etcd.freeze();
        let trouble = calls.keep(LeaseId(7), &keys, &[], short()).await.unwrap_err();
        etcd.thaw();
        let Trouble::Unreachable(unreachable) = trouble else { panic!("{trouble:?}") };
        assert_eq!(unreachable.to_string(), format!("{}: no answer in time", etcd.address()));
        assert!(unreachable.was_sent && !unreachable.is_refused());
        assert!(matches!(calls.keep(LeaseId(7), &keys, &[], long()).await.unwrap(), Renewed::Until { .. }));
    });
}

#[test]
fn a_server_that_restarts_is_found_again_and_has_the_row() {
    let mut etcd = Etcd::start();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        etcd.kill();
        let trouble = calls.keep(LeaseId(7), &[], &[], short()).await.unwrap_err();
        let Trouble::Unreachable(unreachable) = trouble else { panic!("{trouble:?}") };
        assert_eq!(unreachable.to_string(), format!("{}: connection refused", etcd.address()));
        etcd.restart();
        let keys = [(ROW.to_owned(), made)];
        assert!(matches!(calls.keep(LeaseId(7), &keys, &[], long()).await.unwrap(), Renewed::Until { .. }));
    });
}

#[test]
fn dead_addresses_among_good_ones_are_passed() {
    let etcd = Etcd::start();
    let dead = [etcd.address().replace(":2", ":3"), "no-such-host.invalid:2379".into()];
    run(async {
        for _ in 0..6 {
            let mut calls = calls_to(&[&dead[0], etcd.address(), &dead[1]]);
            calls.read(&Read::all(Span::one(ROW)), long()).await.unwrap();
        }
    });
}

#[test]
fn the_first_cluster_that_answers_is_the_only_one() {
    let (one, other) = (Etcd::start(), Etcd::start_with(&["--initial-cluster-token=other"]));
    run(async {
        let mut calls = calls_to(&[one.address(), other.address()]);
        calls.read(&Read::all(Span::one(ROW)), long()).await.unwrap();
        let first = calls.gateway.cluster();
        let (at_first, second) = match calls.gateway.address().to_string() == one.address() {
            true => (&one, &other),
            false => (&other, &one),
        };
        at_first.kill();
        let trouble = calls.read(&Read::all(Span::one(ROW)), short()).await.unwrap_err();
        let Trouble::Unreachable(unreachable) = trouble else { panic!("{trouble:?}") };
        let text = unreachable.to_string();
        assert!(text.contains(&format!("{}: belongs to another cluster", second.address())), "{text}");
        // What it says about a lease counts for nothing, either.
        let written = calls.write(&[], &[Write::put(ROW, b"", LeaseId(7))], &[], &[], short()).await;
        assert!(matches!(written, Err(Trouble::Unreachable(_))));
        assert_eq!(calls.gateway.cluster(), first);
    });
}

#[test]
fn a_full_database_refuses_rows_and_still_renews_and_removes_them() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=100000"]);
    let sandbox = Sandbox::new();
    run(async {
        let mut calls = calls(&etcd);
        let made = enter(&mut calls, LeaseId(7)).await;
        let noise = "x".repeat(20_000);
        eventually("the database is full", || etcd.etcdctl(&sandbox, &["put", "noise", &noise]).code != Some(0));
        let put = [Write::put("jobs/calc/x2", b"", LeaseId(7))];
        let text = refused(calls.write(&[], &put, &[], &[], long()).await);
        assert!(text.contains("NOSPACE"), "{text}");
        let keys = [(ROW.to_owned(), made)];
        assert!(matches!(calls.keep(LeaseId(7), &keys, &[], long()).await.unwrap(), Renewed::Until { .. }));
        calls.revoke(LeaseId(7), long()).await.unwrap();
        assert_eq!(etcd.keys(&sandbox, "jobs/"), [] as [String; 0]);
    });
}

#[test]
fn a_password_that_changes_is_read_again_and_renewing_does_not_depend_on_it() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    etcd.switch_users_on(&sandbox, "old");
    let password = sandbox.write("password", "old");
    run(async {
        let mut calls = calls_with_password(&etcd, &password);
        let made = enter(&mut calls, LeaseId(7)).await;
        let keys = [(ROW.to_owned(), made)];
        etcd.change_password(&sandbox, "new");
        // The token has died with the password.
        let text = refused(calls.read(&Read::all(Span::one(ROW)), long()).await);
        assert_eq!(text, "etcd knows no such user, or the password is wrong");
        calls.keep(LeaseId(7), &[], &[], long()).await.unwrap();
        sandbox.write("password", "new");
        assert!(matches!(calls.keep(LeaseId(7), &keys, &[], long()).await.unwrap(), Renewed::Until { .. }));
        let mut watch = calls.watch(&[wish(ROW, false, made)], long()).await.unwrap();
        calls.revoke(LeaseId(7), long()).await.unwrap();
        assert!(matches!(watch.next().await, Heard::Removed(_)));
    });
}

#[test]
fn users_that_are_switched_on_while_we_run_are_noticed() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    let password = sandbox.write("password", "secret");
    run(async {
        let mut calls = calls_with_password(&etcd, &password);
        let made = enter(&mut calls, LeaseId(7)).await;
        etcd.switch_users_on(&sandbox, "secret");
        let keys = [(ROW.to_owned(), made)];
        assert!(matches!(calls.keep(LeaseId(7), &keys, &[], long()).await.unwrap(), Renewed::Until { .. }));
        let text = refused(calls.read(&Read::all(Span::one("other/row")), long()).await);
        assert!(text.starts_with("permission denied"), "{text}");
        let text = refused(calls_to(&[etcd.address()]).read(&Read::all(Span::one(ROW)), long()).await);
        assert_eq!(text, "etcd requires a user: give ?user= and a password");
    });
}

#[test]
fn a_wrong_password_and_one_that_cannot_be_read_are_told_apart() {
    let etcd = Etcd::start();
    let sandbox = Sandbox::new();
    etcd.switch_users_on(&sandbox, "secret");
    let read = |password: &Path| {
        let mut calls = calls_with_password(&etcd, password);
        refused(run(async { calls.read(&Read::all(Span::one(ROW)), long()).await }))
    };
    assert!(read(&sandbox.write("password", "wrong")).contains("password is wrong"));
    assert!(read(&sandbox.path("missing")).contains("No such file"));
}

#[test]
fn tls_works_with_an_own_authority_and_a_client_certificate() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start_with_tls(&sandbox);
    let read = Read::all(Span::one(ROW));
    let tls = etcd.tls().unwrap();
    let url = |parameters: &str| format!("etcds://{}/jobs?{parameters}", etcd.address());
    run(async {
        calls_by(&etcd.url("jobs")).read(&read, long()).await.unwrap();

        let trouble = calls_to(&[etcd.address()]).read(&read, short()).await.err();
        let Some(Trouble::Unreachable(unreachable)) = trouble else { panic!("{trouble:?}") };
        assert!(unreachable.to_string().ends_with("(if it wants TLS, write etcds://)"), "{unreachable}");

        let anonymous = url(&format!("cacert={}", tls.cacert.display()));
        let trouble = calls_by(&anonymous).read(&read, short()).await.err();
        assert!(matches!(trouble, Some(Trouble::Unreachable(_))), "{trouble:?}");

        let strangers = Authority::in_directory(&sandbox, "strangers");
        let untrusted = url(&format!("cacert={}", strangers.cert().display()));
        let text = refused(calls_by(&untrusted).read(&read, long()).await);
        assert!(text.contains("not signed by an authority in"), "{text}");
    });
}

/// The files are read for each connection.
#[test]
fn certificates_that_are_renewed_are_used_by_the_next_connection() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start_with_tls(&sandbox);
    let tls = etcd.tls().unwrap().clone();
    let copies = ["cert", "key"].map(|name| sandbox.path(name));
    for (from, to) in [&tls.cert, &tls.key].into_iter().zip(&copies) {
        fs::copy(from, to).unwrap();
    }
    let [cacert, cert, key] = [&tls.cacert, &copies[0], &copies[1]].map(|path| path.display().to_string());
    let url = format!("etcds://{}/jobs?cacert={cacert}&cert={cert}&key={key}", etcd.address());
    let read = Read::all(Span::one(ROW));
    run(async {
        let mut calls = calls_by(&url);
        calls.read(&read, long()).await.unwrap();
        fs::write(&copies[0], "damaged").unwrap();
        calls.read(&read, long()).await.expect("the connection stays");
        etcd.kill();
        etcd.restart();
        let text = refused(calls.read(&read, long()).await);
        assert!(text.contains("cannot read the certificate"), "{text}");
        fs::copy(&tls.cert, &copies[0]).unwrap();
        calls.read(&read, long()).await.unwrap();
    });
}

#[test]
fn a_server_that_is_no_etcd_is_named() {
    let etcd = Etcd::start_with(&["--enable-grpc-gateway=false"]);
    let text = refused(run(async { calls(&etcd).read(&Read::all(Span::one(ROW)), long()).await }));
    assert_eq!(text, format!("{}: no HTTP/JSON gateway of etcd 3.4 or newer there (HTTP 404)", etcd.address()));
}

#[test]
fn the_version_is_known() {
    let etcd = Etcd::start();
    let version = run(async { calls(&etcd).version(long()).await.unwrap() });
    assert!(version.starts_with("3."), "{version}");
}
