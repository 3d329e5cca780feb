// SPDX-License-Identifier: GPL-3.0-only
//! The eleven, by the operator's names.

use crate::{
    Ring, ewma, least_connections, least_requests, maglev, p2c, random, ring_hash, round_robin, session_affinity,
    weighted_random, weighted_round_robin,
};

/// How a pool picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Each in turn.
    RoundRobin,
    /// Turns in proportion to weight.
    WeightedRoundRobin,
    /// Drawn, all alike.
    Random,
    /// Drawn in proportion to weight.
    WeightedRandom,
    /// The less loaded of two drawn.
    P2c,
    /// Hashed, as even as can be.
    Maglev,
    /// Hashed, moving as little as can be.
    RingHash,
    /// The less slow of two drawn.
    Ewma,
    /// The fewest open connections.
    LeastConnections,
    /// The fewest outstanding requests.
    LeastRequests,
    /// By what tells clients apart.
    SessionAffinity,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 11] = [
        Algorithm::RoundRobin,
        Algorithm::WeightedRoundRobin,
        Algorithm::Random,
        Algorithm::WeightedRandom,
        Algorithm::P2c,
        Algorithm::Maglev,
        Algorithm::RingHash,
        Algorithm::Ewma,
        Algorithm::LeastConnections,
        Algorithm::LeastRequests,
        Algorithm::SessionAffinity,
    ];

    /// The name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::RoundRobin => "round-robin",
            Algorithm::WeightedRoundRobin => "weighted-round-robin",
            Algorithm::Random => "random",
            Algorithm::WeightedRandom => "weighted-random",
            Algorithm::P2c => "p2c",
            Algorithm::Maglev => "maglev",
            Algorithm::RingHash => "ring-hash",
            Algorithm::Ewma => "ewma",
            Algorithm::LeastConnections => "least-connections",
            Algorithm::LeastRequests => "least-requests",
            Algorithm::SessionAffinity => "session-affinity",
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The ring of `backends` (name, weight) under the pool's key. What an algorithm does not use is ignored: the key and
    /// the names by all but the hashed ones, the weights (unless 0) by round robin and random.
    pub fn ring(self, key: [u64; 2], backends: &[(&str, u32)]) -> Ring {
        let weights: Vec<u32> = backends.iter().map(|(_, weight)| *weight).collect();
        match self {
            Algorithm::RoundRobin => round_robin::ring(&weights),
            Algorithm::WeightedRoundRobin => weighted_round_robin::ring(&weights),
            Algorithm::Random => random::ring(&weights),
            Algorithm::WeightedRandom => weighted_random::ring(&weights),
            Algorithm::P2c => p2c::ring(&weights),
            Algorithm::Maglev => maglev::ring(key, backends),
            Algorithm::RingHash => ring_hash::ring(key, backends),
            Algorithm::Ewma => ewma::ring(&weights),
            Algorithm::LeastConnections => least_connections::ring(&weights),
            Algorithm::LeastRequests => least_requests::ring(&weights),
            Algorithm::SessionAffinity => session_affinity::ring(key, backends),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::KEY;

    #[test]
    fn names_lead_back_to_their_algorithm() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_name("fastest"), None);
    }

    /// Who owns which part of a ring; for the two that compare everybody, each is there once.
    #[test]
    fn every_ring_honours_its_weights() {
        for algorithm in Algorithm::ALL {
            let ring = algorithm.ring(KEY, &[("a", 100), ("b", 100), ("c", 200), ("d", 0)]);
            let mut shares = [0.0; 4];
            ring.used().for_each(|(primary, _)| shares[primary] += 1.0 / ring.period() as f64);
            let (expected, margin) = match algorithm {
                Algorithm::WeightedRoundRobin | Algorithm::WeightedRandom | Algorithm::P2c | Algorithm::Ewma => {
                    ([0.25, 0.25, 0.5, 0.0], 1e-9)
                }
                Algorithm::Maglev => ([0.25, 0.25, 0.5, 0.0], 1e-4),
                Algorithm::RingHash | Algorithm::SessionAffinity => ([0.25, 0.25, 0.5, 0.0], 0.02),
                Algorithm::RoundRobin | Algorithm::Random => ([1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0], 1e-9),
                Algorithm::LeastConnections | Algorithm::LeastRequests => {
                    ([1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0], 1e-9)
                }
            };
            for (share, expected) in shares.iter().zip(expected) {
                assert!((share - expected).abs() <= margin, "{}: {shares:?}", algorithm.name());
            }
            assert!(ring.used().all(|(primary, alternate)| alternate.is_some_and(|other| other != primary)));
        }
    }
}
