// SPDX-License-Identifier: GPL-3.0-only
//! The rings: one array per pool, filled in memory while nobody sees it, swapped whole.

use eg_abi::{Plain, RING_SLOTS, Slot};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::MapError;
use super::mapped::Mapped;

/// `eg_rings`.
#[derive(Debug)]
pub struct Rings {
    handle: MapHandle,
}

/// A ring that no program sees yet.
#[derive(Debug)]
pub struct NewRing {
    handle: MapHandle,
}

impl NewRing {
    /// A ring of these slots, exactly [`RING_SLOTS`] of them.
    pub fn new(slots: &[Slot]) -> Result<NewRing, MapError> {
        let made = |source| MapError::Kernel { map: "eg_ring".into(), operation: "make", source };
        let handle = new_ring().map_err(made)?;
        if slots.len() != RING_SLOTS as usize {
            return Err(MapError::shape(&handle));
        }
        fill(&Mapped::new(&handle)?, slots);
        Ok(NewRing { handle })
    }

    fn descriptor(&self) -> u32 {
        self.handle.as_fd().as_raw_fd().cast_unsigned()
    }
}

impl Rings {
    pub(super) fn new(handle: MapHandle) -> Rings {
        Rings { handle }
    }

    /// Makes `ring` the one of `pool`, in one step: no lookup sees half a ring. Waits for a grace period, some 8 ms.
    pub fn set(&self, pool: u32, ring: &NewRing) -> Result<(), MapError> {
        self.handle
            .update(&pool.to_bytes(), &ring.descriptor().to_bytes(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "swap a ring of", e))
    }

    /// The same for many pools, one after the other, in one grace period for all where the kernel has batches for this kind of
    /// map. After an error some may have their new ring.
    pub fn set_all(&self, rings: &[(u32, NewRing)]) -> Result<(), MapError> {
        let keys: Vec<u8> = rings.iter().flat_map(|(pool, _)| pool.to_bytes()).collect();
        let values: Vec<u8> = rings.iter().flat_map(|(_, ring)| ring.descriptor().to_bytes()).collect();
        let count = rings.len() as u32;
        if count > 1 && self.handle.update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY).is_ok() {
            return Ok(());
        }
        // What else may have failed, one by one says as well, and better.
        rings.iter().try_for_each(|(pool, ring)| self.set(*pool, ring))
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

fn fill(ring: &Mapped<u64>, slots: &[Slot]) {
    for (index, slot) in (0..).zip(slots) {
        let Some(element) = ring.element(index) else { return };
        // SAFETY: the element lives as long as `ring`, and a mapping begins on a page boundary.
        unsafe { AtomicU64::from_ptr(element).store(u64::from_ne_bytes(slot.to_bytes()), Ordering::Relaxed) };
    }
}

fn new_ring() -> libbpf_rs::Result<MapHandle> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: libbpf_sys::BPF_F_MMAPABLE,
        ..Default::default()
    };
    let slot = size_of::<<Slot as Plain>::Bytes>() as u32;
    MapHandle::create(MapType::Array, Some("eg_ring"), 4, slot, RING_SLOTS, &options)
}
