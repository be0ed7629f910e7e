//! What COMMAND finds in its environment about the locks that it runs under.

use std::ffi::CString;

use anyhow::Result;

use crate::lock::{Grant, markers};
use crate::record;
use crate::sys::Exec;

const NAME: &str = "LOCKRUN_NAME";
const FENCE: &str = "LOCKRUN_FENCE";
const SLOT: &str = "LOCKRUN_SLOT";

/// What the kernel takes for one variable, with its name and its zero
/// (`MAX_ARG_STRLEN` of execve(2)).
const LONGEST_VARIABLE: usize = 128 * 1024;

/// What it must not inherit from a lockrun around us.
pub const OURS: [&str; 4] = [NAME, FENCE, SLOT, markers::VARIABLE];

/// Tells COMMAND of these grants, and of no others. Those of a set stand in
/// one variable, a line each. A variable that the kernel would refuse is left
/// out: half a name would be another lock's.
pub fn tell(exec: &mut Exec, grants: &[Grant]) -> Result<()> {
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
    let ours = grants.iter().map(|grant| grant.marker.clone());
    add(markers::VARIABLE, markers::for_command(&markers::around(), ours).into_bytes())
}

/// Puts the numbers of the grants in, where [`tell`] has told all else of
/// them. `false` if they have fewer or more digits than those that it told.
pub fn renumber(exec: &mut Exec, fences: &[u64]) -> bool {
    let in_lines = |lines: &mut [u8]| {
        lines.split_mut(|byte| *byte == b'\n').zip(fences).all(|(line, fence)| record::put_number(line, *fence))
    };
    exec.change_variable(FENCE, in_lines)
        && exec.change_variable(markers::VARIABLE, |held| markers::renumber(held, fences))
}
