// SPDX-License-Identifier: GPL-3.0-only
//! What quiche holds of the bodies we gave it: bytes accepted for sending and not yet acknowledged.
//!
//! quiche takes as much as the congestion window lets it, and on a path that loses nothing that window grows without end.
//! So each part of a body that is handed over carries a charge to its stream's [`Ledger`], taken back when quiche lets go
//! of the part: exact, whatever is retransmitted or acknowledged out of order. The parts are not copied.

use bytes::Bytes;
use quiche::{BufFactory, BufSplit};
use std::cell::Cell;
use std::rc::Rc;

/// A connection whose streams hold [`Part`]s.
pub(super) type Quic = quiche::Connection<Parts>;

/// The most that is held for one stream; the exchange waits beyond it. Worst cost: this much for each stream whose client
/// is slow to acknowledge. It carries 20 MB/s over a round trip of 50 ms.
pub(super) const WINDOW: usize = 1024 * 1024;

/// Makes buffers for what quiche copies by itself: heads and frame headers, which are not charged.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts;

impl BufFactory for Parts {
    type Buf = Part;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(bytes: &[u8]) -> Part {
        Part { bytes: Bytes::copy_from_slice(bytes), _charge: None }
    }

    fn dgram_buf_from_slice(bytes: &[u8]) -> Vec<u8> {
        bytes.into()
    }
}

/// A part of a body; its clones and splits share one charge.
#[derive(Clone, Debug)]
pub(super) struct Part {
    bytes: Bytes,
    _charge: Option<Rc<Charge>>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BufSplit for Part {
    fn split_at(&mut self, at: usize) -> Part {
        Part { bytes: self.bytes.split_off(at), _charge: self._charge.clone() }
    }
}

/// How many bytes are held for one stream.
#[derive(Debug, Default)]
pub(super) struct Ledger(Rc<Cell<usize>>);

impl Ledger {
    /// How many more may be given.
    pub(super) fn room(&self) -> usize {
        WINDOW.saturating_sub(self.0.get())
    }

    /// Charges these bytes until the part and all that was made of it are gone.
    pub(super) fn charge(&self, bytes: Bytes) -> Part {
        let charge = Charge { ledger: Rc::clone(&self.0), len: bytes.len() };
        self.0.set(self.0.get().saturating_add(charge.len));
        Part { bytes, _charge: Some(Rc::new(charge)) }
    }
}

#[derive(Debug)]
struct Charge {
    ledger: Rc<Cell<usize>>,
    len: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.set(self.ledger.get().saturating_sub(self.len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_charged_once_until_its_last_piece_is_gone() {
        let ledger = Ledger::default();
        let mut part = ledger.charge(Bytes::from_static(b"abcdef"));
        assert_eq!(ledger.room(), WINDOW - 6);
        let rest = part.split_at(2);
        assert_eq!((part.as_ref(), rest.as_ref()), (&b"ab"[..], &b"cdef"[..]));
        let copy = rest.clone();
        drop((part, rest));
        assert_eq!(ledger.room(), WINDOW - 6);
        drop(copy);
        assert_eq!(ledger.room(), WINDOW);
    }
}
