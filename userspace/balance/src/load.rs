// SPDX-License-Identifier: GPL-3.0-only
//! Who is least loaded for its weight: what least-connections, least-requests and p2c have in common. `bpf/lib/pick.h`
//! is to be the twin of every step; it needs no division and no number beyond 64 bits.
//!
//! A is lighter than B if `load_a * weight_b < load_b * weight_a`, in 64 bits: a load has 32 and a weight 16. Equal loads
//! are told apart at random in proportion to weight, so that an idle pool is shared out by weight too and nobody gets all
//! that arrives until the counters move.

use crate::random::Draw;
use crate::ring::Ring;
use crate::sequence;

/// Up to so many backends all are compared and the pick is the exact minimum. The kernel reads two map elements for each,
/// some 64 x 2 x 5 ns for a new flow at worst; beyond it compares samples.
pub const SCAN: usize = 64;

/// How many backends of a larger pool are compared, drawn by weight. One of 16 is among the least loaded tenth in 81 of
/// 100 picks (1 - 0.9^16), and among the least loaded fifth in 97.
pub const SAMPLES: usize = 16;

/// Somebody who could get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What is counted: connections, requests.
    pub load: u32,
    /// Its share. 0 takes nothing now: it is down, draining, full.
    pub weight: u16,
}

/// Whether `a` has less load for its weight than `b`.
pub fn lighter(a: Candidate, b: Candidate) -> bool {
    u64::from(a.load) * u64::from(b.weight) < u64::from(b.load) * u64::from(a.weight)
}

/// The ring that a pool is scanned or sampled by: up to [`SCAN`] backends, each once, its period their number; beyond,
/// their shares as in weighted random, and the period is more than [`SCAN`]. So the period says which. (Where all are
/// scanned nobody needs an alternate; it is the next one in the list.)
pub fn ring(weights: &[u32]) -> Ring {
    let weighted: Vec<u32> = (0..).zip(weights).filter(|(_, weight)| **weight > 0).map(|(index, _)| index).collect();
    if weighted.len() > SCAN {
        return sequence::ring(weights);
    }
    let next: Vec<u32> = weighted.iter().copied().cycle().skip(1).take(weighted.len()).collect();
    Ring::new(weighted, next)
}

/// The exact minimum. In one pass: who is lighter than the lightest so far takes its place; who is equal takes it with
/// probability `weight / (weights of all equals so far, its own included)`, a draw below that sum being below `weight`.
/// Returns the place in the list, or `None` if all weights are 0.
///
/// `candidates` are [`SCAN`] at most: the sum of their weights has 32 bits.
pub fn least(candidates: impl IntoIterator<Item = Candidate>, random: u64) -> Option<usize> {
    let mut draw = Draw::new(random);
    let mut best: Option<(usize, Candidate)> = None;
    let mut equals = 0u32;
    for (place, candidate) in candidates.into_iter().enumerate().filter(|(_, candidate)| candidate.weight > 0) {
        let weight = u32::from(candidate.weight);
        match best {
            Some((_, lightest)) if lighter(lightest, candidate) => continue,
            Some((_, lightest)) if !lighter(candidate, lightest) => {
                equals = equals.saturating_add(weight);
                if draw.below(equals) >= weight {
                    continue;
                }
            }
            _ => equals = weight,
        }
        best = Some((place, candidate));
    }
    best.map(|(place, _)| place)
}

/// The lightest of some samples; of equals the first, for they were drawn by weight already. Returns its place.
pub fn best(samples: impl IntoIterator<Item = Candidate>) -> Option<usize> {
    let mut best: Option<(usize, Candidate)> = None;
    for (place, sample) in samples.into_iter().enumerate().filter(|(_, sample)| sample.weight > 0) {
        if best.is_none_or(|(_, lightest)| lighter(sample, lightest)) {
            best = Some((place, sample));
        }
    }
    best.map(|(place, _)| place)
}

