// SPDX-License-Identifier: GPL-3.0-only
//! The sockets that socket lookup hands traffic to.

use std::os::fd::{AsRawFd, BorrowedFd};

use eg_abi::Plain;
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};

use super::MapError;

/// `eg_socks`.
#[derive(Debug)]
pub struct Socks {
    handle: MapHandle,
}

impl Socks {
    pub(super) fn new(handle: MapHandle) -> Socks {
        Socks { handle }
    }

    /// Puts a listening TCP socket or an unconnected UDP socket into a slot, replacing what was there. The map holds no
    /// reference that keeps it open: when its last descriptor closes, the slot empties itself.
    pub fn set(&self, slot: u32, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        let fd = socket.as_raw_fd() as u64;
        self.handle
            .update(&slot.to_bytes(), &fd.to_bytes(), MapFlags::ANY)
            .map_err(|e| MapError::kernel(&self.handle, "add a socket to", e))
    }

    /// Empties a slot; an empty one is no error.
    pub fn delete(&self, slot: u32) -> Result<(), MapError> {
        match self.handle.delete(&slot.to_bytes()) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                Err(MapError::kernel(&self.handle, "delete", e))
            }
            _ => Ok(()),
        }
    }

    /// Slots.
    pub fn capacity(&self) -> u32 {
        self.handle.max_entries()
    }
}
