// SPDX-License-Identifier: GPL-3.0-only
//! What the maps hold, and how they come to hold what a plan wants, make before break.
//!
//! `Datapath` calls the steps in order: `add_backends`, `next_hops`, `drain_ahead`, `commit_members`, `add_vips`, `retire`. A failure at any step leaves a working state behind: old rings and old VIPs until the new ones are whole.
//! The keeper calls `next_hops`, `rings` and `expire` later on.
//!
//! Numbers are stable: a VIP is known by address, port and protocol, a pool by its name, a backend by pool, name and
//! address, and each keeps its number, epoch and generation across reloads and, read back from the maps (`adopt`),
//! across restarts. So a restart with the same configuration changes no entry that a flow refers to.

mod addresses;
mod adopt;
pub(crate) mod cookies;
pub(crate) mod guards;
mod ids;
mod mtus;
mod probes;
mod retire;
mod rings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eg_skel::Maps;
use eg_skel::abi::{self, Addr, Backend, BackendState, Be16, Vip, VipKey};

use super::error::DatapathError;
use super::names::{Kind, Names, stored};
use super::neigh::Resolution;
use crate::config::plan::{
    AffinityPlan, Algorithm, DatapathPlan, ForwardPlan, Fragments, OnBackendDown, PoolPlan, Proto, UnusedPorts, VipPlan,
};
use ids::Ids;
use mtus::Mtus;

/// The state of the maps, as this process wrote or found it.
pub(crate) struct Tables {
    pub(super) maps: Arc<Maps>,
    names: Names,
    /// For pools made by this process: the plan's seed, or a random one.
    seed: [u8; 16],
    pub(super) vips: BTreeMap<(SocketAddr, u8), VipEntry>,
    pub(super) pools: BTreeMap<String, PoolEntry>,
    pub(super) backends: BTreeMap<BackendKey, BackendEntry>,
    /// Addresses with SYN cookies.
    cookies: BTreeSet<Addr>,
    /// What `eg_vip_ids` says about addresses.
    uses: BTreeMap<Addr, u32>,
    /// And about the VIPs that fragments without ports go to, by address and protocol.
    stable: BTreeMap<(Addr, u8), u32>,
    mtus: Mtus,
    vip_ids: Ids,
    pool_ids: Ids,
    backend_ids: Ids,
    /// What the prefix lists in the kernel were made from. `None`: unknown, an earlier process made them.
    lists: Option<guards::Lists>,
}

/// A backend's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BackendKey {
    pub(super) pool: String,
    pub(super) name: String,
    pub(super) address: SocketAddr,
}

pub(super) struct VipEntry {
    pub(super) id: u32,
    pub(super) value: Vip,
    pub(super) listener: String,
    pub(super) pool: String,
    unused_ports: UnusedPorts,
}

pub(super) struct PoolEntry {
    pub(super) id: u32,
    hash_key: [u64; 2],
    drain_timeout: Duration,
    on_backend_down: OnBackendDown,
    /// How it chooses. `None`: adopted, and not in a plan yet.
    chooses: Option<(Algorithm, AffinityPlan)>,
    /// Whom the ring is built from, with weights. `None`: nothing was committed by this process yet, and a ring that
    /// an earlier one built stays as it is.
    members: Option<Vec<(BackendKey, u32)>>,
    /// The next members, while a change is under way.
    wanted: Option<Vec<(BackendKey, u32)>>,
    /// What the ring in the kernel was built from; `None`: unknown or none.
    built: Option<Vec<(u32, u32)>>,
}

pub(super) struct BackendEntry {
    pub(super) id: u32,
    pub(super) value: Backend,
    /// When a draining one loses its flows.
    leaves: Option<Instant>,
    /// Said last in the log about its next hop.
    said: Option<Resolution>,
}

impl BackendEntry {
    fn is(&self, state: BackendState) -> bool {
        u32::from(self.value.state) == state.code()
    }

    fn resolved(&self) -> bool {
        self.value.ifindex != 0
    }
}

/// How long backends drain whose pool is gone too, after a restart that no longer knows the pool.
const ORPHANS_DRAIN: Duration = Duration::from_secs(60);

