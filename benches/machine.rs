//! The head of the report: when, where and with which versions.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::SystemTime;

use crate::Bench;

pub fn heading(bench: &Bench, quick: bool) -> anyhow::Result<String> {
    let mut machine = String::new();
    let mut entry = |what: &str, value: String| machine += &format!("- {what}: {value}\n");
    let uname = rustix::system::uname();
    entry("date", humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
    entry("CPU", cpu_model());
    entry("cores", thread::available_parallelism()?.to_string());
    entry(
        "kernel",
        format!(
            "{} {} {}",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy(),
            uname.machine().to_string_lossy()
        ),
    );
    entry("load before", load());
    entry("locale", locale());
    entry("locks lie on", file_system(bench.scratch.path()));
    for (peer, version) in bench.peers.versions() {
        entry(peer, version);
    }
    entry("C programs", first_line("cc", &["--version"]));

    let mut heading = format!("# lockrun beside its peers\n\n{machine}");
    if quick {
        heading += "\nA quick run: too few samples to quote.\n";
    }
    for remark in bench.peers.remarks() {
        heading += &format!("\n{remark}\n");
    }
    Ok(heading)
}

fn cpu_model() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(|| "unknown".into(), |(_, model)| model.to_string())
}

/// Figures from a busy machine deserve suspicion, so the report admits it.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_string()
}

/// What setlocale(3) goes by. flock(1) calls it, and opens a dozen files if
/// there is such a locale; so this decides what the comparison with it shows.
fn locale() -> String {
    ["LC_ALL", "LANG"]
        .into_iter()
        .find_map(|name| Some((name, env::var(name).ok().filter(|value| !value.is_empty())?)))
        .map_or_else(|| "none".into(), |(name, value)| format!("{name}={value}"))
}

fn file_system(directory: &Path) -> String {
    let directory = directory.to_string_lossy();
    first_line("stat", &["-f", "-c", "%T", &directory])
}

/// The first line that a program prints on standard output.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .and_then(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Some(text.lines().next()?.to_string())
        })
        .unwrap_or_else(|| "unknown".into())
}
