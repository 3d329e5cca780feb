// SPDX-License-Identifier: GPL-3.0-only
//! A small seeded generator (Marsaglia's xorshift64), so that a failing case can be run again.

/// Its seed is its first state; not zero.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`, near enough to uniform.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() >> 16) as usize % n
    }
}
