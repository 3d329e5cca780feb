// SPDX-License-Identifier: GPL-3.0-only
//! A hash map.

use std::marker::PhantomData;

use eg_abi::Plain;
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};

use super::MapError;

/// Entries that one system call reads when a whole table is walked: 96 bytes each, so some 100 KiB.
const BATCH: u32 = 1024;

/// A hash map from `K` to `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    handle: MapHandle,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    pub(super) fn new(handle: MapHandle) -> Result<Self, MapError> {
        if handle.key_size() as usize != size_of::<K::Bytes>() || handle.value_size() as usize != size_of::<V::Bytes>()
        {
            return Err(MapError::shape(&handle));
        }
        Ok(Table { handle, types: PhantomData })
    }

    /// The value under `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let found = self
            .handle
            .lookup(key.to_bytes().as_ref(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "look up", e))?;
        found.map(|bytes| V::from_bytes(&bytes).ok_or_else(|| MapError::shape(&self.handle))).transpose()
    }

    /// Inserts or replaces.
    pub fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        self.handle
            .update(key.to_bytes().as_ref(), value.to_bytes().as_ref(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "write", e))
    }

    /// Removes; `false` if there was nothing.
    pub fn delete(&self, key: &K) -> Result<bool, MapError> {
        match self.handle.delete(key.to_bytes().as_ref()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(MapError::kernel(&self.handle, "delete", e)),
        }
    }

    /// Every entry, in no order. The table may change meanwhile: an entry may be missed or seen twice, never torn
    /// apart.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let batches = self
            .handle
            .lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "walk", e))?;
        batches
            .map(|(key, value)| {
                K::from_bytes(&key).zip(V::from_bytes(&value)).ok_or_else(|| MapError::shape(&self.handle))
            })
            .collect()
    }

    /// How many entries it can hold.
    pub fn capacity(&self) -> u32 {
        self.handle.max_entries()
    }

    /// The map itself, for what is not wrapped here.
    pub fn handle(&self) -> &MapHandle {
        &self.handle
    }
}
