// SPDX-License-Identifier: GPL-3.0-only
//! The workers' live-connection gauges, in memory that the kernel's programs read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eg_abi::{MAX_WORKERS, Worker};
use libbpf_rs::MapHandle;

use super::MapError;
use super::mapped::Mapped;

/// `eg_workers`, mapped into this process. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct Workers {
    mapped: Arc<Mapped<Worker>>,
}

impl Workers {
    pub(super) fn new(handle: MapHandle) -> Result<Workers, MapError> {
        Ok(Workers { mapped: Arc::new(Mapped::new(&handle)?) })
    }

    /// The gauge of a worker; `None` beyond [`MAX_WORKERS`].
    pub fn gauge(&self, worker: usize) -> Option<Gauge> {
        let worker = u32::try_from(worker).ok().filter(|worker| *worker < MAX_WORKERS)?;
        Some(Gauge { mapped: Arc::clone(&self.mapped), worker })
    }
}

/// Live connections of one worker. Written by that worker alone, read by socket lookup.
#[derive(Clone, Debug)]
pub struct Gauge {
    mapped: Arc<Mapped<Worker>>,
    worker: u32,
}

impl Gauge {
    /// Calls `with` on the gauge; 0 where the map is smaller than the header says, which its opening has ruled out.
    fn live(&self, with: impl FnOnce(&AtomicU64) -> u64) -> u64 {
        let Some(element) = self.mapped.element(self.worker) else { return 0 };
        // SAFETY: the element lives as long as `mapped`; `live` is eight-aligned at the front of an element of 64 bytes
        // on a page boundary, and everybody in this process reaches it as an atomic.
        with(unsafe { AtomicU64::from_ptr(&raw mut (*element).live) })
    }

    /// A connection began.
    pub fn add(&self) {
        self.live(|live| live.fetch_add(1, Ordering::Relaxed));
    }

    /// A connection ended.
    pub fn sub(&self) {
        self.live(|live| live.fetch_sub(1, Ordering::Relaxed));
    }

    /// Says how many there are, whatever was there: a restarted process begins with none.
    pub fn set(&self, live: u64) {
        self.live(|gauge| gauge.swap(live, Ordering::Relaxed));
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.live(|live| live.load(Ordering::Relaxed))
    }
}
