//! What COMMAND finds in its environment about its locks.

use std::ffi::{CString, OsString};

use anyhow::Result;

use super::renewals;
use crate::lock::{Grant, markers};
use crate::record;
use crate::sys::Exec;

const NAME: &str = "LOCKRUN_NAME";
const FENCE: &str = "LOCKRUN_FENCE";
const SLOT: &str = "LOCKRUN_SLOT";

/// The rows of a run on a server, as a token.
pub const ROWS: &str = "LOCKRUN_ROWS";

/// The kernel's limit for one variable, with its name and NUL (`MAX_ARG_STRLEN`,
/// execve(2)).
const LONGEST_VARIABLE: usize = 128 * 1024;

/// Variables that COMMAND must not inherit from an outer lockrun.
pub const OURS: [&str; 6] = [NAME, FENCE, SLOT, ROWS, markers::VARIABLE, renewals::VARIABLE];

/// Sets the variables for these grants alone. `about` the run: more
/// variables and their values. Several locks share a variable, one a
/// line. A variable that is too long for the kernel is left out: half a name would be
/// another lock's.
pub fn tell(exec: &mut Exec, grants: &[Grant], about: &[(&str, String)]) -> Result<()> {
    let lines = |line: fn(&Grant) -> Vec<u8>| grants.iter().map(line).collect::<Vec<_>>().join(&b'\n');
    exec.clear_variables();
    let mut add = |name: &str, value: Vec<u8>| -> Result<()> {
        let variable = CString::new([name.as_bytes(), &value].join(&b'='))?;
        if variable.count_bytes() < LONGEST_VARIABLE {
            exec.add_variable(variable);
        }
        Ok(())
    };
    add(NAME, lines(|grant| grant.name.clone()))?;
    add(FENCE, lines(|grant| grant.fence.to_string().into_bytes()))?;
    if grants.iter().any(|grant| grant.slot.is_some()) {
        add(SLOT, lines(|grant| grant.slot.map(|slot| slot.to_string()).unwrap_or_default().into_bytes()))?;
    }
    for (name, value) in about {
        add(name, value.clone().into())?;
    }
    let ours = grants.iter().map(|grant| grant.marker.clone());
    add(markers::VARIABLE, markers::for_command(&markers::around(), ours).into_bytes())
}

/// The names of the locks around us, one a line.
pub fn names() -> OsString {
    std::env::var_os(NAME).unwrap_or_default()
}

/// How many locks the lockrun around us holds.
pub fn number_of_locks() -> usize {
    std::env::var_os(FENCE).map_or(1, |lines| lines.as_encoded_bytes().split(|byte| *byte == b'\n').count())
}

/// Replaces the numbers that [`tell`] wrote by these. `false` if the number of digits
/// differs.
pub fn renumber(exec: &mut Exec, fences: &[u64]) -> bool {
    let in_lines = |lines: &mut [u8]| {
        lines.split_mut(|byte| *byte == b'\n').zip(fences).all(|(line, fence)| record::put_number(line, *fence))
    };
    exec.change_variable(FENCE, in_lines)
        && exec.change_variable(markers::VARIABLE, |held| markers::renumber(held, fences))
}