/// Picks by a [`ring`]: [`least`] of its first `period` slots' owners, or [`best`] of [`SAMPLES`] slots drawn one after
/// the other, each standing for its owner or, if that takes nothing, its alternate. `of` tells a backend's load and
/// weight now. `None` if nobody that was looked at takes anything.
pub fn pick(ring: &Ring, random: u64, of: impl Fn(usize) -> Candidate) -> Option<usize> {
    if ring.period() <= SCAN {
        let owners = || (0..ring.period()).filter_map(|slot| ring.at(slot).0);
        return owners().nth(least(owners().map(of), random)?);
    }
    let mut draw = Draw::new(random);
    let mut drawn = [(0, Candidate { load: 0, weight: 0 }); SAMPLES];
    for sample in &mut drawn {
        let slot = ring.draw(draw.number());
        if let Some(index) = ring.pick_at(slot, |index| of(index).weight > 0) {
            *sample = (index, of(index));
        }
    }
    let place = best(drawn.iter().map(|(_, candidate)| *candidate))?;
    drawn.get(place).map(|(index, _)| *index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::SLOTS;
    use crate::testing::{Draws, fill};
    use proptest::prelude::*;

    fn candidates(pairs: &[(u32, u16)]) -> Vec<Candidate> {
        pairs.iter().map(|(load, weight)| Candidate { load: *load, weight: *weight }).collect()
    }

    #[test]
    fn loads_are_compared_for_their_weight_without_overflow() {
        let at = |load, weight| Candidate { load, weight };
        assert!(lighter(at(3, 2), at(2, 1)));
        assert!(!lighter(at(2, 1), at(4, 2)) && !lighter(at(4, 2), at(2, 1)));
        assert!(lighter(at(u32::MAX - 1, u16::MAX), at(u32::MAX, u16::MAX)));
        assert!(lighter(at(u32::MAX, u16::MAX), at(u32::MAX, 1)));
    }

    proptest! {
        #[test]
        fn nobody_is_lighter_than_the_least(pairs in prop::collection::vec((0u32..50, 0u16..20), 0..SCAN), random: u64) {
            let list = candidates(&pairs);
            match least(list.iter().copied(), random) {
                Some(place) => {
                    prop_assert!(list[place].weight > 0);
                    prop_assert!(list.iter().all(|other| other.weight == 0 || !lighter(*other, list[place])));
                }
                None => prop_assert!(list.iter().all(|candidate| candidate.weight == 0)),
            }
        }
    }

    #[test]
    fn equals_are_told_apart_by_weight() {
        // The first three are busier, the fifth takes nothing; the others are equal for their weight.
        let list = candidates(&[(3, 100), (3, 100), (2, 100), (1, 100), (0, 0), (1, 100), (2, 200)]);
        let mut counts = [0u32; 7];
        let mut draws = Draws(3);
        for _ in 0..100_000 {
            counts[least(list.iter().copied(), draws.whole()).unwrap()] += 1;
        }
        // The standard deviation is at most 158: four of them.
        for (count, mean) in counts.iter().zip([0, 0, 0, 25_000, 0, 25_000, 50_000]) {
            assert!(count.abs_diff(mean) <= 632, "{counts:?}");
        }
    }

    #[test]
    fn of_equal_samples_the_first_wins() {
        assert_eq!(best(candidates(&[(1, 0), (2, 1), (2, 1), (4, 2), (3, 1)])), Some(1));
        assert_eq!(best(candidates(&[(2, 1), (1, 1)])), Some(1));
        assert_eq!(best(candidates(&[(2, 0)])), None);
    }

    #[test]
    fn a_small_pools_ring_lists_each_once_and_a_large_ones_is_weighted() {
        let small = ring(&[5, 0, 7, 1]);
        assert_eq!(small.used().collect::<Vec<_>>(), [(0, Some(2)), (2, Some(3)), (3, Some(0))]);
        assert_eq!(ring(&[0, 2]).used().collect::<Vec<_>>(), [(1, None)]);
        assert_eq!(ring(&[1; SCAN]).period(), SCAN);
        let large = ring(&[3; SCAN + 1]);
        assert!(large.period() > SLOTS - SCAN - 1);
        assert_eq!(ring(&[]).period(), 0);
    }

    #[test]
    fn a_small_pool_is_always_balanced_to_one() {
        let weights = [100u16, 100, 200];
        let ring = ring(&weights.map(u32::from));
        let of = |loads: &[u32], index: usize| Candidate { load: loads[index], weight: weights[index] };
        let loads = fill(&weights, 4000, 4, |random, loads| pick(&ring, random, |index| of(loads, index)).unwrap());
        assert_eq!(loads, [1000, 1000, 2000]);
    }

    #[test]
    fn an_idle_pool_is_shared_out_by_weight() {
        for size in [3, 300] {
            let weights: Vec<u16> = [100, 100, 200].into_iter().cycle().take(size).collect();
            let ring = ring(&weights.iter().copied().map(u32::from).collect::<Vec<_>>());
            let idle = |index: usize| Candidate { load: 0, weight: weights[index] };
            let loads = fill(&weights, 100_000, 5, |random, _| pick(&ring, random, idle).unwrap());
            let mut sums = [0u32; 3];
            loads.iter().enumerate().for_each(|(index, load)| sums[index % 3] += load);
            for (sum, mean) in sums.iter().zip([25_000, 25_000, 50_000]) {
                assert!(sum.abs_diff(mean) <= 632, "{size} backends: {sums:?}");
            }
        }
    }

    #[test]
    fn samples_keep_a_large_pool_near_balance() {
        let weights: Vec<u16> = (0..1000).map(|index| if index % 4 == 0 { 200 } else { 100 }).collect();
        let ring = ring(&weights.iter().copied().map(u32::from).collect::<Vec<_>>());
        let of = |loads: &[u32], index: usize| Candidate { load: loads[index], weight: weights[index] };
        let loads = fill(&weights, 125_000, 6, |random, loads| pick(&ring, random, |index| of(loads, index)).unwrap());
        // An even spread would be 100 for a weight of 100.
        for (load, weight) in loads.iter().zip(&weights) {
            let even = u32::from(*weight);
            assert!(*load <= even + 3, "{load} for a weight of {weight}");
        }
    }

    #[test]
    fn one_of_the_samples_is_among_the_least_loaded_tenth_in_81_of_100_picks() {
        let ring = ring(&[1; 200]);
        let mut draws = Draws(13);
        let mut light = 0i32;
        for _ in 0..10_000 {
            let of = |index: usize| Candidate { load: u32::from(index % 10 != 3), weight: 1 };
            light += i32::from(pick(&ring, draws.whole(), of).unwrap() % 10 == 3);
        }
        // The standard deviation is 39: four of them.
        assert!((light - 8147).abs() <= 156, "{light}");
    }

    #[test]
    fn who_takes_nothing_is_never_picked() {
        for size in [5, 200] {
            let ring = ring(&vec![1; size]);
            let up = |index: usize| Candidate { load: 9, weight: u16::from(index % 5 == 1) };
            let mut draws = Draws(7);
            for _ in 0..1000 {
                // 16 samples and their alternates, of which a fifth takes something: a miss is one pick in 1260.
                let picked = pick(&ring, draws.whole(), up);
                assert!(picked.is_none_or(|index| index % 5 == 1));
                assert!(size > SCAN || picked == Some(1));
            }
            assert_eq!(pick(&ring, 1, |_| Candidate { load: 0, weight: 0 }), None);
        }
    }
}
