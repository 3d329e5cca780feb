// SPDX-License-Identifier: GPL-3.0-only
//! Least connections: who has the fewest connections open for its weight, busy or idle.
//!
//! The load is what is open now: in the kernel the backend's live flows, in a worker its connections. For clients that
//! stay (databases, WebSockets, streams). [`load`] has the comparison, the exact scan and the sampling.

use crate::load;
use crate::ring::Ring;

pub use crate::load::{Candidate, ring};

/// Picks by a [`ring`]; `of` tells how many connections a backend has open.
pub fn pick(ring: &Ring, random: u64, of: impl Fn(usize) -> Candidate) -> Option<usize> {
    load::pick(ring, random, of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_loses_connections_gets_the_next_ones() {
        let ring = ring(&[1, 1, 1]);
        let mut open = [5u32; 3];
        open[1] = 2;
        for random in 0..3 {
            let of = |index: usize| Candidate { load: open[index], weight: 1 };
            let picked = pick(&ring, random, of).unwrap();
            assert_eq!(picked, 1);
            open[picked] += 1;
        }
        assert_eq!(open, [5; 3]);
    }
}
