// SPDX-License-Identifier: GPL-3.0-only
//! Bodies that can be made, sent and checked without being held: a block that repeats, and its digest.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

pub(crate) const MIB: u64 = 1 << 20;

/// A prime length, so that no power-of-two boundary of a buffer or a frame ever falls on the same byte of it again.
const BLOCK: usize = 65_521;

/// The repeating block: bytes of a xorshift generator, so that nothing on the way can compress or guess it.
pub(crate) fn block() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..BLOCK)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    })
}

/// The first `len` bytes of the pattern, block by block.
pub(crate) fn pieces(len: u64) -> impl Iterator<Item = &'static [u8]> {
    let mut left = len;
    std::iter::from_fn(move || {
        let take = left.min(BLOCK as u64);
        left -= take;
        (take > 0).then(|| &block()[..take as usize])
    })
}

/// Hex SHA-256 of the first `len` bytes of the pattern.
pub(crate) fn digest(len: u64) -> String {
    let mut hash = Sha256::new();
    pieces(len).for_each(|piece| hash.update(piece));
    hex(hash)
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hex(hash)
}

/// A file holding the first `len` bytes of the pattern, made once per length in cargo's folder for test files.
pub(crate) fn file(len: u64) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pattern-{len}"));
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == len) {
        return path;
    }
    // Written aside and renamed: another test may be about to read it.
    let aside = path.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    let written: io::Result<()> = (|| {
        let mut out = File::create(&aside)?;
        pieces(len).try_for_each(|piece| out.write_all(piece))?;
        std::fs::rename(&aside, &path)
    })();
    written.expect("write a body into cargo's folder for test files");
    path
}
