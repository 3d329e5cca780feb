// SPDX-License-Identifier: GPL-3.0-only
//! The other half of a change: what the plan no longer has leaves, VIPs at once and backends after draining.

use std::collections::BTreeSet;
use std::time::Instant;

use eg_skel::abi::{Backend, BackendState, Pool, Vip, VipKey};

use super::super::error::DatapathError;
use super::super::names::Kind;
use super::{BackendKey, ORPHANS_DRAIN, PoolEntry, Tables, next_epoch, vip_key};
use crate::config::plan::DatapathPlan;

impl Tables {
    /// Step 5: takes out VIPs, pools and backends that are not in the plan.
    pub(crate) fn retire(&mut self, plan: &DatapathPlan, now: Instant) -> Result<(), DatapathError> {
        let wanted: BTreeSet<_> = plan.vips.iter().map(vip_key).collect();
        let gone: Vec<_> = self.vips.keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in gone {
            self.remove_vip(key)?;
        }
        self.drain_backends(plan, now)?;
        let gone: Vec<String> =
            self.pools.keys().filter(|name| !plan.pools.iter().any(|pool| &pool.name == *name)).cloned().collect();
        for name in gone {
            self.remove_pool(&name)?;
        }
        Ok(())
    }

    /// The key first: no new flow; then the epoch: no old one.
    fn remove_vip(&mut self, key: (std::net::SocketAddr, u8)) -> Result<(), DatapathError> {
        let Some(entry) = self.vips.remove(&key) else { return Ok(()) };
        self.maps.vip_ids.delete(&VipKey::new(key.0, key.1))?;
        self.write_uses()?;
        self.maps.vips.set(entry.id, &Vip { epoch: next_epoch(entry.value.epoch), ..Vip::default() })?;
        self.names.remove(Kind::Vip, entry.id)?;
        self.vip_ids.give_back(entry.id);
        Ok(())
    }

    /// Before the rings, which take their time: backends that leave pools in whose rings somebody stays get nothing new
    /// from now on. A ring all of whose members leave keeps them until it is swapped.
    pub(crate) fn drain_ahead(&mut self, now: Instant) -> Result<(), DatapathError> {
        let leaving: Vec<BackendKey> = self.pools.values().flat_map(|pool| self.leaving(pool)).cloned().collect();
        leaving.iter().try_for_each(|key| self.drain(key, now))
    }

    /// Members of a pool's ring that are wanted no more, if at least one of the others still takes flows.
    fn leaving<'a>(&'a self, pool: &'a PoolEntry) -> impl Iterator<Item = &'a BackendKey> {
        let in_ring: BTreeSet<u32> = pool.built.iter().flatten().map(|(id, _)| *id).collect();
        let wanted: BTreeSet<&BackendKey> = pool.wanted.iter().flatten().map(|(key, _)| key).collect();
        let takes = |key: &&BackendKey| {
            let entry = self.backends.get(*key);
            entry.is_some_and(|it| in_ring.contains(&it.id) && it.is(BackendState::Up) && it.resolved())
        };
        let somebody_stays = wanted.iter().any(takes);
        let members = pool.members.iter().flatten().filter(move |_| somebody_stays);
        members.map(|(key, _)| key).filter(move |key| !wanted.contains(key))
    }

    fn drain_backends(&mut self, plan: &DatapathPlan, now: Instant) -> Result<(), DatapathError> {
        let planned: BTreeSet<&str> = plan.pools.iter().map(|pool| pool.name.as_str()).collect();
        let pools = self.pools.iter().filter(|(name, _)| planned.contains(name.as_str()));
        let members: BTreeSet<&BackendKey> =
            pools.flat_map(|(_, pool)| pool.members.iter().flatten()).map(|(key, _)| key).collect();
        let leaving: Vec<BackendKey> = self.backends.keys().filter(|key| !members.contains(key)).cloned().collect();
        leaving.iter().try_for_each(|key| self.drain(key, now))
    }

    /// No new flow to this backend; those it has end when its pool's time to drain is over.
    fn drain(&mut self, key: &BackendKey, now: Instant) -> Result<(), DatapathError> {
        let drain = self.pools.get(&key.pool).map_or(ORPHANS_DRAIN, |pool| pool.drain_timeout);
        let Some(entry) = self.backends.get_mut(key) else { return Ok(()) };
        if !entry.is(BackendState::Draining) {
            entry.value.state = BackendState::Draining.code() as u8;
            self.maps.backends.set(entry.id, &entry.value)?;
            entry.leaves = None;
            tracing::info!(pool = key.pool, backend = key.name, address = %key.address, ?drain, "backend drains");
        }
        entry.leaves.get_or_insert(now + drain);
        Ok(())
    }

    fn remove_pool(&mut self, name: &str) -> Result<(), DatapathError> {
        let Some(entry) = self.pools.remove(name) else { return Ok(()) };
        self.maps.pools.set(entry.id, &Pool::default())?;
        self.maps.rings.delete(entry.id)?;
        self.names.remove(Kind::Pool, entry.id)?;
        self.pool_ids.give_back(entry.id);
        Ok(())
    }

    /// Frees the backends whose time to drain is over: their flows' generation is then another.
    pub(crate) fn expire(&mut self, now: Instant) -> Result<(), DatapathError> {
        let over: Vec<_> = self
            .backends
            .iter()
            .filter(|(_, entry)| entry.leaves.is_some_and(|at| at <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            let Some(entry) = self.backends.remove(&key) else { continue };
            let generation = entry.value.generation.wrapping_add(1).max(1);
            self.maps.backends.set(entry.id, &Backend { generation, ..Backend::default() })?;
            self.names.remove(Kind::Backend, entry.id)?;
            self.backend_ids.give_back(entry.id);
            tracing::info!(pool = key.pool, backend = key.name, address = %key.address, "backend left");
        }
        Ok(())
    }
}
