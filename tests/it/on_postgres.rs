//! What is PostgreSQL's own about locks in its tables.

use crate::support::postgres::{Postgres, Schema};
use crate::support::{Authority, Invocation, Place, Running, Sandbox, eventually, is_alive, keeper_of, signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const SHORT: &str = "?ttl=3";
/// A command that cannot be ended but by KILL.
const STUBBORN: &str = "trap '' TERM; echo holding; while :; do sleep 600; done";

fn lockrun(sandbox: &Sandbox, store: &str, args: &[&str]) -> Invocation {
    sandbox.command("env", &[&["-u", "LOCKRUN_DIR", "lockrun"], args].concat()).env("LOCKRUN_STORE", store)
}

fn tables() -> (Place, Sandbox) {
    (Place::Postgres(Schema::unused()), Sandbox::new())
}

fn psql(place: &Place, sandbox: &Sandbox, sql: &str) -> String {
    let Place::Postgres(schema) = place else { panic!("no PostgreSQL") };
    schema.psql(sandbox, sql)
}

fn stubborn(place: &Place, sandbox: &Sandbox) -> Running {
    place.lockrun_with(sandbox, SHORT, &["-l", "calc", "-c", STUBBORN]).start().until_says("holding")
}

#[test]
fn everybody_may_be_the_first_to_make_the_tables() {
    let (place, sandbox) = tables();
    let count = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n";
    let first: Vec<_> = (0..20).map(|_| place.lockrun(&sandbox, &["-l", "calc", "-c", count]).start()).collect();
    for one in first {
        one.wait().assert_code(0).assert_stdout("");
    }
    assert_eq!(fs::read_to_string(sandbox.path("work/n")).unwrap(), "20\n");
    assert_eq!(psql(&place, &sandbox, "SELECT count(*) FROM SCHEMA.contender"), "0");
    assert_eq!(psql(&place, &sandbox, "SELECT count(*) FROM SCHEMA.store"), "1");
}

#[test]
fn a_user_without_rights_is_told_which_to_grant() {
    let (sandbox, server) = (Sandbox::new(), Postgres::start());
    let sql = |sql: &str| server.psql(&sandbox, "postgres", sql).assert_code(0).stdout.trim().to_owned();
    sql("CREATE ROLE deploy LOGIN");
    let store = server.url("").replacen("postgres@", "deploy@", 1);
    let run = ["-l", "calc", "--", "touch", "ran"];
    lockrun(&sandbox, &store, &run).run().assert_code(125).assert_one_line(&["the tables are missing", "GRANT USAGE"]);
    lockrun(&sandbox, &server.url(""), &["-l", "calc", "--", "true"]).run().assert_code(0);
    lockrun(&sandbox, &store, &run).run().assert_code(125).assert_one_line(&["permission denied", "GRANT USAGE"]);
    // Looking needs no more than reading.
    sql("GRANT USAGE ON SCHEMA lockrun TO deploy; GRANT SELECT ON ALL TABLES IN SCHEMA lockrun TO deploy");
    lockrun(&sandbox, &store, &["status", "calc"]).run().assert_code(0).assert_silent();
    lockrun(&sandbox, &store, &["list"]).run().assert_code(0);
    lockrun(&sandbox, &store, &run).run().assert_code(125).assert_one_line(&["GRANT"]);
    assert!(!sandbox.path("work/ran").exists());
    sql("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lockrun TO deploy");
    lockrun(&sandbox, &store, &run).run().assert_code(0).assert_silent();
}

#[test]
fn a_row_of_the_dead_is_removed_when_its_lease_ends() {
    let (place, sandbox) = tables();
    let holder = stubborn(&place, &sandbox);
    let fence = |output: &str| output.trim().parse::<u64>().unwrap();
    let before = fence(&psql(&place, &sandbox, "SELECT fence FROM SCHEMA.contender"));
    let waiter = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "echo $LOCKRUN_FENCE"], 1);
    let keeper = keeper_of(holder.pid());
    signal(holder.pid(), libc::SIGSTOP);
    signal(keeper, libc::SIGKILL);
    signal(holder.pid(), libc::SIGKILL);
    let after = waiter.wait();
    assert!(fence(&after.assert_code(0).stdout) > before, "{after:?}");
    holder.wait();
}

