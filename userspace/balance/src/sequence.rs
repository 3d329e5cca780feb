// SPDX-License-Identifier: GPL-3.0-only
//! Turns in proportion to weight, as evenly spaced as they can be: the layout of the rings that are not hashed.
//!
//! The order is that of proportionate progress (Baruah, Cohen, Plaxton and Varvel, "Proportionate Progress: A Notion of
//! Fairness in Resource Allocation", Algorithmica 15, 1996). Of a weight `w` in a sum `W`, the turn number `k` (from 0)
//! may be taken from place `floor(k W / w)` on and must be before `ceil((k + 1) W / w)`; each place goes to the turn whose
//! time is up first. So **in every prefix of `n` places each backend has `n w / W` of them, rounded down or up**, and in
//! any `n` places in a row at most one more or less than that. Smooth weighted round robin aims at the same and promises
//! less.
//!
//! Weights are divided by their greatest common divisor. If the sum then exceeds [`SLOTS`], shares are rounded to slots
//! by the largest remainder; nobody who has weight is rounded to nothing, those slots being taken from the largest.

use crate::ring::{NOBODY, Ring, SLOTS, next_other};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The ring of these weights. Its period is the longest that fits of whole sequences, so that proportions are exact while
/// a backend's alternates differ from sequence to sequence. 0 gets no slot.
///
/// Cost: two heap operations for each place of a sequence; about 1 ms.
pub fn ring(weights: &[u32]) -> Ring {
    let shares = apportion(weights);
    let sum: u64 = shares.iter().sum();
    let sequence = smooth(&shares);
    let sequences = (SLOTS as u64).checked_div(sum).unwrap_or(0) as usize;
    let primary: Vec<u32> = sequence.iter().copied().cycle().take(sequences * sequence.len()).collect();
    let alternate = alternates(&primary, weights.len());
    Ring::new(primary, alternate)
}

