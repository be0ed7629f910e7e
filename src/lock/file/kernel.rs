//! What the kernel shows about locks: `/proc/locks` for all of them at once,
//! `/proc/PID/fdinfo` for those of one process.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Dir, Mode, OFlags, open, openat};
use rustix::io::Errno;

use crate::sys;

/// A file as the kernel names it beside a lock. On some file systems (btrfs,
/// overlayfs) these are not the numbers that stat(2) returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    major: u32,
    minor: u32,
    inode: u64,
}

impl FileId {
    /// A file beside this one: on the same file system, with this inode.
    pub fn beside(self, inode: u64) -> Self {
        Self { inode, ..self }
    }

    /// From the device number that stat(2) returns, where the file itself is
    /// out of reach.
    pub fn of_device(device: u64, inode: u64) -> Self {
        Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device), inode }
    }

    /// From `fe:00:99`: device in hexadecimal, inode in decimal.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let hexadecimal = |part: &str| u32::from_str_radix(part, 16).ok();
        let id = Self {
            major: hexadecimal(parts.next()?)?,
            minor: hexadecimal(parts.next()?)?,
            inode: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

/// One lock by flock(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locker {
    /// The process that called flock(2): perhaps dead, and 0 if it is in
    /// another pid namespace.
    pub pid: i32,
    /// A shared lock.
    pub shared: bool,
}

/// The locks of this machine at one moment, and what was asked about
/// processes since, each once.
pub struct Kernel {
    lockers: BTreeMap<FileId, Vec<Locker>>,
    queues: BTreeSet<FileId>,
    shows_everybody: bool,
    complete: bool,
    devices: OnceCell<Devices>,
    processes: RefCell<BTreeMap<i32, Option<Rc<Locks>>>>,
}

/// A process's locks.
type Locks = BTreeMap<FileId, Vec<Locker>>;

/// `/proc/self/ns/pid` in the first pid namespace: PROC_PID_INIT_INO of
/// linux/proc_ns.h.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A text of this size came in one piece: the kernel gives a page at a time,
/// and a line has not half as much as is left.
const ONE_PIECE: usize = 3500;
/// So many more times the locks are read that do not come in one piece.
const LOOKS: usize = 3;

