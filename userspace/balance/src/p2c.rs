// SPDX-License-Identifier: GPL-3.0-only
//! The power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10),
//! 2001): of two backends drawn by weight, the one with less load for its weight.
//!
//! The second draw exceeds the first by little work, and the fullest of `n` is then `ln ln n / ln 2` above the mean
//! instead of `ln n / ln ln n`. Who is drawn twice is compared with the alternate of the second slot, so that in a pool of
//! two both always are. Of equals the first wins: it was drawn by weight.

use crate::load::{Candidate, best};
use crate::ring::Ring;
use crate::sequence;

/// The ring that is drawn from: that of weighted random.
pub fn ring(weights: &[u32]) -> Ring {
    sequence::ring(weights)
}

/// The two to compare. The first is the owner of the slot drawn by the upper half of `random`, or its alternate if that
/// one takes nothing; the second likewise of the lower half, but not the first. Either may be missing.
pub fn two(ring: &Ring, random: u64, takes: impl Fn(usize) -> bool) -> [Option<usize>; 2] {
    let first = ring.pick_at(ring.draw((random >> 32) as u32), &takes);
    let second = ring.pick_at(ring.draw(random as u32), |index| Some(index) != first && takes(index));
    [first, second]
}

/// Picks by a [`ring`]; `of` tells a backend's load and weight now. `None` if nobody drawn takes anything.
pub fn pick(ring: &Ring, random: u64, of: impl Fn(usize) -> Candidate) -> Option<usize> {
    let drawn = two(ring, random, |index| of(index).weight > 0);
    let samples = drawn.map(|index| index.map_or(Candidate { load: 0, weight: 0 }, &of));
    drawn.get(best(samples)?).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Draws, fill};

    fn by_two(weights: &[u16], balls: usize, seed: u64) -> Vec<u32> {
        let ring = ring(&weights.iter().copied().map(u32::from).collect::<Vec<_>>());
        let of = |loads: &[u32], index: usize| Candidate { load: loads[index], weight: weights[index] };
        fill(weights, balls, seed, |random, loads| pick(&ring, random, |index| of(loads, index)).unwrap())
    }

    fn at_random(weights: &[u16], balls: usize, seed: u64) -> Vec<u32> {
        let ring = crate::random::ring(&weights.iter().copied().map(u32::from).collect::<Vec<_>>());
        fill(weights, balls, seed, |random, _| ring.at(ring.draw((random >> 32) as u32)).0.unwrap())
    }

    /// The theorem with as many balls as bins: `ln ln 10000 / ln 2` is 3.2, `ln 10000 / ln ln 10000` is 4.1, each plus a
    /// constant.
    #[test]
    fn the_fullest_of_ten_thousand_has_four_where_random_has_seven() {
        for seed in 0..5 {
            let max = |loads: Vec<u32>| loads.into_iter().max().unwrap();
            let (two, random) = (max(by_two(&[1; 10_000], 10_000, seed)), max(at_random(&[1; 10_000], 10_000, seed)));
            assert!(two <= 4, "{two}");
            assert!(random >= 6, "{random}");
        }
    }

    /// With many balls the excess of p2c stays what it was (Berenbrink et al., "Balanced Allocations: The Heavily Loaded
    /// Case", STOC 2000), that of random grows with the root of their number.
    #[test]
    fn the_excess_over_the_mean_does_not_grow_with_the_load() {
        let excess = |loads: Vec<u32>| loads.into_iter().max().unwrap() - 500;
        assert!(excess(by_two(&[1; 400], 200_000, 1)) <= 4);
        assert!(excess(at_random(&[1; 400], 200_000, 1)) >= 40);
    }

    #[test]
    fn weights_are_honoured_idle_and_loaded() {
        let weights = [100u16, 100, 200];
        let loads = by_two(&weights, 40_000, 2);
        for (load, mean) in loads.iter().zip([10_000u32, 10_000, 20_000]) {
            assert!(load.abs_diff(mean) <= 10, "{loads:?}");
        }
        let ring = ring(&weights.map(u32::from));
        let idle = |index: usize| Candidate { load: 0, weight: weights[index] };
        let picks = fill(&weights, 100_000, 3, |random, _| pick(&ring, random, idle).unwrap());
        for (count, mean) in picks.iter().zip([25_000, 25_000, 50_000]) {
            assert!(count.abs_diff(mean) <= 632, "{picks:?}");
        }
    }

    #[test]
    fn in_a_pool_of_two_both_are_always_compared() {
        let ring = ring(&[1, 1]);
        let mut draws = Draws(4);
        for _ in 0..1000 {
            let of = |index: usize| Candidate { load: 1 - index as u32, weight: 1 };
            assert_eq!(pick(&ring, draws.whole(), of), Some(1));
        }
    }

    #[test]
    fn who_takes_nothing_is_passed_over() {
        let ring = ring(&[1, 1, 1]);
        let mut draws = Draws(5);
        for _ in 0..1000 {
            let one_up = |index: usize| Candidate { load: 7, weight: u16::from(index == 2) };
            assert!(pick(&ring, draws.whole(), one_up).is_none_or(|index| index == 2));
            let two_up = |index: usize| Candidate { load: index as u32, weight: u16::from(index != 1) };
            assert!(matches!(pick(&ring, draws.whole(), two_up), Some(0 | 2)));
        }
        assert_eq!(pick(&ring, 0, |_| Candidate { load: 0, weight: 0 }), None);
        assert_eq!(pick(&super::ring(&[]), 9, |_| Candidate { load: 0, weight: 1 }), None);
    }
}
