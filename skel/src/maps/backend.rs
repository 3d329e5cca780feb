// SPDX-License-Identifier: GPL-3.0-only
//! The maps of a backend host, opened and typed; they share nothing with a gateway's.

use std::ffi::OsStr;
use std::path::Path;

use eg_abi::backend::{DecAddr, DecIface, DecPrefix};
use eg_abi::{Count, Plain};
use libbpf_rs::{MapCore, MapHandle, Object};

use super::{MapError, PerCpu, Table};

/// Every map of `bpf/maps/decap.h`.
#[derive(Debug)]
pub struct BackendMaps {
    pub vips: Table<DecAddr, u32>,
    pub to: Table<DecAddr, u32>,
    /// 1: accepted, 0: refused.
    pub from: Table<DecPrefix, u32>,
    /// By interface index.
    pub ifaces: Table<u32, DecIface>,
    /// By [`eg_abi::backend::Decap`].
    pub results: PerCpu<Count>,
}

impl BackendMaps {
    /// Opens every map from its pin in `dir`.
    pub fn open(dir: &Path) -> Result<BackendMaps, MapError> {
        BackendMaps::find(|map| {
            MapHandle::from_pinned_path(dir.join(map)).map_err(|e| MapError::Missing { map, source: Some(e) })
        })
    }

    /// The maps of a loaded object, without pins.
    pub fn of_object(object: &Object) -> Result<BackendMaps, MapError> {
        BackendMaps::find(|map| {
            let mut maps = object.maps();
            let found = maps.find(|m| m.name() == OsStr::new(map)).ok_or(MapError::Missing { map, source: None })?;
            MapHandle::try_from(&found).map_err(|e| MapError::Missing { map, source: Some(e) })
        })
    }

    fn find(find: impl Fn(&'static str) -> Result<MapHandle, MapError>) -> Result<BackendMaps, MapError> {
        Ok(BackendMaps {
            vips: Table::new(find("eg_dec_vips")?)?,
            to: Table::new(find("eg_dec_to")?)?,
            from: Table::new(find("eg_dec_from")?)?,
            ifaces: Table::new(find("eg_dec_ifaces")?)?,
            results: PerCpu::new(find("eg_decap")?)?,
        })
    }
}

/// Every key, one system call each: a trie has no batches before 5.14, and these maps hold a handful. `egctl` is the
/// only writer, so none is missed.
pub fn keys<K: Plain, V: Plain>(table: &Table<K, V>) -> Result<Vec<K>, MapError> {
    let handle = table.handle();
    handle.keys().map(|key| K::from_bytes(&key).ok_or_else(|| MapError::shape(handle))).collect()
}
