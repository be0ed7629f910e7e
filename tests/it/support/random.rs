//! Pseudo-random numbers for tests.

/// The same numbers in every run (xorshift).
pub struct Random(pub u32);

impl Random {
    /// One of `0..limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        let mut next = self.0.wrapping_add(0x9e37_79b9);
        next ^= next << 13;
        next ^= next >> 17;
        next ^= next << 5;
        self.0 = next;
        (next >> 8) as usize % limit
    }
}
