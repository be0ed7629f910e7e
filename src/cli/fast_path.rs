//! The command lines of crontabs and Makefiles, read without clap.
//!
//! Building clap's parser takes longer than taking the lock, and most calls have two or
//! three options. This reads the plain forms of those options as clap does, to which a
//! test holds it. Any other line, right or wrong, is left to clap.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::number::exit_code;
use super::run::Run;
use crate::duration::parse_limit;

/// The options of a run, if the line is a usual one.
pub fn read(words: &[OsString]) -> Option<Run> {
    let mut run = Run::default();
    let Run { lock, exec, shell, command, .. } = &mut run;
    let mut words = words.iter().skip(1);
    let mut has_command = false;
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => {
                command.extend(words.by_ref().cloned());
                has_command = !command.is_empty();
            }
            b"-l" | b"--name" => lock.name.push(value(words.next())?.into()),
            b"--file" => lock.file.push(value(words.next())?.into()),
            b"-d" | b"--dir" => once(&mut lock.dir, value(words.next())?.into())?,
            b"-t" | b"--timeout" if !lock.nonblock => {
                once(&mut lock.timeout, parse_limit(value(words.next())?.to_str()?).ok()?)?;
            }
            b"-n" | b"--nonblock" if lock.timeout.is_none() => switch(&mut lock.nonblock)?,
            b"-s" | b"--shared" => switch(&mut lock.shared)?,
            b"-E" | b"--conflict-exit-code" => {
                once(&mut lock.conflict_exit_code, exit_code(value(words.next())?.to_str()?).ok()?)?;
            }
            b"-q" | b"--quiet" if !lock.verbose => switch(&mut lock.quiet)?,
            b"-v" | b"--verbose" if !lock.quiet => switch(&mut lock.verbose)?,
            b"--exec" => switch(exec)?,
            b"-c" => once(shell, value(words.next())?.into())?,
            _ => return None,
        }
    }
    (has_command != shell.is_some()).then_some(run)
}

/// A value that is neither empty nor an option.
fn value(word: Option<&OsString>) -> Option<&OsStr> {
    word.map(OsString::as_os_str).filter(|word| !word.is_empty() && !word.as_bytes().starts_with(b"-"))
}

/// Leaves repeated options to clap.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn switch(slot: &mut bool) -> Option<()> {
    (!std::mem::replace(slot, true)).then_some(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn lines_of_crontabs_and_makefiles_are_usual() {
        for line in [
            "lockrun -- backup.sh --all",
            "lockrun --name calc --timeout 10 -- cmd",
            "lockrun -n -E 0 -q -l sync -- sync.sh -n",
            "lockrun -l db -c dump&&upload",
            "lockrun --shared -d /srv/locks -l data -v --exec -- read.sh",
            "lockrun --file /var/lib/x -t 1m --name x -- cmd",
        ] {
            assert!(read(&words(line)).is_some(), "{line}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_read_is_what_clap_reads(
            words in prop::collection::vec(prop::sample::select(vec![
                "-l", "--name", "-n", "--nonblock", "-t", "--timeout", "-w", "-s", "--shared", "-x", "-E",
                "--conflict-exit-code", "-q", "-v", "--quiet", "--verbose", "--exec", "-F", "-c", "--", "--", "--file",
                "--dir", "-d", "--slots", "--slot", "--replace", "--expires", "--hold", "--reentrant", "-nq",
                "--name=calc", "--max-waiters", "calc", "10", "0", "-1", "300", "forever", "true", "tree", "", "-",
            ]), 0..9)
        ) {
            let words: Vec<OsString> = std::iter::once("lockrun").chain(words).map(OsString::from).collect();
            if let Some(read) = read(&words) {
                let parsed = Run::try_parse_from(&words);
                prop_assert!(parsed.is_ok(), "{parsed:?}");
                prop_assert_eq!(read, parsed.unwrap());
            }
        }
    }
}
