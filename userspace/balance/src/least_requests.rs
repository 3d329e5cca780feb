// SPDX-License-Identifier: GPL-3.0-only
//! Least requests: who has the fewest requests outstanding for its weight.
//!
//! The load is what has been asked and not yet answered: in a worker the requests in flight, in the kernel the flows whose
//! backend owes an answer. Idle connections do not count, which is all that tells this from least connections. A slow
//! backend holds its requests longer and so gets fewer. [`load`] has the comparison, the exact scan and the sampling.

use crate::load;
use crate::ring::Ring;

pub use crate::load::{Candidate, ring};

/// Picks by a [`ring`]; `of` tells how many requests a backend owes.
pub fn pick(ring: &Ring, random: u64, of: impl Fn(usize) -> Candidate) -> Option<usize> {
    load::pick(ring, random, of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Draws;
    use std::collections::VecDeque;

    /// One request arrives in each step; backend 0 answers after ten steps, the others after two.
    #[test]
    fn a_slow_backend_gets_fewer() {
        let ring = ring(&[1, 1, 1]);
        let mut outstanding = [0u32; 3];
        let mut answers: VecDeque<(u32, usize)> = VecDeque::new();
        let mut served = [0u32; 3];
        let mut draws = Draws(8);
        for now in 0..6000 {
            answers.retain(|(at, index)| {
                if *at <= now {
                    outstanding[*index] -= 1;
                }
                *at > now
            });
            let of = |index: usize| Candidate { load: outstanding[index], weight: 1 };
            let picked = pick(&ring, draws.whole(), of).unwrap();
            served[picked] += 1;
            outstanding[picked] += 1;
            answers.push_back((now + if picked == 0 { 10 } else { 2 }, picked));
        }
        // Round robin would give it 2000 and always have three outstanding there.
        assert!(served[0] <= 700 && served[0] >= 400, "{served:?}");
        assert!(served[1].abs_diff(served[2]) < 300, "{served:?}");
    }
}
