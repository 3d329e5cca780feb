// SPDX-License-Identifier: GPL-3.0-only
//! An array.

use std::marker::PhantomData;

use eg_abi::Plain;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::MapError;

/// An array of `V`; the kernel fills it with zeros.
#[derive(Debug)]
pub struct Array<V> {
    handle: MapHandle,
    types: PhantomData<fn() -> V>,
}

impl<V: Plain> Array<V> {
    pub(super) fn new(handle: MapHandle) -> Result<Self, MapError> {
        if handle.key_size() != 4 || handle.value_size() as usize != size_of::<V::Bytes>() {
            return Err(MapError::shape(&handle));
        }
        Ok(Array { handle, types: PhantomData })
    }

    /// The element at `index`; an error beyond the end.
    pub fn get(&self, index: u32) -> Result<V, MapError> {
        let found = self
            .handle
            .lookup(&index.to_bytes(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "read", e))?;
        found.and_then(|bytes| V::from_bytes(&bytes)).ok_or_else(|| MapError::shape(&self.handle))
    }

    /// Writes one element. Readers may see it half written: fields that must change together need an epoch.
    pub fn set(&self, index: u32, value: &V) -> Result<(), MapError> {
        self.handle
            .update(&index.to_bytes(), value.to_bytes().as_ref(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "write", e))
    }

    /// Elements.
    pub fn capacity(&self) -> u32 {
        self.handle.max_entries()
    }

    /// The map itself, for what is not wrapped here.
    pub fn handle(&self) -> &MapHandle {
        &self.handle
    }
}
