//! What is to be known about some versions of etcd.

/// Since these versions a leader that was frozen for longer than a lease does not
/// revoke leases that were renewed meanwhile (etcd issue 15247).
const FIXED: [(u32, u32, u32); 2] = [(3, 4, 31), (3, 5, 13)];

/// Whether such a leader may take locks from living holders.
pub fn revokes_living_leases(version: &str) -> bool {
    let numbers: Vec<u32> = version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
    let [major, minor, patch] = numbers[..] else { return false };
    FIXED.iter().any(|fixed| (major, minor) == (fixed.0, fixed.1) && patch < fixed.2) || (major, minor) < (3, 4)
}

#[cfg(test)]
mod tests {
    use super::revokes_living_leases;

    #[test]
    fn versions_that_revoke_living_leases() {
        for version in ["3.4.23", "3.4.30", "3.5.0", "3.5.12", "3.5.1-rc.1", "3.3.25"] {
            assert!(revokes_living_leases(version), "{version}");
        }
        for version in ["3.4.31", "3.5.13", "3.5.13+git", "3.6.0", "4.0.0", "", "unknown"] {
            assert!(!revokes_living_leases(version), "{version}");
        }
    }
}