/// How many places of a sequence each weight gets: at most [`SLOTS`] in all.
fn apportion(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let reduced = || weights.iter().map(|weight| u64::from(weight / divisor));
    let (sum, slots) = (reduced().sum::<u64>(), SLOTS as u64);
    if sum <= slots {
        return reduced().collect();
    }
    let mut shares: Vec<u64> =
        reduced().map(|weight| if weight > 0 { (weight * slots / sum).max(1) } else { 0 }).collect();
    let given: u64 = shares.iter().sum();

    let mut by_remainder: Vec<(u64, &mut u64)> = reduced()
        .zip(&mut shares)
        .filter(|(weight, _)| weight * slots >= sum)
        .map(|(weight, share)| (weight * slots % sum, share))
        .collect();
    by_remainder.sort_by_key(|(remainder, _)| Reverse(*remainder));
    for (_, share) in by_remainder.into_iter().take(slots.saturating_sub(given) as usize) {
        *share += 1;
    }

    let mut largest: BinaryHeap<(u64, Reverse<usize>)> =
        shares.iter().enumerate().map(|(index, share)| (*share, Reverse(index))).collect();
    for _ in slots..given {
        if let Some((share, Reverse(index))) = largest.pop() {
            largest.push((share - 1, Reverse(index)));
            if let Some(place) = shares.get_mut(index) {
                *place = share - 1;
            }
        }
    }
    shares
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A turn that waits to be taken, or whose time has come. At equal times the heavier goes first, since it has the next
/// turn soonest; then the earlier in the list, so that equal weights go in its order.
type Turn = Reverse<(u64, Reverse<u64>, u32)>;

/// One sequence: each index as often as its share says.
fn smooth(shares: &[u64]) -> Vec<u32> {
    let sum: u64 = shares.iter().sum();
    let turn = |time, share, index| Reverse((time, Reverse(share), index));
    let mut taken = vec![0u64; shares.len()];
    let mut waiting: BinaryHeap<Turn> = BinaryHeap::new();
    let mut ready: BinaryHeap<Turn> =
        (0..).zip(shares).filter(|(_, s)| **s > 0).map(|(i, s)| turn(sum.div_ceil(*s), *s, i)).collect();
    let mut places = Vec::with_capacity(sum as usize);
    for place in 0..sum {
        while waiting.peek().is_some_and(|Reverse((from, ..))| *from <= place) {
            let Some(Reverse((_, Reverse(share), index))) = waiting.pop() else { break };
            let before = taken.get(index as usize).map_or(0, |k| ((k + 1) * sum).div_ceil(share));
            ready.push(turn(before, share, index));
        }
        // There is always one: by place n, at least n + 1 turns may have been taken.
        let Some(Reverse((_, Reverse(share), index))) = ready.pop() else { break };
        places.push(index);
        if let Some(k) = taken.get_mut(index as usize) {
            *k += 1;
            waiting.push(turn(*k * sum / share, share, index));
        }
    }
    places
}

/// For each place who stands in: a backend's places go to the others in the order of the sequence itself, and so in
/// proportion. Each backend begins elsewhere, spread by the golden ratio, so that several that fail have other heirs.
fn alternates(primary: &[u32], backends: usize) -> Vec<u32> {
    let next = next_other(primary);
    let mut cursors: Vec<usize> =
        (0..backends).map(|index| index.wrapping_mul(0x9e37_79b9) % SLOTS % primary.len().max(1)).collect();
    let stand_in = |owner: &u32| {
        let cursor = cursors.get_mut(*owner as usize)?;
        let mut place = *cursor;
        if primary.get(place) == Some(owner) {
            place = *next.get(place)? as usize;
        }
        *cursor = (place + 1) % primary.len();
        primary.get(place).copied()
    };
    primary.iter().map(stand_in).map(|heir| heir.unwrap_or(NOBODY)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn letters(weights: &[u32]) -> String {
        smooth(&apportion(weights)).into_iter().map(|index| char::from(b'a' + index as u8)).collect()
    }

    #[test]
    fn turns_are_spread_out() {
        for (weights, order) in [
            (&[5, 1, 1][..], "aaabaac"),
            (&[1, 1, 2], "cacb"),
            (&[100, 100, 200], "cacb"),
            (&[1, 1, 1], "abc"),
            (&[7, 7], "ab"),
            (&[3, 0, 2], "acaac"),
            (&[0, 9], "b"),
            (&[0, 0], ""),
            (&[], ""),
        ] {
            assert_eq!(letters(weights), order, "{weights:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The definition. That any window deviates by at most one more follows, and so does the bound on bursts: who has
        /// at most a third gets at most two turns in a row, who has at most half at most three.
        #[test]
        fn each_prefix_holds_every_exact_share_rounded_down_or_up(weights in prop::collection::vec(0u32..60, 1..40)) {
            let shares = apportion(&weights);
            let sum: u64 = shares.iter().sum();
            let mut counts = vec![0u64; weights.len()];
            for (before, index) in (1u64..).zip(smooth(&shares)) {
                counts[index as usize] += 1;
                for (count, share) in counts.iter().zip(&shares) {
                    prop_assert!(*count >= before * share / sum && *count <= (before * share).div_ceil(sum));
                }
            }
            prop_assert_eq!(counts, shares);
        }

        #[test]
        fn proportions_of_a_ring_are_exact(weights in prop::collection::vec(1u32..100, 1..40), unit in 1u32..1000) {
            let scaled: Vec<u32> = weights.iter().map(|weight| weight * unit).collect();
            let ring = ring(&scaled);
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            prop_assert!(ring.period() > SLOTS / 2 && ring.period() <= SLOTS);
            let mut counts = vec![0u64; weights.len()];
            ring.used().for_each(|(primary, _)| counts[primary] += 1);
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(count * sum, u64::from(*weight) * ring.period() as u64);
            }
        }
    }

    #[test]
    fn bursts_are_bounded() {
        for weights in [&[1, 1, 1][..], &[3, 3, 2, 1], &[50, 20, 20, 10], &[1000, 999, 1]] {
            let sequence = smooth(&apportion(weights));
            let sum: u32 = weights.iter().sum();
            for run in sequence.chunk_by(|a, b| a == b) {
                let weight = weights[run[0] as usize];
                let longest = if weight * 3 <= sum { 2 } else { 3 };
                assert!(weight * 2 > sum || run.len() <= longest, "{weights:?}: {} in a row", run.len());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_rounded_by_the_largest_remainder_and_nobody_is_left_out() {
        let odd: Vec<u32> = (0..655).map(|i| 901 + i % 97).collect();
        let sum: u64 = odd.iter().map(|weight| u64::from(*weight)).sum();
        let shares = apportion(&odd);
        assert!(sum > SLOTS as u64);
        assert_eq!(shares.iter().sum::<u64>(), SLOTS as u64);
        for (share, weight) in shares.iter().zip(&odd) {
            let floor = u64::from(*weight) * SLOTS as u64 / sum;
            assert!((floor..=floor + 1).contains(share));
        }
        let mut small = vec![1_000_000, 999_999];
        small.resize(1002, 1);
        let shares = apportion(&small);
        assert_eq!(shares.iter().sum::<u64>(), SLOTS as u64);
        assert!(shares[2..].iter().all(|share| *share == 1));
        assert!(shares[0].abs_diff(shares[1]) <= 1, "{} {}", shares[0], shares[1]);
        assert_eq!(ring(&small).period(), SLOTS);
    }

    #[test]
    fn more_backends_than_slots_fill_the_ring_and_no_more() {
        let shares = apportion(&vec![1; SLOTS + 10]);
        assert_eq!(shares.iter().sum::<u64>(), SLOTS as u64);
        assert_eq!(shares.iter().max(), Some(&1));
    }

    #[test]
    fn a_failed_backends_turns_go_to_the_others_in_proportion() {
        for weights in [&[1, 1, 1][..], &[1, 1, 2], &[5, 1, 1], &[100, 1, 1], &[9, 7, 5, 3, 1], &[1; 40]] {
            let ring = ring(weights);
            for failed in 0..weights.len() {
                let mut heirs = vec![0u32; weights.len()];
                let failures = ring.used().filter(|(primary, _)| *primary == failed);
                failures.for_each(|(_, alternate)| heirs[alternate.unwrap()] += 1);
                assert_eq!(heirs[failed], 0);
                let shared: u32 = heirs.iter().sum();
                let others: u32 = weights.iter().sum::<u32>() - weights[failed];
                for heir in (0..weights.len()).filter(|heir| *heir != failed) {
                    let exact = f64::from(shared) * f64::from(weights[heir]) / f64::from(others);
                    let off = (f64::from(heirs[heir]) - exact).abs();
                    assert!(off <= 2.0, "{weights:?}, {failed} failed: {} instead of {exact} for {heir}", heirs[heir]);
                }
            }
        }
    }

    #[test]
    fn backends_that_fail_together_have_other_heirs() {
        let ring = ring(&[1; 2000]);
        let mut heirs = vec![0; 2000];
        ring.used().filter(|(primary, _)| *primary < 100).for_each(|(_, alternate)| heirs[alternate.unwrap()] += 1);
        // 100 backends of 32 turns each, and 1900 heirs.
        assert!(heirs.iter().max() <= Some(&4), "{:?}", heirs.iter().max());
    }

    #[test]
    fn a_single_backend_has_no_alternate() {
        let ring = ring(&[0, 4]);
        assert!(ring.used().all(|slot| slot == (1, None)));
        assert_eq!(ring.period(), SLOTS);
        assert_eq!(super::ring(&[0, 0]).period(), 0);
    }
}
