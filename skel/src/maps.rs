// SPDX-License-Identifier: GPL-3.0-only
//! The shared maps, opened and typed.
//!
//! One wrapper per kind of map ([`Table`], [`Array`], [`PerCpu`], [`Rings`], [`Prefixes`], [`Socks`], [`Workers`]); [`Maps`] is one of
//! each by its name in `bpf/maps/`. All methods take `&self`: the kernel is the lock. What a map is for, who writes it
//! and what happens when it is full is said in `docs/maps.md`.

mod array;
mod backend;
mod loads;
mod mapped;
mod per_cpu;
mod prefixes;
mod probes;
mod rings;
mod socks;
mod table;
mod totals;
mod workers;

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use eg_abi::{
    Addr, Affinity, AffinityKey, Backend, Budget, Conf, Count, Flow, FlowKey, Frag, FragKey, Guards, Latency, Listener,
    ListenerKey, Meta, Pool, Source, Stats, Vip, VipKey,
};
use libbpf_rs::{MapCore, MapHandle, Object};

pub use array::Array;
pub use backend::{BackendMaps, keys};
pub use loads::Loads;
pub use per_cpu::PerCpu;
pub use prefixes::{Prefixes, Trie};
pub use probes::ProbeMaps;
pub use rings::{NewRing, Rings};
pub use socks::Socks;
pub use table::Table;
pub use totals::Totals;
pub use workers::{Gauge, Workers};

const FLOWS: &str = "eg_flows";

/// Why a map could not be opened, read or written.
#[derive(Debug)]
pub enum MapError {
    /// No map of this name among the pins or objects.
    Missing { map: &'static str, source: Option<libbpf_rs::Error> },
    /// The kernel refused the operation.
    Kernel { map: String, operation: &'static str, source: libbpf_rs::Error },
    /// The map's keys or values are not of the size that this program was built for.
    Shape { map: String },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::Missing { map, .. } => write!(f, "map {map} is not there"),
            MapError::Kernel { map, operation, .. } => write!(f, "map {map}: cannot {operation}"),
            MapError::Shape { map } => write!(f, "map {map}: its keys or values are of another size than expected"),
        }
    }
}

impl std::error::Error for MapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MapError::Missing { source, .. } => source.as_ref().map(|e| e as _),
            MapError::Kernel { source, .. } => Some(source),
            MapError::Shape { .. } => None,
        }
    }
}

impl MapError {
    fn kernel(handle: &MapHandle, operation: &'static str, source: libbpf_rs::Error) -> MapError {
        MapError::Kernel { map: handle.name().to_string_lossy().into_owned(), operation, source }
    }

    fn shape(handle: &MapHandle) -> MapError {
        MapError::Shape { map: handle.name().to_string_lossy().into_owned() }
    }
}

/// Every shared map.
#[derive(Debug)]
pub struct Maps {
    pub vip_ids: Table<VipKey, u32>,
    pub vips: Array<Vip>,
    pub pools: Array<Pool>,
    pub rings: Rings,
    pub backends: Array<Backend>,
    pub flows: Table<FlowKey, Flow>,
    /// Half-open flows.
    pub opening: Table<FlowKey, Flow>,
    /// Datagrams that arrive in fragments.
    pub frags: Table<FragKey, Frag>,
    pub prefixes: Prefixes,
    /// Element 0 alone.
    pub guard_conf: Array<Guards>,
    pub sources: Table<Addr, Source>,
    /// By VIP: new flows.
    pub budgets: Array<Budget>,
    /// By VIP: packets over its budget that were forwarded.
    pub stateless: PerCpu<u64>,
    pub vip_stats: PerCpu<Stats>,
    pub backend_stats: PerCpu<Stats>,
    /// By [`eg_abi::Verdict`]; read through [`Maps::totals`], which adds what living VIPs forwarded.
    pub verdicts: PerCpu<Count>,
    /// By [`eg_abi::Drop`].
    pub drops: PerCpu<Count>,
    /// By [`eg_abi::Miss`].
    pub misses: PerCpu<u64>,
    /// Records of [`eg_abi::Event`], for a `libbpf_rs::RingBufferBuilder`.
    pub events: MapHandle,
    /// Element 0 alone.
    pub events_lost: PerCpu<u64>,
    pub listeners: Table<ListenerKey, Listener>,
    /// SYNs that the stack may answer.
    pub cookies: Table<ListenerKey, Budget>,
    /// By [`eg_abi::Cookie`].
    pub cookie_stats: PerCpu<u64>,
    pub socks: Socks,
    pub workers: Workers,
    pub meta: Array<Meta>,
    pub conf: Array<Conf>,
    pub loads: Loads,
    pub affinities: Table<AffinityKey, Affinity>,
    /// By pool.
    pub latencies: Array<Latency>,
    /// By pool: where each CPU's next turn is.
    pub cursors: PerCpu<u32>,
}

