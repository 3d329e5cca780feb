// SPDX-License-Identifier: GPL-3.0-only
//! What waits to be written on an HTTP/1 connection: text, at most one frame of data, and text behind it.
//!
//! Gathering lets a head, its first data and the last chunk leave in one write. At most one large frame waits, so that what
//! a slow reader makes us hold is bounded by a frame.

use bytes::{Buf, Bytes};
use std::io::IoSlice;

/// Data up to this size is copied behind the text, so that small frames gather into one write.
const SMALL: usize = 4096;

/// Text that waits before it must be written.
const FULL: usize = 16 * 1024;

/// Pending output.
#[derive(Debug, Default)]
pub(crate) struct Out {
    text: Vec<u8>,
    written: usize,
    data: Bytes,
    after: Vec<u8>,
}

impl Out {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.len() == self.written && self.data.is_empty() && self.after.is_empty()
    }

    /// Whether another frame may be put in before anything is written.
    pub(crate) fn has_room(&self) -> bool {
        self.data.is_empty() && self.after.is_empty() && self.text.len() - self.written.min(self.text.len()) < FULL
    }

    /// Where text goes now: behind everything that waits.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        if self.data.is_empty() && self.after.is_empty() { &mut self.text } else { &mut self.after }
    }

    /// Puts data behind everything that waits. Only when there is [room](Self::has_room).
    pub(crate) fn data(&mut self, data: Bytes) {
        if data.len() <= SMALL {
            self.text.extend_from_slice(&data);
        } else {
            self.data = data;
        }
    }

    /// What is to be written, in order.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 3] {
        let text = self.text.get(self.written..).unwrap_or_default();
        [IoSlice::new(text), IoSlice::new(&self.data), IoSlice::new(&self.after)]
    }

    /// That many bytes were written.
    pub(crate) fn advance(&mut self, mut n: usize) {
        let text = n.min(self.text.len() - self.written.min(self.text.len()));
        self.written += text;
        n -= text;
        let data = n.min(self.data.len());
        self.data.advance(data);
        n -= data;
        if self.written == self.text.len() {
            self.text.clear();
            self.written = 0;
        }
        if n > 0 || (self.text.is_empty() && self.data.is_empty()) {
            std::mem::swap(&mut self.text, &mut self.after);
            self.written = n;
            if self.written == self.text.len() {
                self.text.clear();
                self.written = 0;
            }
        }
    }

    /// Gives the memory back; only when empty.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Out::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(out: &mut Out, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let piece: Vec<u8> = out.slices().iter().flat_map(|s| s.to_vec()).take(step).collect();
            assert!(!piece.is_empty());
            out.advance(piece.len());
            all.extend(piece);
        }
        all
    }

    #[test]
    fn order_is_kept_whatever_is_written_at_once() {
        let large = Bytes::from(vec![b'x'; SMALL + 1]);
        for step in [1, 2, 3, 5, 1000, 4096, 4099, 9999] {
            let mut out = Out::default();
            out.text().extend_from_slice(b"head");
            assert!(out.has_room());
            out.data(Bytes::from_static(b"small"));
            assert!(out.has_room());
            out.text().extend_from_slice(b"size");
            out.data(large.clone());
            assert!(!out.has_room());
            out.text().extend_from_slice(b"tail");
            let expected = [b"headsmallsize", &large[..], b"tail"].concat();
            assert_eq!(drain(&mut out, step), expected, "step {step}");
            assert!(out.has_room());
            out.text().extend_from_slice(b"next");
            assert_eq!(drain(&mut out, step), b"next");
        }
    }
}
