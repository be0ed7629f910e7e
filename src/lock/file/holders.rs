//! Who holds a lock: what the kernel shows, and the lock's text only where
//! the kernel agrees with it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use super::Target;
use super::dir::{Dir, open_at};
use crate::lock::Holder;
use crate::name;
use crate::record::{self, Record};
use crate::users;

/// Everybody who is seen to hold a lock by flock(2). Nothing is made or
/// locked to find out. Empty if the lock is free, or if nobody who holds it
/// can be seen from here (another pid namespace, another user's process whose
/// locker is dead).
pub fn of(dir: &Dir, target: &Target) -> Vec<Holder> {
    let reading = |name: &str| open_at(dir, name, OFlags::RDONLY, Mode::empty());
    let (lock, text) = match target {
        Target::Name(name) => {
            let lock = reading(&(name::stem(name) + ".lock"));
            (lock, None)
        }
        Target::Path(path) => {
            let lock = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            let text = lock.as_ref().ok().and_then(|lock| {
                let lock = rustix::fs::fstat(lock).ok()?;
                reading(&(name::path_stem(lock.st_dev, lock.st_ino) + ".gate")).ok()
            });
            (lock, text)
        }
    };
    let Ok(lock) = lock.map(File::from) else { return Vec::new() };
    let text = text.map(File::from);
    find(&lock, record::read(text.as_ref().unwrap_or(&lock)).record())
}

/// A file as the kernel names it beside a lock.
pub fn file_id(file: &File) -> Option<String> {
    let stat = rustix::fs::fstat(file).ok()?;
    let device = device_of(file)
        .unwrap_or_else(|| format!("{:02x}:{:02x}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)));
    Some(format!("{device}:{}", stat.st_ino))
}

fn find(file: &File, record: Option<Record>) -> Vec<Holder> {
    let Some(file_id) = file_id(file) else { return Vec::new() };
    let mut pids = lockers(&file_id);
    if pids.is_empty() {
        // The process that called flock(2) is gone, but one that inherited
        // the lock from it has it still.
        pids = with_lock(&file_id, "FLOCK");
    }
    let now = SystemTime::now();
    pids.into_iter()
        .map(|pid| match &record {
            Some(record) if record.pid == pid => Holder {
                pid: Some(pid),
                command: Some(record.command.clone()),
                user: Some(record.user.clone()),
                age: record.age(now),
                expires: record.expires.clone(),
                owner: record.owner,
            },
            _ => Holder { pid: Some(pid), command: command_of(pid), user: user_of(pid), ..Holder::default() },
        })
        .collect()
}

/// The device as the kernel prints it beside a lock, which on some file
/// systems (btrfs, overlayfs) is not the one that stat(2) returns.
fn device_of(file: &File) -> Option<String> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(&mount))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some(format!("{:02x}:{:02x}", major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
}

/// The processes that locked the file, from /proc/locks, which shows only
/// those that live and are in our pid namespace.
fn lockers(file_id: &str) -> Vec<i32> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut pids: Vec<i32> = locks.lines().filter_map(|line| holder_in(line, "FLOCK", file_id)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The processes that have a description of the file open that is locked in
/// this way (`FLOCK`, `OFDLCK`), as far as we may look; not ourselves.
pub fn with_lock(file_id: &str, kind: &str) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let own = rustix::process::getpid().as_raw_nonzero().get();
    pids.filter(|&pid| pid != own && with_lock_in(pid, file_id, kind)).collect()
}

/// Whether a process is seen to hold this file by flock(2).
pub fn has_lock(pid: i32, file: &File) -> bool {
    file_id(file).is_some_and(|file_id| with_lock_in(pid, &file_id, "FLOCK"))
}

/// Whether one process has one.
pub fn with_lock_in(pid: i32, file_id: &str, kind: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    descriptors.filter_map(Result::ok).any(|descriptor| {
        fs::read_to_string(descriptor.path()).is_ok_and(|info| {
            info.lines()
                .filter_map(|line| line.strip_prefix("lock:"))
                .any(|line| holder_in(line.trim(), kind, file_id).is_some())
        })
    })
}

/// The process in a line such as `1: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF`,
/// if it is about this file; waiting ones have an arrow behind their number.
fn holder_in(line: &str, kind: &str, file_id: &str) -> Option<i32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let [locked, _, _, pid, file] = [(); 5].map(|()| fields.next());
    (locked == Some(kind) && file == Some(file_id)).then(|| pid?.parse().ok()).flatten()
}

fn command_of(pid: i32) -> Option<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|words| !words.is_empty())?;
    let words = words.strip_suffix(&[0]).unwrap_or(&words);
    Some(String::from_utf8_lossy(words).replace('\0', " "))
}

fn user_of(pid: i32) -> Option<String> {
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    Some(users::name_of(uid).unwrap_or_else(|| uid.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_holders_of_this_file_are_found_in_a_line() {
        let id = "fe:00:99";
        assert_eq!(holder_in("1: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF", "FLOCK", id), Some(42));
        assert_eq!(holder_in("1: -> FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF", "FLOCK", id), None);
        assert_eq!(holder_in("1: OFDLCK ADVISORY  WRITE -1 fe:00:99 0 EOF", "FLOCK", id), None);
        assert_eq!(holder_in("1: FLOCK  ADVISORY  WRITE 42 fe:00:9 0 EOF", "FLOCK", id), None);
        assert_eq!(holder_in("", "FLOCK", id), None);
    }
}
