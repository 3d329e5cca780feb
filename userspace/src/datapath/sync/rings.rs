// SPDX-License-Identifier: GPL-3.0-only
//! Rings: who gets a pool's new flows. Built by `eg_balance`, swapped into the kernel whole.
//!
//! A ring holds the members that take flows and whose next hop is known. It is rebuilt when that set or its weights
//! change and at no other time: each swap costs some 50 ms and moves a few flows that have no entry yet.

use eg_balance::ring::SLOTS;
use eg_balance::{Ring, maglev};
use eg_skel::abi::{self, BackendState, Slot};

use super::super::error::DatapathError;
use super::Tables;

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
        for (name, pool) in &mut self.pools {
            let Some(members) = &pool.members else { continue };
            let taking = members.iter().filter_map(|(key, weight)| {
                let entry = self.backends.get(key)?;
                let usable = entry.is(BackendState::Up) && entry.resolved() && *weight > 0;
                usable.then_some(((key.name.as_str(), *weight), (entry.id, *weight)))
            });
            let (named, usable): (Vec<_>, Vec<_>) = taking.unzip();
            if pool.built.as_ref() == Some(&usable) {
                continue;
            }
            if !usable.is_empty() {
                self.maps.rings.set(pool.id, &slots(&maglev::ring(pool.hash_key, &named), &usable))?;
            }
            Self::write_pool(&self.maps, pool, usable.len() as u32)?;
            tracing::info!(pool = name, backends = usable.len(), members = members.len(), "ring built");
            pool.built = Some(usable);
        }
        Ok(())
    }
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
    use super::*;

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
