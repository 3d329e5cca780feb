// SPDX-License-Identifier: GPL-3.0-only
//! Where routes lead: pools of backends, and how one of them is picked.

use eg_balance::{Ring, hash, maglev};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Backends that serve the same thing.
#[derive(Debug)]
pub struct Pool {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// How one is picked.
    pub algorithm: Algorithm,
    /// Who can be picked.
    pub backends: Vec<Arc<Backend>>,
    /// For Maglev: which backend owns which slot, and the key of the hash.
    ring: Option<(Ring, [u64; 2])>,
}

impl Pool {
    /// Builds what picking needs; a Maglev ring takes a few milliseconds.
    pub fn new(name: Arc<str>, algorithm: Algorithm, backends: Vec<Arc<Backend>>) -> Pool {
        let ring = match &algorithm {
            Algorithm::RoundRobin => None,
            Algorithm::Maglev { seed } => {
                let key = hash::pool_key(*seed, &name);
                let weights: Vec<(&str, u32)> = backends.iter().map(|b| (&*b.name, b.weight)).collect();
                Some((maglev::ring(key, &weights), key))
            }
        };
        Pool { name, algorithm, backends, ring }
    }

    /// The backend that serves a client's address, as long as it `takes` requests; the next one if not.
    pub(crate) fn maglev(&self, client: IpAddr, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let (ring, key) = self.ring.as_ref()?;
        let address = match client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        ring.pick_any(hash::bytes_of(*key, &address.octets()), takes)
    }
}

/// How a backend is picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// One after the other, by weight.
    RoundRobin,
    /// By the hash of the client's address, with this seed.
    Maglev { seed: [u8; 16] },
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the pool, in proportion to the others' weights.
    pub weight: u32,
}
