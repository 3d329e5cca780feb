// SPDX-License-Identifier: GPL-3.0-only
//! Bounded load for hashed rings (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018):
//! nobody takes more than its fair share and a margin; what would exceed it goes on along the ring.
//!
//! Use [`admits`] as part of what `takes` says to [`crate::Ring::pick_any`].

/// The margin's unit: 80 of 64 is a bound of 1.25 times the fair share.
pub const UNIT: u32 = 64;

/// Whether a backend may take one more: `load < ceil(bound * (total + 1) * weight / weights)`, without division
/// `load * weights * 64 < (total + 1) * weight * bound`. With a bound above [`UNIT`] somebody always may.
///
/// `load` is the backend's and `total` the pool's, the sum of its loads; `weight` and `weights` likewise; `bound` counts
/// in 1/[`UNIT`]. Without overflow up to 2^31 requests, weights of 2^26 together, and a bound of 16 (2^10).
pub fn admits(load: u32, weight: u32, total: u32, weights: u32, bound: u32) -> bool {
    let wanted = u64::from(load) * u64::from(weights) * u64::from(UNIT);
    let fair = (u64::from(total) + 1) * u64::from(weight);
    wanted < fair.saturating_mul(u64::from(bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Draws, KEY};
    use crate::{Ring, maglev, ring_hash};

    /// Of 1000 distinct hashes 30 take two thirds of 4000 requests; none of these ends.
    fn loads(ring: &Ring, weights: &[u32], bound: Option<u32>) -> Vec<u32> {
        let mut loads = vec![0u32; weights.len()];
        let mut draws = Draws(12);
        let sum = weights.iter().sum();
        for total in 0..4000 {
            let hot = !draws.whole().is_multiple_of(3);
            let client = draws.whole() % if hot { 30 } else { 1000 };
            let hash = crate::hash::bytes_of(KEY, &client.to_le_bytes());
            let takes = |index: usize| bound.is_none_or(|b| admits(loads[index], weights[index], total, sum, b));
            let picked = ring.pick_any(hash, takes).expect("somebody is below the mean");
            loads[picked] += 1;
        }
        loads
    }

    #[test]
    fn nobody_exceeds_the_margin_whatever_the_clients_do() {
        for build in [maglev::ring, ring_hash::ring] {
            let names = testing::names(10);
            let weights = [1, 1, 1, 1, 1, 2, 2, 2, 2, 7];
            let backends: Vec<_> = names.iter().map(String::as_str).zip(weights).collect();
            let ring = build(KEY, &backends);
            let exceeds = |loads: &[u32]| loads.iter().zip(weights).any(|(load, weight)| *load > 250 * weight);
            assert!(exceeds(&loads(&ring, &weights, None)));
            let bounded = loads(&ring, &weights, Some(80));
            assert!(!exceeds(&bounded), "{bounded:?}");
        }
    }

    #[test]
    fn the_bound_is_that_of_the_paper() {
        // 1.25 of (10 + 1) requests over 4 equal backends are 3.4, rounded up 4.
        let at = |load| admits(load, 1, 10, 4, 80);
        assert!(at(3) && !at(4));
        assert!(admits(0, 1, 0, 65_536_000, 80), "an idle pool takes the first");
        assert!(!admits(0, 0, 0, 10, 80), "no weight, no load");
        assert!(!admits(1 << 31, 1, 1 << 31, 1 << 26, 1 << 10));
    }
}