impl Tables {
    /// Reads back what an earlier process left in the maps.
    pub(crate) fn open(maps: Arc<Maps>, names: Names, seed: [u8; 16]) -> Result<Tables, DatapathError> {
        let mut tables = Tables {
            maps,
            names,
            seed,
            vips: BTreeMap::new(),
            pools: BTreeMap::new(),
            backends: BTreeMap::new(),
            cookies: BTreeSet::new(),
            uses: BTreeMap::new(),
            stable: BTreeMap::new(),
            mtus: Mtus::default(),
            vip_ids: Ids::new(abi::MAX_VIPS),
            pool_ids: Ids::new(abi::MAX_POOLS),
            backend_ids: Ids::new(abi::MAX_BACKENDS),
            lists: None,
        };
        tables.adopt()?;
        Ok(tables)
    }

    /// Whether the plan fits, before anything is changed.
    pub(crate) fn check(&self, plan: &DatapathPlan) -> Result<(), DatapathError> {
        let limit = |what, used: usize, most: u32| {
            let most = most as usize - 1;
            if used > most { Err(DatapathError::Full { what, limit: most }) } else { Ok(()) }
        };
        limit("vips", plan.vips.len(), abi::MAX_VIPS)?;
        limit("L4 pools", plan.pools.len(), abi::MAX_POOLS)?;
        limit("backends", plan.pools.iter().map(|pool| pool.backends.len()).sum(), abi::MAX_BACKENDS)?;
        let mut seen = BTreeSet::new();
        for vip in &plan.vips {
            if !seen.insert(vip_key(vip)) {
                return Err(DatapathError::Plan { problem: format!("vip {} belongs to two listeners", vip.address) });
            }
            if !plan.pools.iter().any(|pool| pool.name == vip.pool) {
                return Err(DatapathError::Plan { problem: format!("vip {}: no pool {:?}", vip.address, vip.pool) });
            }
        }
        Ok(())
    }

    /// Step 1: pools and backends that are new exist, known to no ring. A backend that was leaving and is wanted again
    /// stays.
    pub(crate) fn add_backends(&mut self, plan: &DatapathPlan) -> Result<(), DatapathError> {
        if let Some(seed) = plan.hash_seed {
            self.seed = seed;
        }
        plan.pools.iter().try_for_each(|pool| self.add_pool(pool, plan.hash_seed.is_some()))
    }

    fn add_pool(&mut self, plan: &PoolPlan, seeded: bool) -> Result<(), DatapathError> {
        let derived = rings::hash_key(&self.seed, &plan.name);
        let entry = match self.pools.get_mut(&plan.name) {
            Some(entry) => entry,
            None => {
                let id = self
                    .pool_ids
                    .take()
                    .ok_or(DatapathError::Full { what: "L4 pools", limit: abi::MAX_POOLS as usize - 1 })?;
                self.names.set(Kind::Pool, id, 0, &plan.name)?;
                self.pools.entry(plan.name.clone()).or_insert(PoolEntry {
                    id,
                    hash_key: derived,
                    drain_timeout: plan.drain_timeout,
                    on_backend_down: plan.on_backend_down,
                    chooses: None,
                    members: None,
                    wanted: None,
                    built: None,
                })
            }
        };
        // A pool found in the maps keeps its key unless the plan says which it must have.
        if seeded && entry.hash_key != derived {
            entry.hash_key = derived;
            entry.built = None;
        }
        entry.drain_timeout = plan.drain_timeout;
        entry.on_backend_down = plan.on_backend_down;
        if entry.chooses != Some((plan.algorithm, plan.affinity)) {
            entry.chooses = Some((plan.algorithm, plan.affinity));
            entry.built = None;
        }
        let pool = entry.id;
        let mut members = Vec::with_capacity(plan.backends.len());
        for backend in &plan.backends {
            let key = BackendKey { pool: plan.name.clone(), name: stored(&backend.name), address: backend.address };
            self.add_backend(&key, pool, backend.weight)?;
            members.push((key, backend.weight));
        }
        if let Some(entry) = self.pools.get_mut(&plan.name) {
            entry.wanted = Some(members);
        }
        Ok(())
    }

