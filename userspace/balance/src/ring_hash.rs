// SPDX-License-Identifier: GPL-3.0-only
//! Ring hash: consistent hashing (Karger et al., "Consistent Hashing and Random Trees", STOC 1997) with virtual nodes.
//!
//! Each backend has points on a circle, in proportion to its weight, where the pool's key and its name say. The slots of
//! the ring lie on the same circle at even distances, and a slot belongs to the next point. So when a backend leaves, its
//! slots move and no others; when one joins, slots move to it and nowhere else. The alternate is the owner of the next
//! point that is another's: exactly who gets the slot if its owner leaves.
//!
//! What that costs is evenness: [`POINTS`] says how even shares are. Maglev is even and moves a few more.

use crate::hash;
use crate::ring::{NOBODY, Ring, SLOTS, next_other};

/// The heaviest backend has at least so many points, and fewer than twice as many. A share of n points strays by 1/sqrt(n),
/// and a table of 65,537 slots adds 1/sqrt(slots of the share). With equal weights the greatest share is at most 1.10
/// times the mean among 10 backends, 1.20 among 100, 1.45 among 655.
pub const POINTS: u64 = 1024;

/// All points together: they are hashed and sorted, which takes up to 0.3 s, and need 32 bytes each until the ring is laid
/// out. Pools of more than 1024 backends may get fewer points each: a half, a quarter.
const POINTS_MAX: u64 = 1 << 21;

/// The ring of `backends` (name, weight) under the pool's key. A name must be stable and unique in the pool; its place in
/// the list does not matter. A backend of weight 0 gets no slot.
///
/// Points per weight are a power of two: they change, and other slots with them, only if the greatest weight passes one,
/// or the number of points `POINTS_MAX`.
pub fn ring(key: [u64; 2], backends: &[(&str, u32)]) -> Ring {
    let points = points(key, backends);
    let owners: Vec<u32> = points.iter().map(|(_, owner)| *owner).collect();
    let next = next_other(&owners);
    let owner = |point: usize| owners.get(point).copied().unwrap_or(NOBODY);
    let stand_in = |point: usize| next.get(point).map(|other| owner(*other as usize)).unwrap_or(NOBODY);
    let mut point = 0;
    let mut slots = (Vec::with_capacity(SLOTS), Vec::with_capacity(SLOTS));
    for slot in 0..SLOTS as u128 {
        let at = ((slot << 64) / SLOTS as u128) as u64;
        while points.get(point).is_some_and(|(position, _)| *position < at) {
            point += 1;
        }
        // After the last point comes the first.
        let found = if point < points.len() { point } else { 0 };
        slots.0.push(owner(found));
        slots.1.push(stand_in(found));
    }
    if points.is_empty() { Ring::new(Vec::new(), Vec::new()) } else { Ring::new(slots.0, slots.1) }
}

/// Position and owner of all points, in order of position.
fn points(key: [u64; 2], backends: &[(&str, u32)]) -> Vec<(u64, u32)> {
    let greatest = backends.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(0);
    let sum: u64 = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut shift = 0;
    while (greatest * POINTS) >> shift >= 2 * POINTS || (sum * POINTS) >> shift > POINTS_MAX {
        shift += 1;
    }
    let mut points: Vec<(u64, &str, u32)> = Vec::new();
    for (index, (name, weight)) in (0u32..).zip(backends) {
        let seed = hash::bytes_of(key, &[b"points:", name.as_bytes()].concat());
        let position = |n: u64| hash::bytes_of(key, &[seed.to_le_bytes(), n.to_le_bytes()].concat());
        let count = ((u64::from(*weight) * POINTS) >> shift).max(u64::from(*weight).min(1));
        points.extend((0..count).map(|n| (position(n), *name, index)));
    }
    points.sort_unstable();
    points.into_iter().map(|(position, _, index)| (position, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, KEY};

    #[test]
    fn removing_a_backend_moves_its_own_slots_to_their_alternates_and_no_others() {
        testing::removing_moves_only_its_own_slots_to_their_alternates(ring);
    }

    #[test]
    fn adding_a_backend_moves_slots_to_it_and_nowhere_else() {
        testing::adding_moves_slots_only_to_it(ring);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        testing::order_does_not_matter(ring);
    }

    #[test]
    fn a_lone_backend_has_no_alternate_and_an_empty_pool_nobody() {
        testing::lone_and_empty(ring);
    }

    #[test]
    fn shares_are_as_even_as_points_make_them() {
        for (backends, keys, bound) in [(10, 10, 1.10), (100, 10, 1.20), (655, 3, 1.45)] {
            testing::shares_are_within(ring, backends, keys, bound);
        }
    }

    /// A quarter of 3200 points has a standard deviation of 3 % of it: three of them.
    #[test]
    fn shares_follow_the_weights() {
        testing::shares_follow_the_weights(ring, 0.10);
    }

    /// The smallest part is some 85 arcs of differing length, whose standard deviation is 15 %.
    #[test]
    fn a_failed_backends_load_is_shared_out() {
        testing::heirs_are_in_proportion(ring, 0.40);
    }

    #[test]
    fn points_are_in_proportion_to_weight_and_bounded() {
        let count = |backends: &[(&str, u32)], index: u32| {
            points(KEY, backends).iter().filter(|(_, owner)| *owner == index).count()
        };
        assert_eq!(count(&[("a", 1), ("b", 1)], 0), 1024);
        assert_eq!([0, 1, 2].map(|i| count(&[("a", 100), ("b", 200), ("c", 0)], i)), [800, 1600, 0]);
        assert_eq!([0, 1].map(|i| count(&[("a", u32::MAX), ("b", 1)], i)), [2047, 1]);
        let names = testing::names(5000);
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(points(KEY, &many).len(), 5000 * 256);
    }
}
