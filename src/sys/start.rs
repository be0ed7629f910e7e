//! What std would do before `main` if ours were not our own, and the memory that ps(1)
//! shows.

use std::ffi::{CStr, OsString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;

/// The same open file under a number above 2.
///
/// A caller may start us with stdin, stdout or stderr closed. The next open would get
/// that number, and a message for stderr would be written into a lock file.
pub fn above_stdio(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(fd, 3) }
}

/// Sets the close-on-exec flag of the caller's descriptor.
pub fn close_on_exec(number: RawFd) {
    // SAFETY: fcntl on a number, which need not be open, changes nothing in this
    // process.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// The caller's open file of this number, under a number of our own. `EBADF`: not open.
pub fn duplicate(number: RawFd) -> rustix::io::Result<OwnedFd> {
    // SAFETY: fcntl on a number, which need not be open; nobody else has the copy.
    unsafe {
        match libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) {
            -1 => Err(rustix::io::Errno::BADF),
            copy => Ok(OwnedFd::from_raw_fd(copy)),
        }
    }
}

/// Names this process `lockrun-waiter` in ps(1) until it is COMMAND. Only for people:
/// no decision depends on a name.
pub fn become_waiter() {
    let _ = rustix::thread::set_name(c"lockrun-waiter");
}

/// Detaches this process from its caller, so that it holds nobody up: a session of its
/// own, no directory, none of the inherited descriptors, and the name `lockrun-keeper`
/// in ps(1).
///
/// Inherited descriptors lack the close-on-exec flag that ours have.
pub fn detach() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::thread::set_name(c"lockrun-keeper");
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    for fd in descriptors().into_iter().filter(|fd| *fd > 2) {
        // SAFETY: fcntl and close on numbers; only inherited descriptors lack the flag,
        // and no object of ours owns those.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFD);
            if flags != -1 && flags & libc::FD_CLOEXEC == 0 {
                libc::close(fd);
            }
        }
    }
}

/// Closes all descriptors but these, in a process that was forked for them alone and
/// ends by [`exit_now`](super::exit_now).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|kept| kept.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = 0;
    let closed = keep.iter().copied().chain([u32::MAX]).all(|kept| {
        let start = std::mem::replace(&mut first, kept.saturating_add(1));
        // SAFETY: as below.
        start >= kept || unsafe { libc::syscall(libc::SYS_close_range, start, kept - 1, 0) } == 0
    });
    // Needs Linux 5.9.
    if closed {
        return;
    }
    for fd in descriptors() {
        if !keep.contains(&(fd as u32)) {
            // SAFETY: close on a number. This process no longer uses objects that own
            // it, and ends without dropping them.
            unsafe { libc::close(fd) };
        }
    }
}

/// Without /proc, higher descriptors are not searched for.
const SEARCHED: i32 = 1 << 16;

/// The numbers of the open descriptors; without /proc, perhaps more.
fn descriptors() -> Vec<i32> {
    let descriptors = numbers_in("/proc/self/fd");
    if descriptors.is_empty() { (0..SEARCHED).collect() } else { descriptors }
}

/// The entries of a directory that are numbers; none if it cannot be read. Not by std,
/// which panics where closedir(3) fails.
pub fn numbers_in(directory: &str) -> Vec<i32> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(entries) = rustix::fs::open(directory, flags, Mode::empty()).and_then(Dir::new) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()).collect()
}

static ARGUMENTS: AtomicPtr<*mut c_char> = AtomicPtr::new(std::ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Must be called first in `main`, with its arguments.
pub fn remember_arguments(count: i32, arguments: *mut *mut c_char) {
    ARGUMENTS.store(arguments, Ordering::Relaxed);
    COUNT.store(count.try_into().unwrap_or(0), Ordering::Relaxed);
}

/// The command line, beginning with the program.
pub fn arguments() -> Vec<OsString> {
    let arguments = ARGUMENTS.load(Ordering::Relaxed);
    let count = if arguments.is_null() { 0 } else { COUNT.load(Ordering::Relaxed) };
    // SAFETY: the C runtime passed `arguments`, `count` strings that live as long as
    // the process.
    let word = |i| unsafe { CStr::from_ptr(*arguments.add(i)) };
    (0..count).map(|i| OsString::from_vec(word(i).to_bytes().to_vec())).collect()
}

/// Replaces what ps(1) shows: the command line by `title`, cut to fit, and the
/// environment by the variables named in `keep`. Neither can be read in this process
/// afterwards.
pub fn retitle(title: &[u8], keep: &[&str]) {
    let arguments = ARGUMENTS.load(Ordering::Relaxed);
    let count = COUNT.load(Ordering::Relaxed);
    if arguments.is_null() || count == 0 {
        return;
    }
    // SAFETY: the C runtime passed `arguments`: `count` strings, a null, then the
    // environment's strings and a null. The kernel laid out the strings of each of the
    // two one after the other, in writable memory that lives as long as the process.
    // Nobody else reads them meanwhile: there is one thread, std copies what it
    // returns, and our caller does not ask again.
    unsafe {
        let environment = arguments.add(count + 1);
        let mut variables = 0;
        while !(*environment.add(variables)).is_null() {
            variables += 1;
        }
        overwrite(arguments, count, title);
        let kept: Vec<Vec<u8>> = (0..variables)
            .map(|i| CStr::from_ptr(*environment.add(i)).to_bytes_with_nul().to_vec())
            .filter(|variable| {
                keep.iter()
                    .any(|name| variable.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")))
            })
            .collect();
        overwrite(environment, variables, &kept.concat());
    }
}

/// Overwrites `count` consecutive strings with `text` and zeros.
///
/// # Safety
/// `strings` points to `count` pointers to strings that lie one after the other in
/// writable memory.
unsafe fn overwrite(strings: *mut *mut c_char, count: usize, text: &[u8]) {
    if count == 0 {
        return;
    }
    // SAFETY: the caller's promise; the length reaches from the first string to the
    // terminating zero of the last one.
    unsafe {
        let first = *strings;
        let last = *strings.add(count - 1);
        let length = last.offset_from(first) as usize + libc::strlen(last);
        let area = std::slice::from_raw_parts_mut(first.cast::<u8>(), length);
        area.fill(0);
        let fits = text.len().min(length);
        area[..fits].copy_from_slice(&text[..fits]);
    }
}
