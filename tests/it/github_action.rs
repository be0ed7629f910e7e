//! The GitHub action: its two scripts under node, with this process as the runner.
//! What only GitHub can show is left to it: that action.yml is read, and that the post
//! step runs in a job that has failed.

use crate::support::{Invocation, Outcome, Sandbox, eventually, is_held, packages};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

/// Files that a script appends to and the runner reads after the step.
const FILES: [&str; 4] = ["GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE"];

#[test]
fn it_installs_the_release_that_it_downloads() {
    let sandbox = Sandbox::new();
    packages(&sandbox, &["dist"]);
    let from = serve(sandbox.path("packages"));
    main(&sandbox, &[("from", &from)]).run().assert_code(0).assert_stdout("");
    let directory = told(&sandbox, "GITHUB_PATH");
    let program = Path::new(directory.trim()).join("lockrun");
    sandbox.command(&program, &["-l", "calc", "--", "echo", "it runs"]).run().assert_code(0).assert_stdout("it runs\n");
    assert_eq!(told(&sandbox, "GITHUB_OUTPUT"), format!("program={}\n", program.display()));
    assert_eq!(told(&sandbox, "GITHUB_STATE"), "");
    post(&sandbox).assert_code(0).assert_stdout("");

    let missing = main(&sandbox, &[("from", &from), ("version", "9.9.9")]).run();
    assert_error(&missing, "lockrun-9.9.9-");
    assert_error(&missing, "404");
}

#[test]
fn it_does_not_install_what_has_another_checksum() {
    let sandbox = Sandbox::new();
    let made = packages(&sandbox, &["dist"]);
    let [sums, tarball] = &made[..] else { panic!("{made:?}") };
    let from = sandbox.path("packages");
    let from = [("from", from.to_str().unwrap())];
    let mut content = fs::read(tarball).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(tarball, content).unwrap();
    assert_error(&main(&sandbox, &from).run(), "is not the file that SHA256SUMS describes");
    fs::write(sums, "").unwrap();
    assert_error(&main(&sandbox, &from).run(), "SHA256SUMS does not name");
    assert_eq!(told(&sandbox, "GITHUB_PATH"), "");
    assert_eq!(fs::read_dir(sandbox.path("work/temp")).unwrap().count(), 0);
}

#[test]
fn it_holds_a_lock_until_its_post_step() {
    let sandbox = Sandbox::new();
    let outcome = lock(&sandbox, &[]).run();
    let token = told(&sandbox, "GITHUB_ENV").trim().strip_prefix("LOCKRUN_TOKEN=").unwrap().to_owned();
    outcome.assert_code(0).assert_silent().assert_stdout(&format!("::add-mask::{token}\n"));
    assert!(is_held(&sandbox.lock_file("calc")));
    sandbox.check(&token).assert_code(0);
    post(&sandbox).assert_code(0).assert_silent().assert_stdout("");
    sandbox.assert_free("calc");
}

#[test]
fn a_lock_that_it_cannot_have_fails_the_job() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let busy = lock(&sandbox, &[("timeout", "0")]).run();
    busy.assert_code(75).assert_stderr_has(&["calc: busy"]);
    assert!(busy.stdout.contains("::error title=lockrun::the lock calc was not taken (exit code 75)"), "{busy:?}");
    assert_eq!(told(&sandbox, "GITHUB_STATE"), "");
    post(&sandbox).assert_code(0).assert_stdout("");
    assert!(is_held(&sandbox.lock_file("calc")));
    holder.release();
}

#[test]
fn a_lock_that_was_lost_fails_the_job_at_its_end() {
    let sandbox = Sandbox::new();
    lock(&sandbox, &[]).run().assert_code(0);
    sandbox.lockrun(&["break", "calc"]).run().assert_code(0);
    assert_error(&post(&sandbox), "the lock was lost before the job ended");
}

