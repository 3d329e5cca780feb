// SPDX-License-Identifier: GPL-3.0-only
//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4), with weights in proportion and an alternate for each slot.
//!
//! Each backend walks the slots in an order of its own, derived from the pool's key and its name, and takes the next
//! free one when its turn comes; turns come in proportion to weight. When a backend leaves, its slots are shared out and
//! few others change. A backend's name must be stable and unique in the pool: its place in the list does not matter.

use crate::hash;

/// Slots of a table: a prime, as the paper asks, and at least 100 times the number of backends a pool is meant for, so
/// that a share is exact to one per cent. `EG_RING_SLOTS` in `bpf/abi.h`.
pub const SLOTS: usize = 65537;

/// A filled table. Entries are indexes into the list it was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    primary: Vec<u32>,
    alternate: Vec<u32>,
}

/// In a table of one backend, or of none.
const NOBODY: u32 = u32::MAX;

impl Table {
    /// Builds the table of `backends` (name, weight) under the pool's key. A backend of weight 0 gets no slot; if none
    /// has any weight, the table picks nobody.
    pub fn new(key: [u64; 2], backends: &[(&str, u32)]) -> Table {
        let primary = fill(key, backends);
        let alternate = alternates(key, &primary);
        Table { primary, alternate }
    }

    /// The slot of a hash: `hash_slot` in `bpf/lib/hash.h`.
    pub fn slot(hash: u64) -> usize {
        ((hash >> 32) ^ hash) as u32 as usize % SLOTS
    }

    /// The owner of a slot, and who stands in for it.
    pub fn at(&self, slot: usize) -> (Option<usize>, Option<usize>) {
        let entry = |table: &[u32]| table.get(slot).filter(|index| **index != NOBODY).map(|index| *index as usize);
        (entry(&self.primary), entry(&self.alternate))
    }

    /// Who gets this hash: the owner of its slot, the alternate if that one takes nothing now, else nobody. The kernel's
    /// `pick` decides the same.
    pub fn pick(&self, hash: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let (primary, alternate) = self.at(Table::slot(hash));
        primary.filter(|index| takes(*index)).or(alternate.filter(|index| takes(*index)))
    }

    /// As [`Table::pick`], but goes on to the following slots' owners while neither takes anything: for callers that can
    /// afford the walk and would rather serve.
    pub fn pick_any(&self, hash: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        self.pick(hash, &takes).or_else(|| {
            let following = self.primary.iter().cycle().skip(Table::slot(hash)).take(SLOTS);
            following.filter(|index| **index != NOBODY).map(|index| *index as usize).find(|index| takes(*index))
        })
    }
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
    use proptest::prelude::*;

