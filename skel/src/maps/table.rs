// SPDX-License-Identifier: GPL-3.0-only
//! A hash map.

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use eg_abi::Plain;
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};
use nix::libc;

use super::MapError;

/// Entries that one system call reads when a whole table is walked: 96 bytes each, so some 100 KiB.
const BATCH: usize = 1024;

/// A hash map from `K` to `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    handle: MapHandle,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Wraps a map whose keys and values are of these types' sizes.
    pub fn of(handle: MapHandle) -> Result<Self, MapError> {
        Table::new(handle)
    }

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
        let mut entries = Vec::new();
        self.walk(|key, value| {
            entries.push((key, value));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Gives every entry to `each`, one batch in memory at a time, until it breaks. What may be missed or seen twice is as
    /// with [`Table::entries`]; `each` may look up and change entries.
    pub fn walk(&self, mut each: impl FnMut(K, V) -> ControlFlow<()>) -> Result<(), MapError> {
        self.walk_bytes(|key, value| {
            let entry = K::from_bytes(key).zip(V::from_bytes(value));
            let (key, value) = entry.ok_or_else(|| MapError::shape(&self.handle))?;
            Ok(each(key, value))
        })
    }

    /// Writes every entry into `other`, over what is there; how many. The table may change meanwhile.
    pub fn copy_to(&self, other: &Self) -> Result<u64, MapError> {
        let mut chunk = Chunk::default();
        let mut copied = 0;
        self.walk_bytes(|key, value| {
            chunk.keys.extend_from_slice(key);
            chunk.values.extend_from_slice(value);
            chunk.entries += 1;
            copied += 1;
            if chunk.entries == BATCH as u32 {
                chunk.write(&other.handle)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        chunk.write(&other.handle)?;
        Ok(copied)
    }

    /// Writes the entries that `other` does not have; how many those were.
    pub fn copy_missing_to(&self, other: &Self) -> Result<u64, MapError> {
        let mut copied = 0;
        self.walk_bytes(|key, value| match other.handle.update(key, value, MapFlags::NO_EXIST) {
            Ok(()) => {
                copied += 1;
                Ok(ControlFlow::Continue(()))
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(ControlFlow::Continue(())),
            Err(e) => Err(MapError::kernel(&other.handle, "write", e)),
        })?;
        Ok(copied)
    }

    /// [`Table::walk`] with the entries as the kernel gives them.
    fn walk_bytes(
        &self,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, MapError>,
    ) -> Result<(), MapError> {
        let mut walk = Walk::new(&self.handle);
        while let Some((keys, values)) = walk.next().map_err(|e| MapError::kernel(&self.handle, "walk", e))? {
            for (key, value) in keys.chunks_exact(size_of::<K::Bytes>()).zip(values.chunks_exact(size_of::<V::Bytes>()))
            {
                if each(key, value)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
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

/// Entries on their way into a map.
#[derive(Default)]
struct Chunk {
    keys: Vec<u8>,
    values: Vec<u8>,
    entries: u32,
}

impl Chunk {
    /// Writes what has gathered, in one call.
    fn write(&mut self, map: &MapHandle) -> Result<(), MapError> {
        if self.entries > 0 {
            map.update_batch(&self.keys, &self.values, self.entries, MapFlags::ANY, MapFlags::ANY)
                .map_err(|e| MapError::kernel(map, "write", e))?;
        }
        self.keys.clear();
        self.values.clear();
        self.entries = 0;
        Ok(())
    }
}

/// A walk over a hash map, batch by batch. libbpf-rs 0.27.2 has one, but takes a batch that is not full for the last,
/// and the kernel gives such batches wherever the next bucket does not fit in: most of a large table was never seen.
struct Walk<'m> {
    handle: &'m MapHandle,
    keys: Vec<u8>,
    values: Vec<u8>,
    batch: usize,
    /// The bucket to go on at, as the kernel left it; `None`: the first.
    position: Option<u32>,
    over: bool,
}

impl<'m> Walk<'m> {
    fn new(handle: &'m MapHandle) -> Self {
        let mut walk = Walk { handle, keys: Vec::new(), values: Vec::new(), batch: 0, position: None, over: false };
        walk.grow(BATCH);
        walk
    }

    fn grow(&mut self, batch: usize) {
        self.batch = batch;
        self.keys.resize(batch * self.handle.key_size() as usize, 0);
        self.values.resize(batch * self.handle.value_size() as usize, 0);
    }

    /// Keys and values of the next batch, which may be empty; `None` after the last.
    fn next(&mut self) -> libbpf_rs::Result<Option<(&[u8], &[u8])>> {
        while !self.over {
            let mut count = self.batch as u32;
            let mut reached = 0u32;
            let position = self.position.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
            // SAFETY: both buffers hold `count` elements of this map's sizes, and hash maps keep their place in four
            // bytes; all outlive the call. Null options are the defaults.
            let result = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    self.handle.as_fd().as_raw_fd(),
                    position.cast(),
                    ptr::from_mut(&mut reached).cast(),
                    self.keys.as_mut_ptr().cast(),
                    self.values.as_mut_ptr().cast(),
                    &mut count,
                    ptr::null(),
                )
            };
            match -result {
                0 => self.position = Some(reached),
                libc::ENOENT => self.over = true,
                libc::EINTR => continue,
                // One bucket holds more than a batch.
                libc::ENOSPC => {
                    self.grow(self.batch * 2);
                    continue;
                }
                error => return Err(libbpf_rs::Error::from_raw_os_error(error)),
            }
            let count = count as usize;
            let keys = self.keys.get(..count * self.handle.key_size() as usize);
            let values = self.values.get(..count * self.handle.value_size() as usize);
            return Ok(keys.zip(values));
        }
        Ok(None)
    }
}
