//! LOCKRUN_HELD: the locks that a command runs under, one marker each.
//!
//! A marker has four fields separated by colons: two identify the lock in the engine's
//! own terms, then the fencing token and the strength. It proves nothing by itself,
//! because a process may outlive the lock.

use crate::record::put_number;

/// The variable.
pub const VARIABLE: &str = "LOCKRUN_HELD";
/// Deeper nesting forgets the outermost ones.
const MOST: usize = 1024;

/// The markers in our environment, outermost first.
pub fn around() -> Vec<String> {
    let Some(words) = std::env::var_os(VARIABLE) else { return Vec::new() };
    words.to_string_lossy().split(' ').filter(|word| word.split(':').count() == 4).map(str::to_owned).collect()
}

/// The value for COMMAND: the markers around us, and ours.
pub fn for_command(around: &[String], ours: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = around.iter().cloned().chain(ours).collect();
    words[words.len().saturating_sub(MOST)..].join(" ")
}

/// Overwrites the fencing tokens of our grants in a value of [`for_command`]. `false`:
/// they have fewer or more digits.
pub fn renumber(variable: &mut [u8], fences: &[u64]) -> bool {
    let ours = variable.rsplit_mut(|byte| *byte == b' ').zip(fences.iter().rev());
    ours.into_iter().all(|(marker, fence)| {
        let number = marker.split_mut(|byte| *byte == b':').nth(2);
        number.is_some_and(|number| put_number(number, *fence))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_with_other_numbers_is_what_it_would_have_been() {
        let marker = |inode: u64, fence: u64| format!("7:{inode:x}:{fence}:s");
        let around = [marker(1, 11), marker(2, 22)];
        let variable = |fences: [u64; 2]| {
            for_command(&around, [marker(3, fences[0]), marker(4, fences[1])].into_iter()).into_bytes()
        };
        let mut text = variable([33, 44]);
        assert!(renumber(&mut text, &[55, 66]));
        assert_eq!(text, variable([55, 66]));
        assert!(!renumber(&mut text, &[55, 100]));
        assert!(!renumber(&mut text, &[5, 66]));
    }
}
