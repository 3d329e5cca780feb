// SPDX-License-Identifier: GPL-3.0-only
//! The prefix lists: one trie, swapped whole.

use std::os::fd::{AsFd, AsRawFd};

use eg_abi::{Plain, Prefix, PrefixVerdict};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, MapType};

use super::MapError;

/// `eg_prefixes`.
#[derive(Debug)]
pub struct Prefixes {
    handle: MapHandle,
}

/// A trie that no program sees yet.
#[derive(Debug)]
pub struct Trie {
    handle: MapHandle,
}

/// Entries that one system call adds: 24 bytes each. Each call copies its arrays once, so larger ones win nothing.
const BATCH: usize = 4096;

impl Trie {
    /// A trie of these prefixes; of one that is given twice the later verdict holds. Adding them in ascending order is
    /// several times faster: neighbours share their path through the trie, and so the cache.
    pub fn new(entries: &[(Prefix, PrefixVerdict)]) -> Result<Trie, MapError> {
        let most = u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1);
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
            ..Default::default()
        };
        let key = size_of::<<Prefix as Plain>::Bytes>() as u32;
        let handle = MapHandle::create(MapType::LpmTrie, Some("eg_prefix"), key, 4, most, &options)
            .map_err(|source| MapError::Kernel { map: "eg_prefix".into(), operation: "make", source })?;
        let trie = Trie { handle };
        let mut batches = true;
        for chunk in entries.chunks(BATCH) {
            // Batches for tries are younger than tries. What else may have failed, one by one says as well, and better.
            batches = batches && trie.add_batch(chunk).is_ok();
            if !batches {
                trie.add_each(chunk)?;
            }
        }
        Ok(trie)
    }

    fn add_batch(&self, entries: &[(Prefix, PrefixVerdict)]) -> libbpf_rs::Result<()> {
        let keys: Vec<u8> = entries.iter().flat_map(|(prefix, _)| prefix.to_bytes()).collect();
        let values: Vec<u8> = entries.iter().flat_map(|(_, verdict)| verdict.code().to_bytes()).collect();
        self.handle.update_batch(&keys, &values, entries.len() as u32, MapFlags::ANY, MapFlags::ANY)
    }

    fn add_each(&self, entries: &[(Prefix, PrefixVerdict)]) -> Result<(), MapError> {
        entries.iter().try_for_each(|(prefix, verdict)| {
            self.handle
                .update(&prefix.to_bytes(), &verdict.code().to_bytes(), MapFlags::ANY)
                .map_err(|e| MapError::kernel(&self.handle, "fill", e))
        })
    }
}

impl Prefixes {
    pub(super) fn new(handle: MapHandle) -> Prefixes {
        Prefixes { handle }
    }

    /// Makes `trie` the one that programs ask, in one step. Waits for a grace period, some 8 ms; the kernel frees the
    /// old one afterwards.
    pub fn set(&self, trie: &Trie) -> Result<(), MapError> {
        let fd = trie.handle.as_fd().as_raw_fd();
        self.handle
            .update(&0u32.to_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "swap the trie of", e))
    }

    /// Takes the trie away: every address is allowed.
    pub fn clear(&self) -> Result<(), MapError> {
        match self.handle.delete(&0u32.to_bytes()) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(MapError::kernel(&self.handle, "clear", e)),
            _ => Ok(()),
        }
    }

    /// What the programs would find for `prefix.addr`, of all prefixes no longer than `prefix.len`; `None` if there is
    /// no trie, or nothing in it.
    pub fn find(&self, prefix: &Prefix) -> Result<Option<PrefixVerdict>, MapError> {
        let read = |e| MapError::kernel(&self.handle, "read", e);
        let Some(id) = self.handle.lookup(&0u32.to_bytes(), MapFlags::ANY).map_err(read)? else {
            return Ok(None);
        };
        let id = u32::from_bytes(&id).ok_or_else(|| MapError::shape(&self.handle))?;
        let trie = MapHandle::from_map_id(id).map_err(read)?;
        let found = trie.lookup(&prefix.to_bytes(), MapFlags::ANY).map_err(read)?;
        Ok(found.and_then(|bytes| u32::from_bytes(&bytes)).and_then(PrefixVerdict::from_code))
    }
}
