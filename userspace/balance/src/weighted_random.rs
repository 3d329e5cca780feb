// SPDX-License-Identifier: GPL-3.0-only
//! Weighted random: a slot drawn ([`Ring::draw`]) from a ring that is laid out in proportion to weight. The layout's order
//! plays no part, so it is that of [`sequence`], which is exact.

use crate::ring::Ring;
use crate::sequence;

/// The ring of these weights.
pub fn ring(weights: &[u32]) -> Ring {
    sequence::ring(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Draws;

    #[test]
    fn draws_follow_the_weights() {
        let ring = ring(&[100, 100, 200, 0]);
        let mut counts = [0u32; 4];
        let mut draws = Draws(1);
        for _ in 0..100_000 {
            counts[ring.at(ring.draw(draws.half())).0.unwrap()] += 1;
        }
        // The standard deviation is at most 158: four of them.
        for (count, mean) in counts.iter().zip([25_000, 25_000, 50_000, 0]) {
            assert!(count.abs_diff(mean) <= 632, "{counts:?}");
        }
    }
}
