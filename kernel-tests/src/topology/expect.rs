// SPDX-License-Identifier: GPL-3.0-only
//! What `eg_balance` says should happen to a client's packet: the judge of where connections went.

use std::net::SocketAddr;

use eg_abi::{FlowKey, Plain};
use eg_balance::hash::{flow, pool_key};
use eg_balance::{Ring, maglev};

/// A pool as configured.
pub struct Pool {
    key: [u64; 2],
    ring: Ring,
}

impl Pool {
    /// `backends` are names with weights, in the configuration's order.
    pub fn new(seed: [u8; 16], pool: &str, backends: &[(&str, u32)]) -> Pool {
        let key = pool_key(seed, pool);
        Pool { key, ring: maglev::ring(key, backends) }
    }

    /// The index of the backend that a new flow from `client` to `vip` gets.
    pub fn pick(&self, client: SocketAddr, vip: SocketAddr, proto: u8) -> usize {
        let bytes = FlowKey::new(client, vip, proto).to_bytes();
        self.ring.pick(flow(self.key, &bytes), |_| true).expect("a backend")
    }
}