    const KEY: [u64; 2] = [0x0706050403020100, 0x0f0e0d0c0b0a0908];

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("10.0.{}.{}:80", i / 250, i % 250 + 1)).collect()
    }

    fn shares(table: &Table, backends: usize) -> Vec<usize> {
        let mut counts = vec![0; backends];
        for slot in 0..SLOTS {
            counts[table.at(slot).0.unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_number_of_slots_is_prime() {
        assert!((2..SLOTS).take_while(|d| d * d <= SLOTS).all(|d| !SLOTS.is_multiple_of(d)));
    }

    #[test]
    fn equal_weights_get_equal_shares_to_a_slot() {
        for n in [1, 2, 3, 7, 100, 655] {
            let names = names(n);
            let backends: Vec<_> = names.iter().map(|name| (name.as_str(), 5)).collect();
            let counts = shares(&Table::new(KEY, &backends), n);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{n} backends: {counts:?}");
        }
    }

    #[test]
    fn weights_are_honoured_in_proportion() {
        let table = Table::new(KEY, &[("a", 100), ("b", 100), ("c", 200), ("d", 1), ("e", 0)]);
        let counts = shares(&table, 5);
        for (count, weight) in counts.iter().zip([100, 100, 200, 1, 0]) {
            let ideal = SLOTS as f64 * f64::from(weight) / 401.0;
            assert!((*count as f64 - ideal).abs() <= 1.5, "{count} slots instead of {ideal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_share_exceeds_its_weight_by_a_hundredth(weights in prop::collection::vec(1u32..20, 1..40), k in any::<[u64; 2]>()) {
            let names = names(weights.len());
            let backends: Vec<_> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let counts = shares(&Table::new(k, &backends), weights.len());
            let total: u32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let mean = SLOTS as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!(*count as f64 / mean <= 1.01, "{count} slots, {mean} would be even");
            }
        }
    }

    #[test]
    fn few_slots_move_when_a_backend_leaves() {
        let names = names(20);
        let before: Vec<_> = names.iter().map(|n| (n.as_str(), 1)).collect();
        let mut after = before.clone();
        after[7].1 = 0;
        let (a, b) = (Table::new(KEY, &before), Table::new(KEY, &after));
        let moved = (0..SLOTS).filter(|s| a.at(*s).0 != Some(7) && a.at(*s).0 != b.at(*s).0).count();
        // The paper's figure 12: within a few per cent at 65537 slots. A plain modulo would move 95 %.
        assert!(moved < SLOTS * 3 / 100, "{moved} slots of others moved");
        assert!((0..SLOTS).all(|s| b.at(s).0 != Some(7)));
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let forward = [("a", 1), ("b", 2), ("c", 3)];
        let backward = [("c", 3), ("b", 2), ("a", 1)];
        let (f, b) = (Table::new(KEY, &forward), Table::new(KEY, &backward));
        for slot in 0..SLOTS {
            assert_eq!(f.at(slot).0.map(|i| forward[i].0), b.at(slot).0.map(|i| backward[i].0));
            assert_eq!(f.at(slot).1.map(|i| forward[i].0), b.at(slot).1.map(|i| backward[i].0));
        }
    }

    #[test]
    fn another_key_is_another_table() {
        let backends = [("a", 1), ("b", 1), ("c", 1)];
        let (one, two) = (Table::new(KEY, &backends), Table::new([1, 2], &backends));
        let same = (0..SLOTS).filter(|s| one.at(*s) == two.at(*s)).count();
        assert!(same < SLOTS / 2);
    }

    #[test]
    fn alternates_differ_from_their_primary_and_share_its_load() {
        let names = names(5);
        let backends: Vec<_> = names.iter().map(|n| (n.as_str(), 1)).collect();
        let table = Table::new(KEY, &backends);
        let mut heirs = [0usize; 5];
        for slot in 0..SLOTS {
            let (primary, alternate) = table.at(slot);
            assert_ne!(primary, alternate);
            if primary == Some(0) {
                heirs[alternate.unwrap()] += 1;
            }
        }
        let quarter = SLOTS / 5 / 4;
        for heir in &heirs[1..] {
            assert!(heir.abs_diff(quarter) < quarter / 10, "shares of a failed backend: {heirs:?}");
        }
    }

    #[test]
    fn a_single_backend_has_no_alternate() {
        let table = Table::new(KEY, &[("a", 1)]);
        assert_eq!(table.at(0), (Some(0), None));
        assert_eq!(table.pick(5, |_| true), Some(0));
        assert_eq!(table.pick(5, |_| false), None);
    }

    #[test]
    fn nobody_is_picked_from_an_empty_pool() {
        assert_eq!(Table::new(KEY, &[]).pick(5, |_| true), None);
        assert_eq!(Table::new(KEY, &[("a", 0)]).pick_any(5, |_| true), None);
    }

    #[test]
    fn pick_falls_to_the_alternate_and_pick_any_beyond() {
        let backends = [("a", 1), ("b", 1), ("c", 1)];
        let table = Table::new(KEY, &backends);
        for hash in (0..10_000u64).map(|i| hash::bytes_of(KEY, &i.to_le_bytes())) {
            let (primary, alternate) = table.at(Table::slot(hash));
            assert_eq!(table.pick(hash, |_| true), primary);
            assert_eq!(table.pick(hash, |i| Some(i) != primary), alternate);
            let last = (0..3).find(|i| Some(*i) != primary && Some(*i) != alternate);
            assert_eq!(table.pick(hash, |i| Some(i) == last), None);
            assert_eq!(table.pick_any(hash, |i| Some(i) == last), last);
        }
    }
}