impl Maps {
    /// Opens every map from its pin in `dir` (see [`crate::share::pin_dir`]). Both objects must have been loaded and
    /// pinned there.
    pub fn open(dir: &Path) -> Result<Maps, MapError> {
        Maps::find(|map| {
            MapHandle::from_pinned_path(dir.join(map)).map_err(|e| MapError::Missing { map, source: Some(e) })
        })
    }

    /// As [`Maps::open`], with this map in place of the pinned flow table.
    pub fn open_with_flows(dir: &Path, flows: &MapHandle) -> Result<Maps, MapError> {
        Maps::find(|map| {
            let found =
                if map == FLOWS { MapHandle::try_from(flows) } else { MapHandle::from_pinned_path(dir.join(map)) };
            found.map_err(|e| MapError::Missing { map, source: Some(e) })
        })
    }

    /// The pinned flow table alone.
    pub fn open_flows(dir: &Path) -> Result<Table<FlowKey, Flow>, MapError> {
        let missing = |e| MapError::Missing { map: FLOWS, source: Some(e) };
        Table::new(MapHandle::from_pinned_path(dir.join(FLOWS)).map_err(missing)?)
    }

    /// The maps of loaded objects, without pins.
    pub fn of_objects(objects: &[&Object]) -> Result<Maps, MapError> {
        Maps::find(|map| {
            let mut maps = objects.iter().flat_map(|object| object.maps());
            let found = maps.find(|m| m.name() == OsStr::new(map)).ok_or(MapError::Missing { map, source: None })?;
            MapHandle::try_from(&found).map_err(|e| MapError::Missing { map, source: Some(e) })
        })
    }

    fn find(find: impl Fn(&'static str) -> Result<MapHandle, MapError>) -> Result<Maps, MapError> {
        Ok(Maps {
            vip_ids: Table::new(find("eg_vip_ids")?)?,
            vips: Array::new(find("eg_vips")?)?,
            pools: Array::new(find("eg_pools")?)?,
            rings: Rings::new(find("eg_rings")?),
            backends: Array::new(find("eg_backends")?)?,
            flows: Table::new(find(FLOWS)?)?,
            opening: Table::new(find("eg_opening")?)?,
            frags: Table::new(find("eg_frags")?)?,
            prefixes: Prefixes::new(find("eg_prefixes")?),
            guard_conf: Array::new(find("eg_guard_conf")?)?,
            sources: Table::new(find("eg_sources")?)?,
            budgets: Array::new(find("eg_budgets")?)?,
            stateless: PerCpu::new(find("eg_stateless")?)?,
            vip_stats: PerCpu::new(find("eg_vip_stats")?)?,
            backend_stats: PerCpu::new(find("eg_backend_stats")?)?,
            verdicts: PerCpu::new(find("eg_totals")?)?,
            drops: PerCpu::new(find("eg_drops")?)?,
            misses: PerCpu::new(find("eg_misses")?)?,
            events: find("eg_events")?,
            events_lost: PerCpu::new(find("eg_events_lost")?)?,
            listeners: Table::new(find("eg_listeners")?)?,
            cookies: Table::new(find("eg_cookies")?)?,
            cookie_stats: PerCpu::new(find("eg_cookie_stats")?)?,
            socks: Socks::new(find("eg_socks")?),
            workers: Workers::new(find("eg_workers")?)?,
            meta: Array::new(find("eg_meta")?)?,
            conf: Array::new(find("eg_conf")?)?,
            loads: Loads::new(find("eg_loads")?)?,
            affinities: Table::new(find("eg_affinities")?)?,
            latencies: Array::new(find("eg_latencies")?)?,
            cursors: PerCpu::new(find("eg_cursors")?)?,
        })
    }
}
