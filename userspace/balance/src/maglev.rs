// SPDX-License-Identifier: GPL-3.0-only
//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4), with weights in proportion and an alternate for each slot.
//!
//! Each backend walks the slots in an order of its own, derived from the pool's key and its name, and takes the next
//! free one when its turn comes; turns come in proportion to weight. When a backend leaves, its slots are shared out and
//! few others change. A backend's name must be stable and unique in the pool: its place in the list does not matter.

use crate::hash;
use crate::ring::{NOBODY, Ring, SLOTS};

/// The ring of `backends` (name, weight) under the pool's key. A backend of weight 0 gets no slot, one whose share is
/// less than a slot may get none; if none has any weight, the ring picks nobody.
///
/// Cost: each backend walks over slots that others have taken. Some 10 ms, whatever their number.
pub fn ring(key: [u64; 2], backends: &[(&str, u32)]) -> Ring {
    let primary = fill(key, backends);
    if primary.first().is_none_or(|owner| *owner == NOBODY) {
        return Ring::new(Vec::new(), Vec::new());
    }
    let alternate = alternates(key, &primary);
    Ring::new(primary, alternate)
}

/// One backend's walk over the slots.
struct Walk {
    index: u32,
    weight: u64,
    credit: u64,
    next: usize,
    skip: usize,
}

impl Walk {
    fn new(key: [u64; 2], index: usize, name: &str, weight: u32) -> Walk {
        let hash = |domain: &[u8]| hash::bytes_of(key, &[domain, name.as_bytes()].concat());
        Walk {
            index: index as u32,
            weight: u64::from(weight),
            credit: 0,
            next: (hash(b"offset:") % SLOTS as u64) as usize,
            // Any step from 1 to SLOTS - 1 visits every slot of a prime number of them.
            skip: (hash(b"skip:") % (SLOTS as u64 - 1)) as usize + 1,
        }
    }

