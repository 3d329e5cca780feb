// SPDX-License-Identifier: GPL-3.0-only
//! The bytes of a generated body, and the checksum of any body. Byte i is byte i mod 8 of the big-endian number i div 8, so a
//! client can check a body of any length without keeping it, and a lost, doubled or moved piece shows at once.

use boring::sha::Sha256;
use bytes::{BufMut, Bytes, BytesMut};

pub(crate) struct Pattern {
    offset: u64,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        Self { offset: 0 }
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Bytes {
        let skip = (self.offset % 8) as usize;
        let first = self.offset / 8;
        let words = (skip + length).div_ceil(8);
        let mut bytes = BytesMut::with_capacity(words * 8);
        for word in first..first + words as u64 {
            bytes.put_u64(word);
        }
        self.offset += length as u64;
        bytes.freeze().slice(skip..skip + length)
    }
}

/// Length and SHA-256 of what has passed so far.
pub(crate) struct Sum {
    hash: Sha256,
    pub(crate) bytes: u64,
}

impl Sum {
    pub(crate) fn new() -> Self {
        Self { hash: Sha256::new(), bytes: 0 }
    }

    pub(crate) fn add(&mut self, data: &[u8]) {
        self.hash.update(data);
        self.bytes += data.len() as u64;
    }

    pub(crate) fn hex(self) -> String {
        self.hash.finish().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_body() {
        let whole = Pattern::new().take(1000);
        let mut pattern = Pattern::new();
        let mut pieces = Vec::new();
        for length in [1, 7, 8, 3, 500, 0, 481] {
            pieces.extend_from_slice(&pattern.take(length));
        }
        assert_eq!(whole, pieces);
        assert_eq!(whole[7], 0);
        assert_eq!(whole[15], 1);
    }
}
