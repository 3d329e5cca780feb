// SPDX-License-Identifier: GPL-3.0-only
//! An array map (`BPF_F_MMAPABLE`) in this process's memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use libbpf_rs::{MapCore, MapHandle};
use nix::libc;

use super::MapError;

/// The elements of an array of `T`, shared with the kernel's programs. The last drop unmaps it.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    start: NonNull<T>,
    elements: u32,
}

// SAFETY: elements are only ever accessed through atomics (`element` is the one way in).
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps the whole array, which must have elements of `T`'s size: the kernel rounds sizes to eight bytes only.
    pub(super) fn new(handle: &MapHandle) -> Result<Mapped<T>, MapError> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        if handle.value_size() as usize != size_of::<T>() {
            return Err(MapError::shape(handle));
        }
        let elements = handle.max_entries();
        // SAFETY: a fresh mapping of as many bytes as the map has: its shape was just checked. The descriptor may be
        // closed afterwards, the mapping keeps the map.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length::<T>(elements),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                handle.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(MapError::kernel(handle, "map", libbpf_rs::Error::from(io::Error::last_os_error())));
        }
        let start = NonNull::new(start.cast::<T>()).ok_or_else(|| MapError::shape(handle))?;
        Ok(Mapped { start, elements })
    }

    /// The element at `index`, valid as long as `self`; `None` beyond the end. Whoever dereferences it does so through
    /// atomics alone.
    pub(super) fn element(&self, index: u32) -> Option<*mut T> {
        // SAFETY: the element lies within the mapping.
        (index < self.elements).then(|| unsafe { self.start.as_ptr().add(index as usize) })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mmap above, and nobody holds the mapping any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), length::<T>(self.elements)) };
    }
}

fn length<T>(elements: u32) -> usize {
    elements as usize * size_of::<T>()
}