    fn add_backend(&mut self, key: &BackendKey, pool: u32, weight: u32) -> Result<(), DatapathError> {
        let weight = u16::try_from(weight).unwrap_or(u16::MAX);
        if let Some(entry) = self.backends.get_mut(key) {
            if !entry.is(BackendState::Up) || entry.value.weight != weight {
                entry.value.state = BackendState::Up.code() as u8;
                entry.value.weight = weight;
                entry.leaves = None;
                self.maps.backends.set(entry.id, &entry.value)?;
            }
            return Ok(());
        }
        let id = self
            .backend_ids
            .take()
            .ok_or(DatapathError::Full { what: "backends", limit: abi::MAX_BACKENDS as usize - 1 })?;
        // What the slot's last owner left behind: the generation that its flows do not have.
        let generation = self.maps.backends.get(id)?.generation.max(1);
        let value = Backend {
            addr: Addr::from(key.address.ip()),
            port: key.address.port().into(),
            state: BackendState::Up.code() as u8,
            generation,
            weight,
            ..Backend::default()
        };
        self.maps.backend_stats.clear(id)?;
        self.maps.loads.clear(id);
        self.names.set(Kind::Backend, id, pool, &key.name)?;
        self.maps.backends.set(id, &value)?;
        self.backends.insert(key.clone(), BackendEntry { id, value, leaves: None, said: None });
        Ok(())
    }

    /// The addresses of every backend that flows may still go to.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses: BTreeSet<IpAddr> = self.backends.keys().map(|key| key.address.ip()).collect();
        addresses.into_iter().collect()
    }

    /// Whether some pool's choice depends on how busy its backends are.
    pub(crate) fn chooses_by_load(&self) -> bool {
        use Algorithm::{Ewma, LeastConnections, LeastRequests, P2c};
        let by_load = |algorithm| matches!(algorithm, Ewma | LeastConnections | LeastRequests | P2c);
        self.pools.values().any(|pool| pool.chooses.is_some_and(|(algorithm, _)| by_load(algorithm)))
    }

    /// How many backends that take flows have no next hop.
    pub(crate) fn unresolved(&self) -> usize {
        self.backends.values().filter(|entry| entry.is(BackendState::Up) && !entry.resolved()).count()
    }

    /// Step 2, and whenever something moved: writes changed next hops at once. A next hop that is being asked for
    /// again keeps its last MAC; one to which no route leads any more is taken out.
    pub(crate) fn next_hops(&mut self, found: &HashMap<IpAddr, Resolution>) -> Result<(), DatapathError> {
        let now = Instant::now();
        for (key, entry) in &mut self.backends {
            let Some(resolution) = found.get(&key.address.ip()) else { continue };
            let mut value = entry.value;
            match resolution {
                Resolution::Found(hop) => {
                    value.ifindex = hop.ifindex;
                    value.dmac = hop.dmac;
                    value.smac = hop.smac;
                    value.source = Addr::from(hop.source);
                    value.mtu = self.mtus.of(key.address.ip(), hop.mtu, now);
                    value.flags = if hop.on_link { abi::BACKEND_ON_LINK } else { 0 };
                }
                Resolution::Asking { .. } => {}
                Resolution::Nowhere(_) => {
                    value.ifindex = 0;
                    value.dmac = [0; 6];
                    value.smac = [0; 6];
                }
            }
            if value != entry.value {
                entry.value = value;
                self.maps.backends.set(entry.id, &value)?;
            }
            if entry.said.as_ref() != Some(resolution) {
                say(key, resolution, entry.resolved());
                entry.said = Some(resolution.clone());
            }
        }
        self.write_uses()
    }

    /// A router says that `address` is reached by packets of at most `mtu` bytes. Whether that changed anything: the next
    /// look at the next hops applies it.
    pub(crate) fn learn_mtu(&mut self, address: IpAddr, mtu: u16) -> bool {
        let ours = self.backends.keys().any(|key| key.address.ip() == address);
        if ours {
            tracing::info!(%address, mtu, "path MTU towards a backend");
            self.mtus.learn(address, mtu, Instant::now());
        }
        ours
    }

    /// Step 4: VIPs that are new, or point or forward otherwise now.
    pub(crate) fn add_vips(&mut self, plan: &DatapathPlan) -> Result<(), DatapathError> {
        self.maps.conf.set(0, &addresses::conf(plan))?;
        plan.vips.iter().try_for_each(|vip| self.add_vip(vip, guards::flags(vip, &plan.guards)))
    }

    fn add_vip(&mut self, plan: &VipPlan, guards: u32) -> Result<(), DatapathError> {
        let Some(entry) = self.pools.get(&plan.pool) else { return Ok(()) };
        let (pool, on_down) = (entry.id, on_down(entry.on_backend_down));
        let key = vip_key(plan);
        let (forward, flags, gue_port) = forward(plan.forward);
        let more = on_down | guards | stable(plan.fragments);
        if let Some(entry) = self.vips.get_mut(&key) {
            guards::set_budget(&self.maps, entry.id, plan.flow_budget)?;
            let mut value = entry.value;
            let forwards = |vip: &Vip| (vip.forward, vip.flags & abi::VIP_SNAT, vip.gue_port);
            if forwards(&value) != (forward, flags, gue_port) {
                // Packets of its flows would be rewritten otherwise from now on: they are misses.
                value.epoch = next_epoch(value.epoch);
            }
            value.forward = forward;
            value.flags = flags | more;
            value.gue_port = gue_port;
            // Another pool moves new flows only: the old pool's backends drain.
            value.pool = pool;
            if value != entry.value {
                self.maps.vips.set(entry.id, &value)?;
                entry.value = value;
            }
            if entry.listener != plan.listener {
                self.names.set(Kind::Vip, entry.id, 0, &plan.listener)?;
            }
            entry.listener.clone_from(&plan.listener);
            entry.pool.clone_from(&plan.pool);
            entry.unused_ports = plan.unused_ports;
            return self.write_uses();
        }
        let id = self.vip_ids.take().ok_or(DatapathError::Full { what: "vips", limit: abi::MAX_VIPS as usize - 1 })?;
        let map_key = VipKey::new(plan.address, key.1);
        let epoch = next_epoch(self.maps.vips.get(id)?.epoch);
        let (addr, port, proto) = (map_key.addr, map_key.port, map_key.proto);
        let value = Vip { addr, port, proto, forward, epoch, pool, flags: flags | more, gue_port, pad: [0; 2] };
        self.maps.retire_vip_stats(id)?;
        self.maps.stateless.clear(id)?;
        guards::set_budget(&self.maps, id, plan.flow_budget)?;
        self.names.set(Kind::Vip, id, 0, &plan.listener)?;
        self.maps.vips.set(id, &value)?;
        let (listener, pool, unused_ports) = (plan.listener.clone(), plan.pool.clone(), plan.unused_ports);
        let entry = VipEntry { id, value, listener, pool, unused_ports };
        self.vips.insert(key, entry);
        self.write_uses()?;
        Ok(self.maps.vip_ids.set(&map_key, &id)?)
    }
}