#[test]
fn a_step_of_the_servers_clock_takes_no_lock_from_the_living() {
    let (place, sandbox) = tables();
    let holder = place.hold_with(&sandbox, SHORT, &["-l", "calc"]);
    // As if the server's clock had been set forward by an hour since the last renewal.
    let step = "UPDATE SCHEMA.contender SET expires = expires - 3600000000, skew = skew - 3600000000 WHERE fence > 0";
    psql(&place, &sandbox, step);
    // Who enters would remove what has ended.
    place.lockrun(&sandbox, &["-t", "0.1", "-l", "calc", "--", "true"]).run().assert_code(124);
    let waiter = place.wait_in_queue(&sandbox, &["-l", "calc", "-c", "echo mine"], 1);
    let renewed = "SELECT count(*) FROM SCHEMA.contender WHERE fence > 0 AND abs(skew) < 60000000";
    eventually("the holder has renewed", || psql(&place, &sandbox, renewed) == "1");
    place.lockrun(&sandbox, &["status", "calc"]).run().assert_code(1);
    holder.release().assert_code(0).assert_silent();
    waiter.wait().assert_code(0).assert_stdout("mine\n");
}

/// Nobody renews a token's row, so all of it is up to who finds it.
#[test]
fn a_clock_that_is_set_and_set_right_again_takes_no_lock_away() {
    let (place, sandbox) = (Place::Postgres(Schema::on(Postgres::start_with_clock())), Sandbox::new());
    for (name, steps) in [("back", &[-3600, 0][..]), ("ahead", &[3600, 0, -3600, 0])] {
        let token = place.acquire(&sandbox, &["-l", name, "--expires", "600"]);
        for ahead in steps {
            place.set_clock(*ahead);
            place.lockrun(&sandbox, &["-t", "0.1", "-l", name, "--", "true"]).run().assert_code(124);
            place.lockrun(&sandbox, &["check", &token]).run().assert_code(0);
        }
    }
}

#[test]
fn a_server_that_stays_away_ends_the_command_before_its_lease_does() {
    let (sandbox, server) = (Sandbox::new(), Postgres::start());
    let holder = lockrun(&sandbox, &server.url("ttl=3"), &["-l", "calc", "-c", STUBBORN]).start();
    let holder = holder.until_says("holding");
    server.kill();
    let said = &["cannot be renewed", "lost", "could not be reached", "KILL"];
    holder.wait().assert_code(123).assert_stderr_has(said);
    lockrun(&sandbox, &server.url("connect=0.2"), &["-l", "calc", "--", "true"]).run().assert_code(69);
}

#[test]
fn settings_of_the_role_do_no_harm() {
    let (sandbox, server) = (Sandbox::new(), Postgres::start());
    let hostile = "CREATE ROLE deploy SUPERUSER LOGIN; \
        ALTER ROLE deploy SET default_transaction_read_only = on; \
        ALTER ROLE deploy SET default_transaction_isolation = serializable; \
        ALTER ROLE deploy SET synchronous_commit = off; ALTER ROLE deploy SET search_path = ''; \
        ALTER ROLE deploy SET standard_conforming_strings = off; ALTER ROLE deploy SET row_security = off; \
        ALTER ROLE deploy SET statement_timeout = '300ms'; ALTER ROLE deploy SET lock_timeout = '20ms'; \
        ALTER ROLE deploy SET idle_in_transaction_session_timeout = '5ms'; \
        ALTER ROLE deploy SET idle_session_timeout = '100ms'; ALTER ROLE deploy SET datestyle = 'SQL, DMY'";
    server.psql(&sandbox, "postgres", "SELECT 1; CREATE SCHEMA lockrun").assert_code(0);
    lockrun(&sandbox, &server.url(""), &["-l", "calc", "--", "true"]).run().assert_code(0);
    server.psql(&sandbox, "postgres", hostile).assert_code(0);
    let store = server.url("").replacen("postgres@", "deploy@", 1) + "&ttl=2";
    let holder = lockrun(&sandbox, &store, &["-l", "calc", "--", "sleep", "3"]).start();
    eventually("it holds", || lockrun(&sandbox, &store, &["status", "calc"]).run().code == Some(1));
    lockrun(&sandbox, &store, &["-l", "calc", "-c", "echo 'it''s mine'"])
        .run()
        .assert_code(0)
        .assert_stdout("its mine\n");
    holder.wait().assert_code(0).assert_silent();
}