impl Kernel {
    /// Reads `/proc/locks`; without it, nothing is known and nothing certain.
    pub fn look() -> Self {
        let is_first = fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name.as_os_str() == FIRST_PID_NAMESPACE);
        let mut kernel = Self {
            lockers: BTreeMap::new(),
            queues: BTreeSet::new(),
            shows_everybody: is_first,
            complete: is_first,
            devices: OnceCell::new(),
            processes: RefCell::new(BTreeMap::new()),
        };
        // Between two pages the list may have moved, and a line with it from
        // the next page to the last one. A second look tells of the rare
        // case that a single page had a successor that just went away.
        for _ in 0..2 {
            match kernel.read_locks() {
                Ok(true) => {}
                Ok(false) => kernel.complete = false,
                Err(_) => {
                    kernel.complete = false;
                    kernel.shows_everybody = false;
                }
            }
            if !kernel.complete {
                break;
            }
        }
        kernel
    }

    /// As [`look`](Self::look). Where the locks do not come in one piece, looks
    /// again and again: that one is missing each time takes several processes
    /// that let go in the wrong microseconds.
    pub fn look_thoroughly() -> Self {
        let mut kernel = Self::look();
        if !kernel.complete && kernel.shows_everybody {
            for _ in 0..LOOKS {
                let _ = kernel.read_locks();
            }
        }
        kernel
    }

    /// Whether the locks of all processes are shown. See
    /// [`look_thoroughly`](Self::look_thoroughly) on what may be missing still.
    pub fn shows_everybody(&self) -> bool {
        self.shows_everybody
    }

    /// Whether what is not in [`lockers`](Self::lockers) is not locked, on a
    /// file system of this machine. Elsewhere the kernel hides locks: of
    /// processes in other pid namespaces, and of dead ones.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Adds what is locked now. Returns whether it came in one piece.
    fn read_locks(&mut self) -> io::Result<bool> {
        let mut file = File::open("/proc/locks")?;
        let mut text = Vec::new();
        let mut page = vec![0; 1 << 16];
        let mut pages = 0;
        loop {
            match file.read(&mut page) {
                Ok(0) => break,
                Ok(length) => text.extend_from_slice(&page[..length]),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            pages += 1;
        }
        for line in String::from_utf8_lossy(&text).lines() {
            match parse(line) {
                Some(KernelLock::Flock(file, locker)) => {
                    let lockers = self.lockers.entry(file).or_default();
                    if !lockers.contains(&locker) {
                        lockers.push(locker);
                    }
                }
                Some(KernelLock::Bytes { file, .. }) => {
                    self.queues.insert(file);
                }
                None => {}
            }
        }
        Ok(pages <= 1 && text.len() <= ONE_PIECE)
    }

    /// Who locked a file by flock(2), as far as it is shown.
    pub fn lockers(&self, file: FileId) -> &[Locker] {
        self.lockers.get(&file).map_or(&[], Vec::as_slice)
    }

    /// Whether somebody has byte-range locks on the file: a queue, perhaps.
    pub fn has_queue(&self, file: FileId) -> bool {
        self.queues.contains(&file)
    }

    /// How the kernel names an open file.
    pub fn id_of(&self, file: impl AsFd) -> Option<FileId> {
        id_of(file, self.devices.get_or_init(devices))
    }

    /// The locks whose description this process has open; `None` if we may
    /// not look, empty if it is dead.
    pub fn locks_of(&self, pid: i32) -> Option<Rc<Locks>> {
        self.processes.borrow_mut().entry(pid).or_insert_with(|| locks_of(pid).map(Rc::new)).clone()
    }

    /// The processes that have a locked description of the file open, and who
    /// locked it; not ourselves.
    pub fn inheritors(&self, file: FileId) -> Vec<(i32, Locker)> {
        let mut inheritors = Vec::new();
        for pid in processes() {
            let locks = self.locks_of(pid).unwrap_or_default();
            inheritors.extend(locks.get(&file).into_iter().flatten().map(|locker| (pid, *locker)));
        }
        inheritors
    }
}

/// Every process that /proc shows but ourselves.
pub fn processes() -> Vec<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut pids = sys::numbers_in("/proc");
    pids.retain(|pid| *pid != own);
    pids.sort_unstable();
    pids
}

impl FileId {
    /// How the kernel names an open file.
    pub fn of(file: impl AsFd) -> Option<Self> {
        id_of(file, &devices())
    }
}

fn id_of(file: impl AsFd, devices: &Devices) -> Option<FileId> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd())).ok()?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let inode = match field("ino:") {
        Some(inode) => inode.parse().ok()?,
        // Linux before 5.14.
        None => rustix::fs::fstat(&file).ok()?.st_ino,
    };
    let (major, minor) = *devices.get(field("mnt_id:")?)?;
    Some(FileId { major, minor, inode })
}

/// Who locked this open file of ours by flock(2), if the kernel shows that it is
/// locked.
pub fn locker_of(file: &File) -> Option<Locker> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| match parse(line.strip_prefix("lock:")?)? {
        KernelLock::Flock(_, locker) => Some(locker),
        KernelLock::Bytes { .. } => None,
    })
}

fn locks_of(pid: i32) -> Option<Locks> {
    let mut locks = Locks::new();
    for line in descriptors_of(pid)?.into_iter().flat_map(|descriptor| descriptor.locks) {
        if let KernelLock::Flock(file, locker) = line {
            locks.entry(file).or_default().push(locker);
        }
    }
    Some(locks)
}

/// What the kernel shows about a descriptor of a process.
#[derive(Debug)]
pub struct Descriptor {
    /// Where /proc has what it refers to.
    pub path: PathBuf,
    /// The locks of its description.
    pub locks: Vec<KernelLock>,
    /// The process that it refers to, if it is a pidfd.
    pub process: Option<i32>,
    /// The event that it refers to, if it is an eventfd: a number that no other
    /// one has.
    pub event: Option<u64>,
    /// The process did not inherit it when it was executed.
    pub closes_on_exec: bool,
}

