// SPDX-License-Identifier: GPL-3.0-only
//! Rings: who gets a pool's new flows. Built by `eg_balance`, swapped into the kernel whole.
//!
//! A ring holds the members that take flows and whose next hop is known. It is rebuilt when that set or its weights
//! change and at no other time: each swap costs a grace period, some 10 ms, and moves a few flows that have no entry yet.

use std::collections::HashMap;

use eg_balance::ring::SLOTS;
use eg_balance::{Ring, ewma};
use eg_skel::abi::{self, BackendState, Pool, Slot};
use eg_skel::maps::NewRing;

use super::super::error::DatapathError;
use super::{PoolEntry, Tables};
use crate::config::plan::{AffinityPlan, Algorithm};

/// Rings that are swapped in together: half a megabyte each while they are made, and one grace period for all.
const AT_ONCE: usize = 64;

const _: () = assert!(SLOTS == abi::RING_SLOTS as usize);

/// A pool's secret: the kernel hashes its flows with it.
pub(super) fn hash_key(seed: &[u8; 16], pool: &str) -> [u64; 2] {
    eg_balance::hash::pool_key(*seed, pool)
}

impl Tables {
    /// Step 3: from now on rings are built from the plan's members. Until here they were built from the last plan's, so
    /// that no ring lost its old members before the new ones had next hops.
    pub(crate) fn commit_members(&mut self) -> Result<(), DatapathError> {
        for pool in self.pools.values_mut() {
            if pool.wanted.is_some() {
                pool.members = pool.wanted.take();
            }
        }
        self.rings()
    }

    /// Rebuilds the rings whose usable members have changed.
    pub(crate) fn rings(&mut self) -> Result<(), DatapathError> {
        let stale: Vec<Rebuilt> = self.pools.iter().filter_map(|(name, pool)| self.stale(name, pool)).collect();
        stale.chunks(AT_ONCE).try_for_each(|batch| self.rebuild(batch))
    }

    /// The pool, if its ring is not of its usable members.
    fn stale(&self, name: &str, pool: &PoolEntry) -> Option<Rebuilt> {
        let members = pool.members.as_ref()?;
        let (algorithm, affinity) = pool.chooses?;
        let taking = members.iter().filter_map(|(key, weight)| {
            let entry = self.backends.get(key)?;
            let usable = entry.is(BackendState::Up) && entry.resolved() && *weight > 0;
            usable.then(|| ((key.name.clone(), *weight), (entry.id, *weight)))
        });
        let (named, usable): (Vec<_>, Vec<_>) = taking.unzip();
        (pool.built.as_ref() != Some(&usable)).then(|| Rebuilt {
            name: name.to_owned(),
            id: pool.id,
            hash_key: pool.hash_key,
            algorithm,
            affinity,
            members: members.len(),
            named,
            usable,
        })
    }

    fn rebuild(&mut self, batch: &[Rebuilt]) -> Result<(), DatapathError> {
        let (mut rings, mut elements) = (Vec::new(), Vec::new());
        for pool in batch {
            let named: Vec<(&str, u32)> = pool.named.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            let ring = pool.algorithm.ring(pool.hash_key, &named);
            if !pool.usable.is_empty() {
                rings.push((pool.id, NewRing::new(&slots(&ring, &pool.usable))?));
            }
            elements.push((pool.id, pool.element(&ring)));
        }
        self.maps.rings.set_all(&rings)?;
        elements.iter().try_for_each(|(id, element)| self.maps.pools.set(*id, element))?;
        for pool in batch {
            tracing::info!(
                pool = pool.name,
                algorithm = pool.algorithm.name(),
                backends = pool.usable.len(),
                members = pool.members,
                "ring built"
            );
            if let Some(entry) = self.pools.get_mut(&pool.name) {
                entry.built = Some(pool.usable.clone());
            }
            self.prices(&pool.usable)?;
        }
        Ok(())
    }

    /// What an outstanding flow of each member weighs depends on all of the pool's weights.
    fn prices(&mut self, members: &[(u32, u32)]) -> Result<(), DatapathError> {
        let weights: Vec<u32> = members.iter().map(|(_, weight)| *weight).collect();
        let prices: HashMap<u32, u32> =
            members.iter().map(|(id, weight)| (*id, ewma::price(*weight, &weights))).collect();
        for entry in self.backends.values_mut() {
            let Some(price) = prices.get(&entry.id) else { continue };
            if entry.value.price != *price {
                entry.value.price = *price;
                self.maps.backends.set(entry.id, &entry.value)?;
            }
        }
        Ok(())
    }
}

/// A pool whose ring is to be built anew.
struct Rebuilt {
    name: String,
    id: u32,
    hash_key: [u64; 2],
    algorithm: Algorithm,
    affinity: AffinityPlan,
    /// How many backends it has, usable or not.
    members: usize,
    /// Name and weight of those that take flows, and their ids.
    named: Vec<(String, u32)>,
    usable: Vec<(u32, u32)>,
}

impl Rebuilt {
    /// The pool's element of `eg_pools`.
    fn element(&self, ring: &Ring) -> Pool {
        Pool {
            hash_key: self.hash_key,
            backends: u32::try_from(self.usable.len()).unwrap_or(u32::MAX),
            period: u32::try_from(ring.period()).unwrap_or(0),
            algorithm: code(self.algorithm),
            prefix4: self.affinity.prefix_v4,
            prefix6: self.affinity.prefix_v6,
            pad: 0,
            affinity_s: u32::try_from(self.affinity.timeout.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

/// `enum eg_algorithm`, whose names are the configuration's words.
fn code(algorithm: Algorithm) -> u8 {
    let named = abi::Algorithm::ALL.iter().find(|kernel| kernel.label() == algorithm.name());
    named.map_or(0, |kernel| kernel.code() as u8)
}

/// A ring as the kernel reads it: its indexes stand for the backends of the same place in `ids`.
fn slots(ring: &Ring, ids: &[(u32, u32)]) -> Vec<Slot> {
    let id = |index: Option<usize>| index.and_then(|index| ids.get(index)).map_or(0, |(id, _)| *id);
    (0..SLOTS)
        .map(|slot| {
            let (primary, alternate) = ring.at(slot);
            Slot { primary: id(primary), alternate: id(alternate) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use eg_balance::maglev;

    use super::*;

    #[test]
    fn every_algorithm_has_its_code() {
        let codes: Vec<u8> = Algorithm::ALL.map(code).to_vec();
        let mut once = codes.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), Algorithm::ALL.len(), "{codes:?}");
        assert_eq!(code(Algorithm::Ewma), abi::Algorithm::Ewma.code() as u8);
    }

    #[test]
    fn a_ring_holds_the_backends_ids_and_no_alternate_where_there_is_nobody_else() {
        let ring = slots(&maglev::ring([1, 2], &[("a", 1), ("b", 3)]), &[(17, 1), (4, 3)]);
        assert_eq!(ring.len(), SLOTS);
        let share = ring.iter().filter(|slot| slot.primary == 4).count();
        assert!(share.abs_diff(SLOTS * 3 / 4) <= 2, "{share}");
        assert!(ring.iter().all(|slot| slot.primary + slot.alternate == 21));
        let alone = slots(&maglev::ring([1, 2], &[("a", 1)]), &[(17, 1)]);
        assert!(alone.iter().all(|slot| *slot == Slot { primary: 17, alternate: 0 }));
    }
}
