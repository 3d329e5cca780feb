// SPDX-License-Identifier: GPL-3.0-only
//! How busy each backend is, in memory that the kernel's programs count in.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use eg_abi::{Latency, Load};
use libbpf_rs::MapHandle;

use super::MapError;
use super::mapped::Mapped;

/// `eg_loads`, mapped into this process. Programs add to it at any moment, so every change here is an addition too.
#[derive(Debug)]
pub struct Loads {
    mapped: Mapped<Load>,
}

impl Loads {
    pub(super) fn new(handle: MapHandle) -> Result<Loads, MapError> {
        Ok(Loads { mapped: Mapped::new(&handle)? })
    }

    /// A backend's load at about this moment; zero for an id that cannot be.
    pub fn get(&self, backend: u32) -> Load {
        let Some(element) = self.mapped.element(backend) else { return Load::default() };
        // SAFETY: the element lives as long as `mapped`; its fields are eight-aligned in an element of 32 bytes on a page
        // boundary, and everybody in this process reaches them as atomics.
        unsafe {
            Load {
                flows: AtomicI64::from_ptr(&raw mut (*element).flows).load(Ordering::Relaxed),
                outstanding: AtomicI64::from_ptr(&raw mut (*element).outstanding).load(Ordering::Relaxed),
                latency: Latency {
                    value: AtomicU64::from_ptr(&raw mut (*element).latency.value).load(Ordering::Relaxed),
                    seen: AtomicU64::from_ptr(&raw mut (*element).latency.seen).load(Ordering::Relaxed),
                },
            }
        }
    }

    /// Corrects the counts by what they were found to be wrong.
    pub fn add(&self, backend: u32, flows: i64, outstanding: i64) {
        let Some(element) = self.mapped.element(backend) else { return };
        // SAFETY: as in `get`.
        unsafe {
            AtomicI64::from_ptr(&raw mut (*element).flows).fetch_add(flows, Ordering::Relaxed);
            AtomicI64::from_ptr(&raw mut (*element).outstanding).fetch_add(outstanding, Ordering::Relaxed);
        }
    }

    /// Forgets everything about an id that nobody uses.
    pub fn clear(&self, backend: u32) {
        let Some(element) = self.mapped.element(backend) else { return };
        // SAFETY: as in `get`.
        unsafe {
            AtomicI64::from_ptr(&raw mut (*element).flows).store(0, Ordering::Relaxed);
            AtomicI64::from_ptr(&raw mut (*element).outstanding).store(0, Ordering::Relaxed);
            AtomicU64::from_ptr(&raw mut (*element).latency.value).store(0, Ordering::Relaxed);
            AtomicU64::from_ptr(&raw mut (*element).latency.seen).store(0, Ordering::Relaxed);
        }
    }
}
