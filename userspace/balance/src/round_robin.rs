// SPDX-License-Identifier: GPL-3.0-only
//! Round robin: each backend in turn. Weights play no part, except that weight 0 gets no turn.
//!
//! The kernel turns through a [`ring`] with a cursor per CPU ([`Ring::turn`]), which should begin at a random place: CPUs
//! in step would send a burst to one backend. A worker keeps a [`RoundRobin`], or a cursor and a ring.

use crate::ring::Ring;
use crate::sequence;

/// The ring of these weights: everyone who has any, in the order of the list.
pub fn ring(weights: &[u32]) -> Ring {
    let equal: Vec<u32> = weights.iter().map(|weight| (*weight).min(1)).collect();
    sequence::ring(&equal)
}

/// Whose turn it is. One per worker and pool; it is not shared.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// Begins at `start`, so that workers do not all begin with the same backend.
    pub fn new(start: usize) -> RoundRobin {
        RoundRobin { next: start }
    }

    /// The next of `backends` that takes something now; `None` if none does. Whoever is skipped has had its turn.
    pub fn pick(&mut self, backends: usize, takes: impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..backends {
            let index = self.next % backends;
            self.next = index + 1;
            if takes(index) {
                return Some(index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_goes_by_the_list_and_skips_who_has_no_weight() {
        let ring = ring(&[9, 1, 0, 5]);
        let picked: Vec<_> = (0..7).map(|cursor| ring.at(ring.turn(cursor)).0.unwrap()).collect();
        assert_eq!(picked, [0, 1, 3, 0, 1, 3, 0]);
        assert_eq!(ring.period() % 3, 0);
    }

    #[test]
    fn everyone_gets_a_turn_in_order() {
        let mut turns = RoundRobin::default();
        let picked: Vec<_> = (0..7).map(|_| turns.pick(3, |_| true).unwrap()).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn who_takes_nothing_is_skipped() {
        let mut turns = RoundRobin::new(1);
        let picked: Vec<_> = (0..4).map(|_| turns.pick(3, |i| i != 1).unwrap()).collect();
        assert_eq!(picked, [2, 0, 2, 0]);
        assert_eq!(turns.pick(3, |_| false), None);
        assert_eq!(turns.pick(0, |_| true), None);
    }

    #[test]
    fn a_shrunk_list_is_no_trouble() {
        let mut turns = RoundRobin::new(9);
        assert_eq!(turns.pick(2, |_| true), Some(1));
        assert_eq!(turns.pick(2, |_| true), Some(0));
    }
}
