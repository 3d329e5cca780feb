// SPDX-License-Identifier: GPL-3.0-only
//! Reads back what an earlier process left: numbers with their names, epochs, generations, next hops.
//!
//! Entries that contradict each other (a name without a value, a value without a name) are what a process that died
//! half-way through a change leaves; they are freed, and the plan is then applied as if they had never been.

use std::collections::HashMap;
use std::net::SocketAddr;

use eg_skel::abi::{BackendState, VipKey};

use super::super::error::DatapathError;
use super::super::names::{Kind, Named};
use super::{BackendEntry, BackendKey, ORPHANS_DRAIN, PoolEntry, Tables, VipEntry, addresses};
use crate::config::plan::{OnBackendDown, UnusedPorts};

impl Tables {
    pub(super) fn adopt(&mut self) -> Result<(), DatapathError> {
        let named = self.names.all()?;
        for pool in named.iter().filter(|named| named.kind == Kind::Pool) {
            self.adopt_pool(pool)?;
        }
        let pools: HashMap<u32, String> = self.pools.iter().map(|(name, entry)| (entry.id, name.clone())).collect();
        for backend in named.iter().filter(|named| named.kind == Kind::Backend) {
            self.adopt_backend(backend, pools.get(&backend.pool))?;
        }
        let listeners: HashMap<u32, &str> =
            named.iter().filter(|named| named.kind == Kind::Vip).map(|named| (named.id, named.name.as_str())).collect();
        for (key, id) in self.maps.vip_ids.entries()? {
            if key == VipKey::any_port(key.addr) {
                self.uses.insert(key.addr, id);
            } else if key.is_vips() {
                self.adopt_vip(key, id, &listeners, &pools)?;
            } else {
                self.stable.insert((key.addr, key.proto), id);
            }
        }
        for entry in self.vips.values_mut() {
            entry.unused_ports = addresses::policy(self.uses.get(&entry.value.addr).copied().unwrap_or_default());
        }
        Ok(())
    }

    fn adopt_pool(&mut self, named: &Named) -> Result<(), DatapathError> {
        if self.pools.contains_key(&named.name) || !self.pool_ids.claim(named.id) {
            return self.names.remove(Kind::Pool, named.id);
        }
        let value = self.maps.pools.get(named.id)?;
        let entry = PoolEntry {
            id: named.id,
            hash_key: value.hash_key,
            drain_timeout: ORPHANS_DRAIN,
            on_backend_down: OnBackendDown::Keep,
            chooses: None,
            members: None,
            wanted: None,
            built: None,
        };
        self.pools.insert(named.name.clone(), entry);
        Ok(())
    }

    fn adopt_backend(&mut self, named: &Named, pool: Option<&String>) -> Result<(), DatapathError> {
        let value = self.maps.backends.get(named.id)?;
        let address = SocketAddr::new(value.addr.into(), value.port.into());
        let key = BackendKey { pool: pool.cloned().unwrap_or_default(), name: named.name.clone(), address };
        let free = u32::from(value.state) == BackendState::None.code();
        if free || self.backends.contains_key(&key) || !self.backend_ids.claim(named.id) {
            return self.names.remove(Kind::Backend, named.id);
        }
        // When a drain began is not known any more: `retire` lets it begin anew.
        self.backends.insert(key, BackendEntry { id: named.id, value, leaves: None, said: None });
        Ok(())
    }

    fn adopt_vip(
        &mut self,
        key: VipKey,
        id: u32,
        listeners: &HashMap<u32, &str>,
        pools: &HashMap<u32, String>,
    ) -> Result<(), DatapathError> {
        let value = self.maps.vips.get(id)?;
        let same = (value.addr, value.port, value.proto) == (key.addr, key.port, key.proto);
        if !same || value.epoch == 0 || !self.vip_ids.claim(id) {
            self.maps.vip_ids.delete(&key)?;
            return Ok(());
        }
        let entry = VipEntry {
            id,
            value,
            listener: listeners.get(&id).map(|name| name.to_string()).unwrap_or_default(),
            pool: pools.get(&value.pool).cloned().unwrap_or_default(),
            unused_ports: UnusedPorts::Drop,
        };
        let address = SocketAddr::new(key.addr.into(), key.port.into());
        self.vips.insert((address, key.proto), entry);
        Ok(())
    }
}
