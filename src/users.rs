//! User names and homes, from /etc/passwd and then `getent`.
//!
//! libc's getpw* loads name-service libraries at run time, even in a static program,
//! and crashes where they do not fit.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub struct User {
    pub name: String,
    pub home: PathBuf,
}

/// Looks only into /etc/passwd: for messages, where the number will do.
pub fn name_of(uid: u32) -> Option<String> {
    if uid == 0 {
        return Some("root".into());
    }
    find(&fs::read("/etc/passwd").ok()?, uid).map(|user| user.name)
}

/// Looks into /etc/passwd, then asks `getent passwd UID`, which knows the directory
/// services of this host.
pub fn find_anywhere(uid: u32) -> Option<User> {
    fs::read("/etc/passwd").ok().and_then(|database| find(&database, uid)).or_else(|| {
        let getent = Command::new("getent").arg("passwd").arg(uid.to_string()).stdin(Stdio::null()).output().ok()?;
        find(&getent.stdout, uid)
    })
}

fn find(database: &[u8], uid: u32) -> Option<User> {
    database.split(|&b| b == b'\n').find_map(|line| {
        let fields: Vec<_> = line.split(|&b| b == b':').collect();
        let [name, _, number, _, _, home, ..] = fields[..] else { return None };
        (std::str::from_utf8(number).ok()?.parse() == Ok(uid) && home.starts_with(b"/")).then(|| User {
            name: String::from_utf8_lossy(name).into_owned(),
            home: OsString::from_vec(home.to_vec()).into(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_number_and_damaged_lines_are_skipped() {
        let database = b"root:x:0:0:root:/root:/bin/sh\n::\nann:x:77:77::/home/ann:\nbad:x:78:78::\n";
        assert_eq!(find(database, 77).unwrap().home, PathBuf::from("/home/ann"));
        assert_eq!(find(database, 77).unwrap().name, "ann");
        assert!(find(database, 78).is_none());
        assert!(find(database, 7).is_none());
    }
}
