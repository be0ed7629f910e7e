//! Lock names and the file names that stand for them.
//!
//! The mapping is one-to-one, stays inside the locks directory, and fits the 255 bytes
//! of a file name. It must never change: two versions of lockrun that map a name
//! differently would not exclude each other.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Length of `.lock` and `.gate`.
const LONGEST_SUFFIX: usize = 5;
/// NAME_MAX of Linux.
const LONGEST_FILE_NAME: usize = 255;
const LONGEST_STEM: usize = LONGEST_FILE_NAME - LONGEST_SUFFIX;
/// 160 bits: no two names collide.
const HASH_DIGITS: usize = 40;
/// Not part of any encoded name, where two hexadecimal digits follow each `%`.
const MARK: &str = "%-";

/// The file name of a lock without its suffix. Percent-encoded are a leading dot
/// (hidden), a leading dash (an option to other programs), and all bytes other than
/// `A-Z a-z 0-9 . _ + = @ , : -`. A stem that would be too long ends in a hash of the
/// name.
pub fn stem(name: &[u8]) -> String {
    let mut stem = String::with_capacity(name.len() + LONGEST_SUFFIX);
    for (position, &byte) in name.iter().enumerate() {
        let plain = match byte {
            b'.' | b'-' => position > 0,
            b'_' | b'+' | b'=' | b'@' | b',' | b':' => true,
            _ => byte.is_ascii_alphanumeric(),
        };
        if plain {
            stem.push(byte.into());
        } else {
            let _ = write!(stem, "%{byte:02X}");
        }
        if stem.len() > LONGEST_STEM {
            return hashed(&stem, name);
        }
    }
    stem
}

fn hashed(encoded: &str, name: &[u8]) -> String {
    let mut cut = LONGEST_STEM - MARK.len() - HASH_DIGITS;
    // Not through the middle of an encoded byte.
    if let Some(percent) = encoded[..cut].rfind('%').filter(|percent| cut - percent < 3) {
        cut = percent;
    }
    let mut stem = encoded[..cut].to_owned();
    stem.push_str(MARK);
    for byte in &Sha256::digest(name)[..HASH_DIGITS / 2] {
        let _ = write!(stem, "{byte:02x}");
    }
    stem
}

/// Decodes a stem; `None`: [`stem`] did not make it, or it ends in a hash.
pub fn of_stem(text: &str) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            name.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            name.push(byte);
        }
    }
    // Other programs' files end in `.lock`, too.
    (!name.is_empty() && stem(&name) == text).then_some(name)
}

/// Whether a name with this beginning may have this stem that ends in a hash; `None`:
/// the stem does not end in one.
pub fn may_begin(stem_with_hash: &str, beginning: &[u8]) -> Option<bool> {
    let (kept, hash) = stem_with_hash.rsplit_once(MARK)?;
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit()) && !kept.is_empty();
    is_hash.then(|| {
        let encoded = stem(beginning);
        let shown = encoded.rsplit_once(MARK).map_or(encoded.as_str(), |(shown, _)| shown);
        kept.starts_with(shown) || shown.starts_with(kept)
    })
}

/// The stem of the queue file of a `--file` lock. It identifies the file, so that all
/// spellings of its path share one queue.
pub fn path_stem(device: u64, inode: u64) -> String {
    format!("{MARK}{device:x}-{inode:x}")
}

/// The device and inode in a stem; `None`: [`path_stem`] did not make it.
pub fn of_path_stem(stem: &str) -> Option<(u64, u64)> {
    let (device, inode) = stem.strip_prefix(MARK)?.split_once('-')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let (device, inode) = (number(device)?, number(inode)?);
    (path_stem(device, inode) == stem).then_some((device, inode))
}

/// Quotes one word for a POSIX shell. This must not change either: default lock names
/// are made of it.
pub fn shell_quote(word: &[u8]) -> Vec<u8> {
    let safe = |b: &u8| b.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(b);
    if !word.is_empty() && word.iter().all(safe) {
        return word.to_vec();
    }
    let mut quoted = vec![b'\''];
    for &byte in word {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// A command line, shell-quoted: the default name of a lock.
pub fn of_command<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    words.iter().map(|word| shell_quote(word.as_ref())).collect::<Vec<_>>().join(&b' ')
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn is_file_name(stem: &str) -> bool {
        !stem.is_empty()
            && stem.len() <= LONGEST_STEM
            && !stem.starts_with(['.', '-'])
            && stem.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
    }

    proptest! {
        #[test]
        fn any_name_is_one_file_inside_the_directory(name in vec(1u8.., 1..2000)) {
            let stem = stem(&name);
            prop_assert!(is_file_name(&stem), "{stem}");
            match of_stem(&stem) {
                Some(back) => prop_assert_eq!(back, name),
                None => prop_assert_eq!(may_begin(&stem, &name[..60]), Some(true)),
            }
        }

        #[test]
        fn long_names_that_differ_at_the_end_are_different_files(
            start in vec(1u8.., 300..400),
            ends in vec(vec(1u8.., 1..4), 2),
        ) {
            prop_assume!(ends[0] != ends[1]);
            let [one, other] = [0, 1].map(|i| stem(&[&start[..], &ends[i]].concat()));
            prop_assert!(is_file_name(&one) && is_file_name(&other));
            prop_assert_ne!(one, other);
        }

        #[test]
        fn a_quoted_word_is_read_back_by_the_shell(word in vec(1u8.., 0..50)) {
            use std::os::unix::ffi::OsStrExt;
            let quoted = [&b"printf %s "[..], &shell_quote(&word)].concat();
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(std::ffi::OsStr::from_bytes(&quoted))
                .output()
                .unwrap();
            prop_assert_eq!(output.stdout, word);
        }
    }

    #[test]
    fn what_is_no_stem_of_ours_has_no_name() {
        for text in ["", ".x", "a b", "%4", "%zz", "%41", "%2fetc", "-x"] {
            assert_eq!(of_stem(text), None, "{text}");
        }
        assert_eq!(of_path_stem(&path_stem(0xfe00, 99)), Some((0xfe00, 99)));
        assert_eq!(may_begin("a%-1", b"a"), None);
    }

    #[test]
    fn the_mapping_stays_as_it_was_published() {
        assert_eq!(stem(b"calc"), "calc");
        assert_eq!(stem(b".."), "%2E.");
        assert_eq!(stem(b"a/b c"), "a%2Fb%20c");
        assert_eq!(stem(b"-n"), "%2Dn");
        assert_eq!(stem("b\u{fc}ro".as_bytes()), "b%C3%BCro");
        assert_eq!(stem(b"%-1-2"), "%25-1-2");
        assert_eq!(stem(&[b'a'; 250]), "a".repeat(250));
        assert_eq!(stem(&[b'a'; 251]), "a".repeat(208) + "%-772f911dd9d6692897188d0b03f718fb5fbd0202");
        assert_eq!(of_command(&["echo", "a b", "it's", ""]), br"echo 'a b' 'it'\''s' ''");
    }
}