/// The descriptors of a process, as they are now; `None` if we may not look,
/// empty if it is dead.
pub fn descriptors_of(pid: i32) -> Option<Vec<Descriptor>> {
    let directory = Path::new("/proc").join(pid.to_string()).join("fd");
    let mut seen = Vec::new();
    match each_descriptor(pid, |name, info| {
        let info = String::from_utf8_lossy(info);
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
        seen.push(Descriptor {
            path: directory.join(OsStr::from_bytes(name)),
            locks: info.lines().filter_map(|line| parse(line.strip_prefix("lock:")?)).collect(),
            process: field("Pid:").and_then(|pid| pid.parse().ok()),
            event: field("eventfd-id:").and_then(|id| id.parse().ok()),
            closes_on_exec: flags.is_some_and(|flags| flags & OFlags::CLOEXEC.bits() != 0),
        });
    }) {
        Err(Errno::ACCESS | Errno::PERM) => None,
        // It has ended.
        _ => Some(seen),
    }
}

/// What the kernel tells about each of a process's descriptors, with its
/// number. There may be thousands: with as few system calls as it takes.
fn each_descriptor(pid: i32, mut tell: impl FnMut(&[u8], &[u8])) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = open(format!("/proc/{pid}/fdinfo"), flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut info = vec![0; 1 << 14];
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        // The text of one descriptor comes in one piece.
        let file = openat(&directory, entry.file_name(), flags, Mode::empty());
        match file.and_then(|file| rustix::io::read(&file, &mut info)) {
            Ok(length) => tell(entry.file_name().to_bytes(), &info[..length]),
            Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(error),
            // Closed meanwhile, or the directory itself.
            Err(_) => {}
        }
    }
    Ok(())
}

/// The devices of mounts, by the mounts' numbers.
type Devices = BTreeMap<String, (u32, u32)>;

fn devices() -> Devices {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let device = |line: &str| {
        let mut fields = line.split(' ');
        let mount = fields.next()?.to_owned();
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        Some((mount, (major.parse().ok()?, minor.parse().ok()?)))
    };
    String::from_utf8_lossy(&mounts).lines().filter_map(device).collect()
}

/// A lock that somebody has.
#[derive(Debug, PartialEq)]
pub enum KernelLock {
    /// By flock(2).
    Flock(FileId, Locker),
    /// On these bytes, `last` included.
    Bytes { file: FileId, first: i64, last: i64 },
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF`; one of
/// somebody who waits has an arrow behind its number and says nothing here.
fn parse(line: &str) -> Option<KernelLock> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let kind = fields.next()?;
    let mode = fields.nth(1)?;
    let pid = fields.next()?.parse().ok()?;
    let file = FileId::parse(fields.next()?)?;
    match kind {
        "FLOCK" => Some(KernelLock::Flock(file, Locker { pid, shared: mode == "READ" })),
        "OFDLCK" => Some(KernelLock::Bytes {
            file,
            first: fields.next()?.parse().ok()?,
            last: fields.next().map_or(i64::MAX, |last| last.parse().unwrap_or(i64::MAX)),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_told_from_those_who_wait() {
        let file = FileId { major: 0xfe, minor: 0, inode: 99 };
        let flock = |pid, shared| Some(KernelLock::Flock(file, Locker { pid, shared }));
        assert_eq!(parse("1: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF"), flock(42, false));
        assert_eq!(parse("\t1: FLOCK  ADVISORY  READ  0 fe:00:99 0 EOF"), flock(0, true));
        assert_eq!(parse("1: -> FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF"), None);
        assert_eq!(
            parse("1: OFDLCK ADVISORY  WRITE -1 fe:00:99 0 0"),
            Some(KernelLock::Bytes { file, first: 0, last: 0 })
        );
        assert_eq!(parse("1: POSIX  ADVISORY  WRITE 42 fe:00:99 0 EOF"), None);
        assert_eq!(parse("1: FLOCK  ADVISORY  WRITE 42 <none>:0 0 EOF"), None);
        assert_eq!(parse(""), None);
    }
}
