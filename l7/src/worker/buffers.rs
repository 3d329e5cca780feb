// SPDX-License-Identifier: GPL-3.0-only
//! Read buffers, lent to connections while they have bytes to hold.

use bytes::BytesMut;
use std::cell::RefCell;

/// Buffers kept for reuse: enough for the connections that one turn of the loop serves. The rest goes to the allocator.
const KEPT: usize = 64;

/// Larger ones are not kept: they were grown for one message.
const LARGEST: usize = 64 * 1024;

/// The spare buffers of one worker.
#[derive(Default)]
pub(crate) struct Buffers(RefCell<Vec<BytesMut>>);

impl Buffers {
    /// An empty buffer with at least that much room.
    pub(crate) fn take(&self, room: usize) -> BytesMut {
        self.0.borrow_mut().pop().unwrap_or_else(|| BytesMut::with_capacity(room))
    }

    /// Takes a buffer back. One whose memory is still shared with a frame in flight is let go.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT && buffer.capacity() <= LARGEST && buffer.try_reclaim(16 * 1024) {
            kept.push(buffer);
        }
    }
}
