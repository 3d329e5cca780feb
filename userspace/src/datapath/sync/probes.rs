// SPDX-License-Identifier: GPL-3.0-only
//! Whom probes may ask: each backend that takes new flows, for each VIP that is forwarded to it without nat.

use std::collections::HashSet;

use eg_skel::abi::{BackendState, Probe};

use super::{BackendKey, Tables, stored, vip_key};
use crate::config::plan::{DatapathPlan, ForwardPlan};

impl Tables {
    /// As the maps know them now.
    pub(crate) fn pairs(&self, plan: &DatapathPlan) -> HashSet<Probe> {
        let mut pairs = HashSet::new();
        for vip in plan.vips.iter().filter(|vip| !matches!(vip.forward, ForwardPlan::Nat { .. })) {
            let pool = plan.pools.iter().find(|pool| pool.name == vip.pool);
            let (Some(entry), Some(pool)) = (self.vips.get(&vip_key(vip)), pool) else { continue };
            pairs.extend(pool.backends.iter().filter_map(|backend| {
                let (name, address) = (stored(&backend.name), backend.address);
                let known = self.backends.get(&BackendKey { pool: pool.name.clone(), name, address })?;
                known.is(BackendState::Up).then_some(Probe {
                    vip: entry.id,
                    epoch: entry.value.epoch,
                    backend: known.id,
                    generation: known.value.generation,
                })
            }));
        }
        pairs
    }
}
