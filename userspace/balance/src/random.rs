// SPDX-License-Identifier: GPL-3.0-only
//! Random: a slot drawn ([`Ring::draw`]) from a ring in which everyone has the same share. Weights play no part, except
//! that weight 0 is never drawn.
//!
//! Also how one random number is made to yield many.

use crate::ring::Ring;
use crate::round_robin;

/// The ring of these weights.
pub fn ring(weights: &[u32]) -> Ring {
    round_robin::ring(weights)
}

/// Many 32-bit draws out of one random number: `state = state * 6364136223846793005 + 1442695040888963407` (Knuth's
/// multiplier, "The Art of Computer Programming" volume 2, section 3.3.4), of which the upper half is the draw. All
/// arithmetic wraps at 64 bits. The number may be the flow's hash where the same flow should draw the same.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// Draws that follow from `random`, itself not one of them.
    pub fn new(random: u64) -> Draw {
        Draw(random)
    }

    /// The next number.
    pub fn number(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// A draw below `bound`: `(u64)draw * bound >> 32`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.number()) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Draws;

    #[test]
    fn weights_play_no_part() {
        let ring = ring(&[1, 1000, 0, 7]);
        let mut counts = [0u32; 4];
        let mut draws = Draws(2);
        for _ in 0..90_000 {
            counts[ring.at(ring.draw(draws.half())).0.unwrap()] += 1;
        }
        // The standard deviation is 141: four of them.
        for (count, mean) in counts.iter().zip([30_000, 30_000, 0, 30_000]) {
            assert!(count.abs_diff(mean) <= 566, "{counts:?}");
        }
    }

    #[test]
    fn one_number_yields_the_draws_of_the_written_formula() {
        // Computed apart from this code.
        let mut draw = Draw::new(5);
        assert_eq!([draw.number(), draw.number(), draw.number()], [3449765985, 602335547, 3524036468]);
        let mut draw = Draw::new(0);
        assert!((0..1000).all(|_| draw.below(3) < 3));
        assert_eq!(Draw::new(5).below(0), 0);
    }
}
