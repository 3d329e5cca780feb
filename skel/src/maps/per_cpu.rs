// SPDX-License-Identifier: GPL-3.0-only
//! A per-CPU array of counters.

use std::marker::PhantomData;
use std::ops::AddAssign;

use eg_abi::Plain;
use libbpf_rs::{MapCore, MapFlags, MapHandle, num_possible_cpus};

use super::MapError;

/// A per-CPU array of `V`, read as the sum over CPUs.
#[derive(Debug)]
pub struct PerCpu<V> {
    handle: MapHandle,
    types: PhantomData<fn() -> V>,
}

impl<V: Plain + Default + AddAssign> PerCpu<V> {
    pub(super) fn new(handle: MapHandle) -> Result<Self, MapError> {
        if handle.key_size() != 4 || handle.value_size() as usize != size_of::<V::Bytes>() {
            return Err(MapError::shape(&handle));
        }
        Ok(PerCpu { handle, types: PhantomData })
    }

    /// The sum over all CPUs of the element at `index`. Counters move while they are read: the sum is of values that
    /// each CPU had at some time during the call.
    pub fn sum(&self, index: u32) -> Result<V, MapError> {
        let cpus = self
            .handle
            .lookup_percpu(&index.to_bytes(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "read", e))?
            .ok_or_else(|| MapError::shape(&self.handle))?;
        let mut sum = V::default();
        for bytes in cpus {
            sum += V::from_bytes(&bytes).ok_or_else(|| MapError::shape(&self.handle))?;
        }
        Ok(sum)
    }

    /// Zero on every CPU. What a program counts at the same moment may be lost, or survive: only for an element that
    /// nothing counts in any more.
    pub fn clear(&self, index: u32) -> Result<(), MapError> {
        self.put(index, V::default())
    }

    /// `value` on the first CPU, zero on the others.
    pub(super) fn put(&self, index: u32, value: V) -> Result<(), MapError> {
        let cpus = num_possible_cpus().map_err(|e| MapError::kernel(&self.handle, "count the CPUs for", e))?;
        let mut values = vec![V::default().to_bytes().as_ref().to_vec(); cpus];
        if let Some(first) = values.first_mut() {
            *first = value.to_bytes().as_ref().to_vec();
        }
        self.handle
            .update_percpu(&index.to_bytes(), &values, MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "write", e))
    }

    /// Elements.
    pub fn capacity(&self) -> u32 {
        self.handle.max_entries()
    }
}
