// SPDX-License-Identifier: GPL-3.0-only
//! The workers' live-connection gauges, in memory that the kernel's programs read.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eg_abi::{MAX_WORKERS, Worker};
use libbpf_rs::{MapCore, MapHandle};
use nix::libc;

use super::MapError;

/// `eg_workers`, mapped into this process. Clones share the mapping, and the last one unmaps it.
#[derive(Clone, Debug)]
pub struct Workers {
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<Worker>,
}

// SAFETY: the mapping is only ever accessed through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

const LENGTH: usize = MAX_WORKERS as usize * size_of::<Worker>();

impl Workers {
    pub(super) fn new(handle: MapHandle) -> Result<Workers, MapError> {
        if handle.max_entries() != MAX_WORKERS || handle.value_size() as usize != size_of::<Worker>() {
            return Err(MapError::shape(&handle));
        }
        // SAFETY: a fresh mapping of LENGTH bytes, which the map has: its shape was just checked. The descriptor may be
        // closed afterwards, the mapping keeps the map.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                handle.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(MapError::kernel(&handle, "map", libbpf_rs::Error::from(io::Error::last_os_error())));
        }
        let start = NonNull::new(start.cast::<Worker>()).ok_or_else(|| MapError::shape(&handle))?;
        Ok(Workers { mapping: Arc::new(Mapping { start }) })
    }

    /// The gauge of a worker; `None` beyond [`MAX_WORKERS`].
    pub fn gauge(&self, worker: usize) -> Option<Gauge> {
        (worker < MAX_WORKERS as usize).then(|| Gauge { mapping: Arc::clone(&self.mapping), worker })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and LENGTH are those of the mmap above, and nobody holds the mapping any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), LENGTH) };
    }
}

/// Live connections of one worker. Written by that worker alone, read by socket lookup.
#[derive(Clone, Debug)]
pub struct Gauge {
    mapping: Arc<Mapping>,
    worker: usize,
}

impl Gauge {
    fn live(&self) -> &AtomicU64 {
        // SAFETY: worker is below MAX_WORKERS, so the element lies within the mapping, which lives as long as self;
        // `live` is eight-aligned at the front of an element of 64 bytes on a page boundary, and everybody in this
        // process reaches it as an atomic.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.mapping.start.as_ptr().add(self.worker)).live) }
    }

    /// A connection began.
    pub fn add(&self) {
        self.live().fetch_add(1, Ordering::Relaxed);
    }

    /// A connection ended.
    pub fn sub(&self) {
        self.live().fetch_sub(1, Ordering::Relaxed);
    }

    /// Says how many there are, whatever was there: a restarted process begins with none.
    pub fn set(&self, live: u64) {
        self.live().store(live, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.live().load(Ordering::Relaxed)
    }
}