    /// Takes the next free slot in this backend's order. There is one: the caller counts.
    fn take(&mut self, table: &mut [u32]) {
        loop {
            let slot = self.next;
            self.next = (self.next + self.skip) % SLOTS;
            match table.get_mut(slot) {
                Some(entry) if *entry == NOBODY => {
                    *entry = self.index;
                    return;
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// The paper's figure 4 ("populate"), with weights: a round adds each backend's weight to its credit, and a slot costs as
/// much as the greatest weight. So shares are exact to a slot, and equal weights are the paper's algorithm.
fn fill(key: [u64; 2], backends: &[(&str, u32)]) -> Vec<u32> {
    let mut table = vec![NOBODY; SLOTS];
    let weighted = backends.iter().enumerate().filter(|(_, (_, weight))| *weight > 0);
    let mut walks: Vec<(&str, Walk)> =
        weighted.map(|(index, (name, weight))| (*name, Walk::new(key, index, name, *weight))).collect();
    // Turns go by name: two nodes that list the same pool in another order agree.
    walks.sort_by_key(|(name, _)| *name);
    let Some(price) = walks.iter().map(|(_, walk)| walk.weight).max() else {
        return table;
    };
    let mut free = SLOTS;
    while free > 0 {
        for (_, walk) in &mut walks {
            walk.credit += walk.weight;
            if walk.credit >= price && free > 0 {
                walk.credit -= price;
                walk.take(&mut table);
                free -= 1;
            }
        }
    }
    table
}

/// For each slot the owner of another one that is not its own: the first met on a walk that begins where the slot's own
/// hash says. So a failed backend's load is shared out in proportion, not given to one neighbour. (A step that is the
/// same for all slots would not do: owners' slots lie in regular patterns themselves.)
fn alternates(key: [u64; 2], primary: &[u32]) -> Vec<u32> {
    let mut owners = primary.iter();
    let first = owners.next();
    if owners.all(|owner| Some(owner) == first) {
        return vec![NOBODY; primary.len()];
    }
    let other = |slot: usize, owner: u32| {
        let start = hash::bytes_of(key, &[b"alternate:", slot.to_le_bytes().as_slice()].concat());
        let step = (start >> 32) as usize % (SLOTS - 1) + 1;
        let start = start as u32 as usize % SLOTS;
        let walk = (0..SLOTS).map(|turn| (start + turn * step) % SLOTS);
        walk.filter_map(|at| primary.get(at).copied()).find(|candidate| *candidate != owner).unwrap_or(NOBODY)
    };
    primary.iter().enumerate().map(|(slot, owner)| other(slot, *owner)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, KEY, key, names, shares};
    use proptest::prelude::*;

    fn alike(names: &[String]) -> Vec<(&str, u32)> {
        names.iter().map(|name| (name.as_str(), 1)).collect()
    }

    /// At most one slot more than the mean: up to 655 backends, who have 100 slots each, that is within a hundredth.
    #[test]
    fn equal_weights_get_equal_shares_to_a_slot() {
        for n in [1, 2, 3, 7, 10, 100, 655] {
            let names = names(n);
            let counts = shares(&ring(KEY, &alike(&names)), n);
            let (most, least) = (*counts.iter().max().unwrap(), *counts.iter().min().unwrap());
            assert!(most - least <= 1, "{n} backends: {counts:?}");
            assert!(most as f64 * n as f64 / SLOTS as f64 <= 1.01);
        }
    }

    #[test]
    fn weights_are_honoured_in_proportion() {
        for weights in [vec![100, 100, 200], vec![100, 100, 200, 1, 0]] {
            let names = names(weights.len());
            let pool: Vec<_> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let counts = shares(&ring(KEY, &pool), weights.len());
            for (count, weight) in counts.iter().zip(&weights) {
                let ideal = SLOTS as f64 * f64::from(*weight) / f64::from(weights.iter().sum::<u32>());
                assert!((*count as f64 - ideal).abs() <= 1.5, "{count} slots instead of {ideal}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_share_exceeds_its_weight_by_a_hundredth(weights in prop::collection::vec(1u32..20, 1..40), k in any::<[u64; 2]>()) {
            let names = names(weights.len());
            let backends: Vec<_> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let counts = shares(&ring(k, &backends), weights.len());
            let total: u32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let mean = SLOTS as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!(*count as f64 / mean <= 1.01, "{count} slots, {mean} would be even");
            }
        }
    }

    /// Slots whose owner changes when one of `n` leaves, in per cent of all: the leaver's and others', means of 20 keys.
    fn moved_when_one_leaves(n: usize) -> (f64, f64) {
        let names = names(n);
        let (mut own, mut others) = (0, 0);
        for seed in 0..20 {
            let leaver = seed as usize * 7 % n;
            let mut rest = alike(&names);
            rest[leaver].1 = 0;
            let (before, after) = (fill(key(seed), &alike(&names)), fill(key(seed), &rest));
            for (old, new) in before.iter().zip(&after).filter(|(old, new)| old != new) {
                assert_ne!(*new as usize, leaver);
                *(if *old as usize == leaver { &mut own } else { &mut others }) += 1;
            }
        }
        let per_cent = |slots: i32| f64::from(slots) * 100.0 / (20 * SLOTS) as f64;
        (per_cent(own), per_cent(others))
    }

    /// All slots that change their owner: the share of the one that leaves, which has to move (10, 1 and 0.15 %), and what
    /// moves among those that stay (0.26, 0.57 and 0.77 %), which is Maglev's price for even shares. A plain modulo would
    /// move 90 % and more.
    #[test]
    fn few_slots_move_when_a_backend_leaves() {
        for (n, expected) in [(10, 10.29), (100, 1.59), (655, 0.94)] {
            let (own, others) = moved_when_one_leaves(n);
            assert!((own - 100.0 / n as f64).abs() < 0.001, "{n}: {own} %");
            assert!(
                (own + others - expected).abs() <= 0.1,
                "one of {n} leaves: {own} + {others} %, expected {expected} %"
            );
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        testing::order_does_not_matter(ring);
    }

    #[test]
    fn another_key_is_another_ring() {
        let backends = [("a", 1), ("b", 1), ("c", 1)];
        let (one, two) = (ring(KEY, &backends), ring([1, 2], &backends));
        let same = (0..SLOTS).filter(|s| one.at(*s) == two.at(*s)).count();
        assert!(same < SLOTS / 2);
    }

    #[test]
    fn a_failed_backends_load_is_shared_out() {
        testing::heirs_are_in_proportion(ring, 0.10);
    }

    #[test]
    fn a_lone_backend_has_no_alternate_and_an_empty_pool_nobody() {
        testing::lone_and_empty(ring);
    }

    #[test]
    fn pick_falls_to_the_alternate_and_pick_any_beyond() {
        let backends = [("a", 1), ("b", 1), ("c", 1)];
        let table = ring(KEY, &backends);
        for hash in (0..10_000u64).map(|i| hash::bytes_of(KEY, &i.to_le_bytes())) {
            let (primary, alternate) = table.at(Ring::slot(hash));
            assert_eq!(table.pick(hash, |_| true), primary);
            assert_eq!(table.pick(hash, |i| Some(i) != primary), alternate);
            let last = (0..3).find(|i| Some(*i) != primary && Some(*i) != alternate);
            assert_eq!(table.pick(hash, |i| Some(i) == last), None);
            assert_eq!(table.pick_any(hash, |i| Some(i) == last), last);
        }
    }
}