#[test]
fn it_ends_with_the_runner() {
    let sandbox = Sandbox::new();
    let script = "node \"$ACTION/main.js\"; lockrun status calc; echo \"status $?\"";
    let program = sandbox.path("bin/lockrun");
    let inputs = [("name", "calc"), ("program", program.to_str().unwrap())];
    let outcome = in_a_job(&sandbox, sandbox.sh(script), &inputs).run();
    assert!(outcome.assert_code(0).stdout.ends_with("status 1\n"), "{outcome:?}");
    eventually("the lock is free", || !is_held(&sandbox.lock_file("calc")));
}

#[test]
fn a_job_that_is_cancelled_leaves_the_queue() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["-l", "calc"]);
    let waiting = lock(&sandbox, &[]).start();
    let waiters = || sandbox.list(&["calc"])[0]["waiting"].as_u64().unwrap();
    eventually("it waits", || waiters() == 1);
    waiting.signal(libc::SIGINT);
    let cancelled = waiting.wait();
    assert_error(&cancelled, "the lock calc was not taken (SIGINT)");
    eventually("nobody waits", || waiters() == 0);
    holder.release();
    sandbox.assert_free("calc");
}

#[test]
fn its_description_names_what_the_scripts_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let description = fs::read_to_string(root.join("action.yml")).unwrap();
    let inputs = description.split_once("inputs:\n").unwrap().1.split_once("outputs:\n").unwrap().0;
    let mut declared: Vec<_> = inputs.lines().filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':')).collect();
    declared.retain(|line| !line.starts_with(' '));
    let script = fs::read_to_string(root.join("action/main.js")).unwrap();
    for name in &declared {
        assert!(script.contains(&format!("\"{name}\"")), "main.js does not read {name}");
    }
    for line in ["using: node20", "main: action/main.js", "post: action/post.js"] {
        assert!(description.contains(&format!("  {line}\n")), "{line}");
    }
    assert!(declared.contains(&"name"), "{declared:?}");
}

/// A step that takes the lock `calc` with the program under test.
fn lock(sandbox: &Sandbox, inputs: &[(&str, &str)]) -> Invocation {
    let program = sandbox.path("bin/lockrun");
    main(sandbox, &[&[("name", "calc"), ("program", program.to_str().unwrap())], inputs].concat())
}

fn main(sandbox: &Sandbox, inputs: &[(&str, &str)]) -> Invocation {
    in_a_job(sandbox, sandbox.command("node", &[action("main.js")]), inputs)
}

/// The post step, with what the runner has kept of the first.
#[track_caller]
fn post(sandbox: &Sandbox) -> Outcome {
    let mut step = in_a_job(sandbox, sandbox.command("node", &[action("post.js")]), &[]);
    for line in told(sandbox, "GITHUB_STATE").lines() {
        let (name, value) = line.split_once('=').unwrap();
        step = step.env(&format!("STATE_{name}"), value);
    }
    step.run()
}

fn in_a_job(sandbox: &Sandbox, mut step: Invocation, inputs: &[(&str, &str)]) -> Invocation {
    for name in FILES {
        step = step.env(name, sandbox.path(&format!("work/{name}")));
    }
    step = step.env("RUNNER_TEMP", sandbox.make_dir("work/temp", 0o755)).env("CI", "true");
    step = step.env("ACTION", action(""));
    for (name, value) in inputs {
        step = step.env(&format!("INPUT_{}", name.to_uppercase()), value);
    }
    step
}

fn action(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("action").join(script)
}

/// What the scripts have appended to this file.
fn told(sandbox: &Sandbox, name: &str) -> String {
    fs::read_to_string(sandbox.path(&format!("work/{name}"))).unwrap_or_default()
}

#[track_caller]
fn assert_error(outcome: &Outcome, text: &str) {
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    let error = outcome.stdout.lines().find(|line| line.starts_with("::error title=lockrun::"));
    assert!(error.is_some_and(|line| line.contains(text)), "{text}: {outcome:?}");
}

/// A web server for these files, as long as the tests run; its address.
fn serve(directory: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else {
                continue;
            };
            let (status, body) = match fs::read(directory.join(path.trim_start_matches('/'))) {
                Ok(content) => ("200 OK", content),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    format!("http://{address}")
}