#[test]
fn behind_a_pooler_waiters_look_once_a_second() {
    let (sandbox, server) = (Sandbox::new(), Postgres::start());
    let pooler = server.pooler(&sandbox);
    let store = format!("postgres://postgres@{}/postgres", pooler.address);
    let args = ["-l", "calc", "-c", "echo holding; exec cat"];
    let mut holder = lockrun(&sandbox, &store, &args).input("").start().until_says("holding");
    lockrun(&sandbox, &store, &["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    let waiters: Vec<_> =
        (0..5).map(|_| lockrun(&sandbox, &store, &["-v", "-l", "calc", "-c", "echo mine"]).start()).collect();
    let count = || server.psql(&sandbox, "postgres", "SELECT count(*) FROM lockrun.contender").stdout.trim().to_owned();
    eventually("all wait", || count() == "6");
    holder.close_stdin();
    holder.wait().assert_code(0).assert_silent();
    for waiter in waiters {
        waiter.wait().assert_code(0).assert_stdout("mine\n").assert_stderr_has(&["a pooler is in between"]);
    }
    assert_eq!(count(), "0");
}

#[test]
fn a_password_comes_from_where_psql_finds_it_and_is_never_shown() {
    let sandbox = Sandbox::new();
    let server = Postgres::start_with("geheim", &[]);
    let (store, run) = (server.url(""), ["-v", "-l", "calc", "--", "true"]);
    let never_shown = |outcome: &crate::support::Outcome| assert!(!outcome.stderr.contains("geheim"), "{outcome:?}");
    lockrun(&sandbox, &store, &run).run().assert_code(125).assert_stderr_has(&["password"]);
    lockrun(&sandbox, &store, &run).env("PGPASSWORD", "falsch").run().assert_code(125).assert_stderr_has(&["password"]);
    never_shown(lockrun(&sandbox, &store, &run).env("PGPASSWORD", "geheim").run().assert_code(0));
    let file = sandbox.path("work/password");
    fs::write(&file, "geheim\n").unwrap();
    lockrun(&sandbox, &format!("{store}&password-file={}", file.display()), &run).run().assert_code(0);
    let passfile = sandbox.path("work/pgpass");
    fs::write(&passfile, "*:*:*:postgres:geheim\n").unwrap();
    for (mode, code) in [(0o600, 0), (0o644, 125)] {
        fs::set_permissions(&passfile, fs::Permissions::from_mode(mode)).unwrap();
        lockrun(&sandbox, &store, &run).env("PGPASSFILE", &passfile).run().assert_code(code);
    }
    let given = store.replacen("postgres@", "postgres:geheim@", 1);
    never_shown(lockrun(&sandbox, &given, &run).run().assert_code(0));
    let shown = lockrun(&sandbox, "file:", &["--store", &given, "-l", "calc", "--", "true"]).run();
    never_shown(shown.assert_code(125).assert_one_line(&["password-file"]));
}

#[test]
fn tls_proves_who_the_server_is_if_there_is_an_authority() {
    let sandbox = Sandbox::new();
    let authority = Authority::in_directory(&sandbox, "tls");
    let other = Authority::in_directory(&sandbox, "other");
    let [cert, key] = Postgres::certificate(&sandbox, &authority);
    let server = Postgres::start_with("", &["ssl=on", &cert, &key]);
    let run = |parameters: &str| lockrun(&sandbox, &server.url(parameters), &["-l", "calc", "--", "true"]).run();
    run("sslmode=require").assert_code(0).assert_silent();
    let encrypted = "SELECT count(*) FROM pg_stat_ssl WHERE ssl AND pid <> pg_backend_pid()";
    let args = ["-l", "calc", "-c", "echo holding; exec cat"];
    let mut holder = lockrun(&sandbox, &server.url("sslmode=require"), &args).input("").start().until_says("holding");
    assert_eq!(server.psql(&sandbox, "postgres", encrypted).stdout.trim(), "1");
    holder.close_stdin();
    holder.wait().assert_code(0);
    // The certificate is for localhost, not for the address.
    let cacert = format!("cacert={}", authority.cert().display());
    run(&cacert).assert_code(125).assert_stderr_has(&["certificate is not for"]);
    run(&format!("cacert={}", other.cert().display())).assert_code(125).assert_stderr_has(&["not signed by"]);
    let plain = Postgres::start();
    let refused = lockrun(&sandbox, &plain.url("sslmode=require"), &["-l", "calc", "--", "true"]).run();
    refused.assert_code(125).assert_stderr_has(&["the server has no TLS"]);
}

#[test]
fn another_store_at_the_same_address_is_no_answer() {
    let (place, sandbox) = tables();
    let holder = stubborn(&place, &sandbox);
    psql(&place, &sandbox, "UPDATE SCHEMA.store SET id = 'other'");
    let said = &["cannot be renewed", "belongs to another store", "KILL"];
    holder.wait().assert_code(123).assert_stderr_has(said);
    psql(&place, &sandbox, "UPDATE SCHEMA.store SET format = 2");
    let newer = place.lockrun(&sandbox, &["-l", "calc", "--", "true"]).run();
    newer.assert_code(125).assert_one_line(&["a newer lockrun made the tables", "format 2"]);
}

#[test]
fn fences_rise_on_after_a_name_was_pruned() {
    let (place, sandbox) = tables();
    let fence = || place.lockrun(&sandbox, &["-l", "calc", "-c", "echo $LOCKRUN_FENCE"]).run();
    let first: u64 = fence().assert_code(0).stdout.trim().parse().unwrap();
    place.lockrun(&sandbox, &["prune"]).run().assert_code(0);
    assert_eq!(psql(&place, &sandbox, "SELECT count(*) FROM SCHEMA.lock WHERE name <> ''"), "0");
    // As if the server's clock had been an hour ahead.
    psql(&place, &sandbox, "UPDATE SCHEMA.lock SET seq = seq + 3600000000");
    let next: u64 = fence().assert_code(0).stdout.trim().parse().unwrap();
    assert!(next > first + 3_600_000_000, "{first} {next}");
}

#[test]
fn nothing_is_left_of_a_killed_wrapper_and_its_command() {
    let (place, sandbox) = tables();
    let holder = stubborn(&place, &sandbox);
    let command = psql(&place, &sandbox, "SELECT convert_from(note, 'UTF8')::json->>'pid' FROM SCHEMA.contender");
    assert_eq!(command, holder.pid().to_string());
    signal(holder.pid(), libc::SIGKILL);
    // The command lives, and so does its lock.
    place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().assert_code(75);
    place.lockrun(&sandbox, &["break", "--kill-after", "0.1", "calc"]).run();
    eventually("the lock is free", || {
        place.lockrun(&sandbox, &["-n", "-l", "calc", "--", "true"]).run().code == Some(0)
    });
    assert!(!is_alive(holder.pid()));
    holder.wait();
}
