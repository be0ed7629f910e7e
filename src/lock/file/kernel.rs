//! Locks as the kernel shows them: `/proc/locks` for the whole machine,
//! `/proc/PID/fdinfo` for one process.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, RawDir, open, openat};
use rustix::io::Errno;

use crate::sys;

/// A file as `/proc/locks` names it. On some file systems (btrfs, overlayfs) these
/// numbers differ from those of stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    major: u32,
    minor: u32,
    inode: u64,
}

impl FileId {
    /// A file with this inode on the same file system.
    pub fn beside(self, inode: u64) -> Self {
        Self { inode, ..self }
    }

    /// From the device number of stat(2), for a file that cannot be opened.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locker {
    /// The process that called flock(2): perhaps dead, and 0 if it is in
    /// another pid namespace.
    pub pid: i32,
    /// Shared, not exclusive.
    pub shared: bool,
}

/// A snapshot of the machine's locks, with a cache of what was asked about processes.
pub struct Kernel {
    lockers: BTreeMap<FileId, Vec<Locker>>,
    queues: BTreeSet<FileId>,
    shows_everybody: bool,
    complete: bool,
    devices: OnceCell<Devices>,
    processes: RefCell<BTreeMap<i32, Option<Rc<Locks>>>>,
}

type Locks = BTreeMap<FileId, Vec<Locker>>;

/// `/proc/self/ns/pid` in the first pid namespace: PROC_PID_INIT_INO in
/// linux/proc_ns.h.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A text of at most this size was read in one piece: the kernel returns a page at a
/// time, and no line is longer than the remainder.
const ONE_PIECE: usize = 3500;
/// How often a text is read again that did not come in one piece.
const LOOKS: usize = 3;

impl Kernel {
    /// Reads `/proc/locks`. Without it, no lock is known and nothing is certain.
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
        // Between two pages the list can move, and a line can go from the next page to
        // the previous one unseen. A second read detects a page whose successor just
        // vanished.
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

    /// As [`look`](Self::look), and reads a list that is longer than one piece several
    /// times. To be missed every time, a lock needs several processes that release
    /// others in the wrong microseconds.
    pub fn look_thoroughly() -> Self {
        let mut kernel = Self::look();
        if !kernel.complete && kernel.shows_everybody {
            for _ in 0..LOOKS {
                let _ = kernel.read_locks();
            }
        }
        kernel
    }

    /// Whether the locks of all processes are visible, with the caveat of
    /// [`look_thoroughly`](Self::look_thoroughly).
    pub fn shows_everybody(&self) -> bool {
        self.shows_everybody
    }

