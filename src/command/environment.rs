//! What COMMAND finds in its environment about its locks.

use std::ffi::CString;

use anyhow::Result;

use super::renewals;
use crate::lock::{Grant, markers};
use crate::record;
use crate::sys::Exec;

const NAME: &str = "LOCKRUN_NAME";
const FENCE: &str = "LOCKRUN_FENCE";
const SLOT: &str = "LOCKRUN_SLOT";

/// The kernel's limit for one variable, with its name and NUL (`MAX_ARG_STRLEN`,
/// execve(2)).
const LONGEST_VARIABLE: usize = 128 * 1024;

/// Variables that COMMAND must not inherit from an outer lockrun.
pub const OURS: [&str; 5] = [NAME, FENCE, SLOT, markers::VARIABLE, renewals::VARIABLE];

/// Sets the variables for these grants alone. `renewals`: where to ask for renewals. Several locks share a variable, one a
/// line. A variable that is too long for the kernel is left out: half a name would be
/// another lock's.
pub fn tell(exec: &mut Exec, grants: &[Grant], renewals: Option<&str>) -> Result<()> {
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
    if let Some(word) = renewals {
        add(renewals::VARIABLE, word.into())?;
    }
    let ours = grants.iter().map(|grant| grant.marker.clone());
    add(markers::VARIABLE, markers::for_command(&markers::around(), ours).into_bytes())
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
