//! Any name of one or more bytes works, and each is one file inside DIR.

use crate::support::Sandbox;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Names that have broken other lock programs.
const KNOWN: [&str; 24] = [
    ".",
    "..",
    "...",
    "-",
    "--",
    "-n",
    "--help",
    "/",
    "//",
    "/etc/passwd",
    "../x",
    "a/../../b",
    "a/b",
    "a%2Fb",
    "%",
    "%%",
    "%-1-2",
    ".hidden",
    " ",
    "\n",
    "a\tb",
    "*",
    "~",
    "a.lock",
];

/// Reproducible random bytes without NUL (xorshift64*), of many lengths.
fn random_names(count: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    };
    let alphabets: [&[u8]; 3] = [b"./-%", b"aA.%/ 0123456789\n", &[]];
    let mut name = |number: usize| {
        let length = [1 + next() % 8, 1 + next() % 40, 200 + next() % 100][number % 3];
        let alphabet = alphabets[number % alphabets.len()];
        let byte = |random: u64| match alphabet {
            [] => (random % 255 + 1) as u8,
            some => some[random as usize % some.len()],
        };
        (0..length).map(|_| byte(next())).collect()
    };
    (0..count).map(&mut name).collect()
}

/// Names that differ only where a shortened one would not show it.
fn long_names() -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for length in [240, 245, 250, 251, 255, 256, 1000, 4000] {
        for (filler, end) in [(b'a', b'a'), (b'a', b'b'), (b'/', b'/'), (b'/', b'a')] {
            let mut name = vec![filler; length];
            name[length - 1] = end;
            names.push(name);
        }
    }
    names
}

#[test]
fn each_name_is_one_file_and_nothing_is_made_elsewhere() {
    let sandbox = Sandbox::new();
    let known = KNOWN.map(|name| name.as_bytes().to_vec());
    let names: BTreeSet<_> = known.into_iter().chain(long_names()).chain(random_names(200)).collect();
    for (before, name) in names.iter().enumerate() {
        let name = OsString::from_vec(name.clone());
        let args = ["-q", "-l"].map(OsString::from).into_iter().chain([name]);
        let args: Vec<_> = args.chain(["--", "true"].map(OsString::from)).collect();
        // A second time it is the same file.
        for _ in 0..2 {
            sandbox.lockrun(&args).run().assert_code(0);
            assert_eq!(sandbox.files_in_locks().len(), before + 1, "{args:?}");
        }
    }
    for file in sandbox.files_in_locks() {
        assert!(file.len() <= 255 && file.ends_with(".lock"), "{file}");
        assert!(!file.starts_with(['.', '-']), "{file}");
    }
    for empty in ["work", "home"] {
        let inside = std::fs::read_dir(sandbox.path(empty)).unwrap().count();
        assert_eq!(inside, 0, "something was made in {empty}");
    }
}