/// Address, port and IP protocol number.
fn vip_key(vip: &VipPlan) -> (SocketAddr, u8) {
    let proto = match vip.proto {
        Proto::Tcp => abi::PROTO_TCP,
        Proto::Udp => abi::PROTO_UDP,
    };
    (vip.address, proto)
}

/// What the kernel's element says about the mode: its code, flags and port.
fn forward(plan: ForwardPlan) -> (u8, u32, Be16) {
    let (flags, port) = match plan {
        ForwardPlan::Nat { snat: true } => (abi::VIP_SNAT, 0),
        ForwardPlan::Gue { port } => (0, port),
        _ => (0, 0),
    };
    (plan.mode().code() as u8, flags, port.into())
}

/// What they say about fragments without ports.
fn stable(fragments: Fragments) -> u32 {
    match fragments {
        Fragments::Hold => 0,
        Fragments::Stable => abi::VIP_STABLE,
    }
}

/// What a VIP's flags say about flows whose backend is down or gone.
fn on_down(policy: OnBackendDown) -> u32 {
    match policy {
        OnBackendDown::Keep => 0,
        OnBackendDown::Repick => abi::VIP_REPICK,
        OnBackendDown::Reset => abi::VIP_REPICK | abi::VIP_RESET,
    }
}

/// Epoch 0 is no VIP.
fn next_epoch(epoch: u32) -> u32 {
    epoch.wrapping_add(1).max(1)
}

fn say(key: &BackendKey, resolution: &Resolution, usable: bool) {
    let (pool, backend, address) = (&key.pool, &key.name, key.address);
    match resolution {
        Resolution::Found(hop) => {
            tracing::info!(pool, backend, %address, ifindex = hop.ifindex, source = %hop.source, "next hop resolved");
        }
        Resolution::Asking { neighbour } if usable => {
            tracing::debug!(pool, backend, %address, %neighbour, "neighbour does not answer, its last MAC stays in use");
        }
        Resolution::Asking { neighbour } => {
            tracing::info!(pool, backend, %address, %neighbour, "asking for a next hop")
        }
        Resolution::Nowhere(why) => tracing::warn!(pool, backend, %address, why, "backend is out of reach"),
    }
}
