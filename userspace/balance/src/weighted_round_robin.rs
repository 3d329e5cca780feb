// SPDX-License-Identifier: GPL-3.0-only
//! Weighted round robin: turns in proportion to weight, evenly spaced, by a cursor ([`Ring::turn`]). [`sequence`] says
//! what the order promises.

use crate::ring::Ring;
use crate::sequence;

/// The ring of these weights.
pub fn ring(weights: &[u32]) -> Ring {
    sequence::ring(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_gives_each_its_weight_and_no_burst() {
        let ring = ring(&[100, 100, 200]);
        let picked: Vec<_> = (0..8).map(|cursor| ring.at(ring.turn(cursor)).0.unwrap()).collect();
        assert_eq!(picked, [2, 0, 2, 1, 2, 0, 2, 1]);
    }

    #[test]
    fn a_backend_that_is_down_is_replaced_by_all_others_in_turn() {
        let ring = ring(&[1, 1, 1, 1]);
        let mut served = [0; 4];
        for cursor in 0..1200 {
            served[ring.pick_at(ring.turn(cursor), |index| index != 1).unwrap()] += 1;
        }
        assert_eq!(served, [400, 0, 400, 400]);
    }
}
