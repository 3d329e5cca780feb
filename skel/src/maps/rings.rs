// SPDX-License-Identifier: GPL-3.0-only
//! The rings: one array per pool, swapped whole.

use eg_abi::{Plain, RING_SLOTS, Slot};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use std::os::fd::{AsFd, AsRawFd};

use super::MapError;

/// `eg_rings`.
#[derive(Debug)]
pub struct Rings {
    handle: MapHandle,
}

impl Rings {
    pub(super) fn new(handle: MapHandle) -> Rings {
        Rings { handle }
    }

    /// Makes `slots` (exactly [`RING_SLOTS`] of them) the ring of `pool`: fills a new array in one call, then points the
    /// pool to it. No lookup sees half a ring. Takes a grace period, some 8 ms, and 45 ms to fill.
    pub fn set(&self, pool: u32, slots: &[Slot]) -> Result<(), MapError> {
        if slots.len() != RING_SLOTS as usize {
            return Err(MapError::shape(&self.handle));
        }
        let ring = new_ring().map_err(|e| MapError::kernel(&self.handle, "make a ring for", e))?;
        let keys: Vec<u8> = (0..RING_SLOTS).flat_map(u32::to_ne_bytes).collect();
        let values: Vec<u8> = slots.iter().flat_map(Slot::to_bytes).collect();
        ring.update_batch(&keys, &values, RING_SLOTS, MapFlags::ANY, MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "fill a ring of", e))?;
        let fd = ring.as_fd().as_raw_fd();
        self.handle
            .update(&pool.to_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "swap a ring of", e))
    }

    /// The ring of `pool`, if it has one.
    pub fn get(&self, pool: u32) -> Result<Option<Vec<Slot>>, MapError> {
        let read = |e| MapError::kernel(&self.handle, "read", e);
        let Some(id) = self.handle.lookup(&pool.to_bytes(), MapFlags::ANY).map_err(read)? else {
            return Ok(None);
        };
        let id = u32::from_bytes(&id).ok_or_else(|| MapError::shape(&self.handle))?;
        let ring = MapHandle::from_map_id(id).map_err(read)?;
        let mut slots = Vec::with_capacity(RING_SLOTS as usize);
        for (_, value) in ring.lookup_batch(RING_SLOTS, MapFlags::ANY, MapFlags::ANY).map_err(read)? {
            slots.push(Slot::from_bytes(&value).ok_or_else(|| MapError::shape(&self.handle))?);
        }
        Ok(Some(slots))
    }

    /// Takes the pool's ring away: it picks nobody.
    pub fn delete(&self, pool: u32) -> Result<(), MapError> {
        match self.handle.delete(&pool.to_bytes()) {
            Err(e) if e.kind() != libbpf_rs::ErrorKind::NotFound => Err(MapError::kernel(&self.handle, "delete", e)),
            _ => Ok(()),
        }
    }
}

fn new_ring() -> libbpf_rs::Result<MapHandle> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let slot = size_of::<<Slot as Plain>::Bytes>() as u32;
    MapHandle::create(MapType::Array, Some("eg_ring"), 4, slot, RING_SLOTS, &options)
}