    /// Whether a local file that is not in [`lockers`](Self::lockers) is not locked.
    /// Outside of the first pid namespace the kernel hides locks of other namespaces
    /// and of dead processes.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Adds the current locks. Returns whether they came in one piece.
    fn read_locks(&mut self) -> io::Result<bool> {
        let file = File::open("/proc/locks")?;
        let mut text = Vec::new();
        let mut pages = 0;
        loop {
            text.reserve(1 << 16);
            match rustix::io::read(&file, spare_capacity(&mut text)) {
                Ok(0) => break,
                Ok(_) => pages += 1,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
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

    /// The visible locks on a file by flock(2).
    pub fn lockers(&self, file: FileId) -> &[Locker] {
        self.lockers.get(&file).map_or(&[], Vec::as_slice)
    }

    /// Whether the file has byte-range locks: perhaps a queue.
    pub fn has_queue(&self, file: FileId) -> bool {
        self.queues.contains(&file)
    }

    /// The kernel's name for an open file.
    pub fn id_of(&self, file: impl AsFd) -> Option<FileId> {
        id_of(file, self.devices.get_or_init(devices))
    }

    /// The locks whose description this process has open; `None` if permission is
    /// missing, empty if it is dead.
    pub fn locks_of(&self, pid: i32) -> Option<Rc<Locks>> {
        self.processes.borrow_mut().entry(pid).or_insert_with(|| locks_of(pid).map(Rc::new)).clone()
    }

    /// The other processes that have a locked description of the file open, and which
    /// process locked it.
    pub fn inheritors(&self, file: FileId) -> Vec<(i32, Locker)> {
        let mut inheritors = Vec::new();
        for pid in processes() {
            let locks = self.locks_of(pid).unwrap_or_default();
            inheritors.extend(locks.get(&file).into_iter().flatten().map(|locker| (pid, *locker)));
        }
        inheritors
    }
}

/// All visible processes but this one.
pub fn processes() -> Vec<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut pids = sys::numbers_in("/proc");
    pids.retain(|pid| *pid != own);
    pids.sort_unstable();
    pids
}

impl FileId {
    /// The kernel's name for an open file.
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

/// The process that locked this file, if the kernel shows one.
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

/// A descriptor of a process, as the kernel shows it.
#[derive(Debug)]
pub struct Descriptor {
    pub path: PathBuf,
    pub locks: Vec<KernelLock>,
    /// For a pidfd, its process.
    pub process: Option<i32>,
    /// For an eventfd, the number that identifies it.
    pub event: Option<u64>,
    /// Close-on-exec: the process opened it itself.
    pub closes_on_exec: bool,
    /// `O_NONBLOCK`, which lockrun opens every lock with, and shells never do.
    pub nonblocking: bool,
}

/// The current descriptors of a process; `None` if permission is missing, empty if it
/// is dead.
pub fn descriptors_of(pid: i32) -> Option<Vec<Descriptor>> {
    let directory = Path::new("/proc").join(pid.to_string()).join("fd");
    let mut seen = Vec::new();
    match each_descriptor(pid, |name, info| {
        let info = String::from_utf8_lossy(info);
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
        let has = |flag: OFlags| flags.is_some_and(|flags| flags & flag.bits() != 0);
        seen.push(Descriptor {
            path: directory.join(OsStr::from_bytes(name)),
            locks: info.lines().filter_map(|line| parse(line.strip_prefix("lock:")?)).collect(),
            process: field("Pid:").and_then(|pid| pid.parse().ok()),
            event: field("eventfd-id:").and_then(|id| id.parse().ok()),
            closes_on_exec: has(OFlags::CLOEXEC),
            nonblocking: has(OFlags::NONBLOCK),
        });
    }) {
        Err(Errno::ACCESS | Errno::PERM) => None,
        _ => Some(seen),
    }
}

/// Passes the number and fdinfo text of each descriptor to `tell`. A process may have
/// thousands, so it uses few system calls.
fn each_descriptor(pid: i32, mut tell: impl FnMut(&[u8], &[u8])) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = open(format!("/proc/{pid}/fdinfo"), flags | OFlags::DIRECTORY, Mode::empty())?;
    // Small and not zeroed, because a waiter keeps the pages that it has touched.
    let mut names = [const { MaybeUninit::uninit() }; 1024];
    let mut info = Vec::with_capacity(1024);
    let mut entries = RawDir::new(&directory, &mut names);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let file = openat(&directory, entry.file_name(), flags, Mode::empty());
        match file.and_then(|file| read_at_once(&file, &mut info)) {
            Ok(()) => tell(entry.file_name().to_bytes(), &info),
            Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(error),
            // Closed in the meantime, or the directory itself.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Reads what the kernel formatted at the first call, however much it is.
fn read_at_once(file: impl AsFd, text: &mut Vec<u8>) -> rustix::io::Result<()> {
    text.clear();
    loop {
        text.reserve(1);
        rustix::io::read(&file, spare_capacity(text))?;
        if text.len() < text.capacity() {
            return Ok(());
        }
    }
}

/// Devices by mount number.
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

#[derive(Debug, PartialEq)]
pub enum KernelLock {
    Flock(FileId, Locker),
    /// On these bytes, `last` included.
    Bytes {
        file: FileId,
        first: i64,
        last: i64,
    },
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF`. Lines with an
/// arrow after the number are waiters, and are skipped.
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
    use proptest::prelude::*;

    #[test]
    fn holders_are_distinguished_from_waiters() {
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

    proptest! {
        #[test]
        fn hostile_lines_of_proc_show_locks_or_nothing(
            text in crate::hostile::text(include_str!("../../../tests/corpus/locks")),
        ) {
            use crate::lock::MAX_SLOTS;
            use crate::lock::file::lanes::{HELD_SLOTS, Ticket, fence_of_token_byte, is_replacer_before};
            use crate::lock::file::slots::held_by;

            if let Some(KernelLock::Bytes { first, last, .. }) = parse(&String::from_utf8_lossy(&text)) {
                let slot = held_by(first, last);
                prop_assert!(slot.is_none_or(|slot| slot < MAX_SLOTS && HELD_SLOTS + i64::from(slot) == first));
                let _ = fence_of_token_byte(first);
                let _ = is_replacer_before(&[first, last], Ticket(1));
            }
        }
    }
}
