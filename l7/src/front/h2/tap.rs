// SPDX-License-Identifier: GPL-3.0-only
//! What a client's HTTP/2 frames are, seen between TLS and `h2`, which does not tell of a frame or a header block before it
//! has all of it: without this nobody could say how long a client has been sending a head.
//!
//! It reads frame headers as they pass (RFC 9113 section 4.1) and holds nothing of what they carry. It judges nothing:
//! what is malformed is for `h2` to refuse.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's preface comes before its first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What has come of the frame that comes now.
#[derive(Debug)]
struct Scan {
    header: [u8; 9],
    have: usize,
    /// Bytes of the frame behind its header that are still to come.
    left: usize,
    kind: u8,
    /// A header block has begun and has not ended.
    block: bool,
    /// Counts frames and header blocks: a new one is not the old one going on.
    number: u64,
}

impl Scan {
    fn new() -> Scan {
        Scan { header: [0; 9], have: 0, left: PREFACE, kind: DATA, block: false, number: 0 }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if self.have == 0 && !self.block {
                self.number += 1;
            }
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            bytes = rest;
            if self.have == self.header.len() {
                self.begin();
            }
        }
    }

    /// A frame's header is complete.
    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        (self.have, self.kind) = (0, kind);
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block = flags & END_HEADERS == 0;
        }
    }

    fn head_is_open(&self) -> bool {
        self.block || (self.left > 0 && matches!(self.kind, HEADERS | CONTINUATION))
    }

    fn frame_is_open(&self) -> bool {
        self.block || self.have > 0 || (self.left > 0 && self.kind != DATA)
    }
}

/// What the tap has seen, for the connection's task.
#[derive(Debug, Default)]
pub(super) struct Seen {
    head: Cell<Option<u64>>,
    frame: Cell<Option<u64>>,
    starved: Cell<bool>,
}

impl Seen {
    /// The number of the header block that has begun and not ended; on a connection without streams, of any frame.
    pub(super) fn open(&self, idle: bool) -> Option<u64> {
        if idle { self.frame.get() } else { self.head.get() }
    }

    /// Whether all that the client sent has been read: then it is the client that everything waits for.
    pub(super) fn starved(&self) -> bool {
        self.starved.get()
    }
}

/// A connection whose incoming frames are watched.
pub(super) struct Tap<T> {
    io: T,
    scan: Scan,
    seen: Rc<Seen>,
}

impl<T> Tap<T> {
    pub(super) fn new(io: T) -> (Tap<T>, Rc<Seen>) {
        let seen = Rc::<Seen>::default();
        (Tap { io, scan: Scan::new(), seen: Rc::clone(&seen) }, seen)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tap<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let poll = Pin::new(&mut this.io).poll_read(cx, buffer);
        this.seen.starved.set(poll.is_pending());
        if poll.is_ready() {
            this.scan.feed(buffer.filled().get(before..).unwrap_or_default());
            this.seen.head.set(this.scan.head_is_open().then_some(this.scan.number));
            this.seen.frame.set(this.scan.frame_is_open().then_some(this.scan.number));
        }
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tap<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(9 + payload, 0);
        bytes
    }

    #[test]
    fn heads_are_open_until_their_last_byte_however_they_are_cut() {
        let all = [
            vec![b'P'; PREFACE],
            frame(4, 0, 6),
            frame(HEADERS, 0, 5),
            frame(CONTINUATION, 0, 3),
            frame(CONTINUATION, END_HEADERS, 2),
            frame(DATA, 1, 7),
            frame(HEADERS, END_HEADERS, 1),
        ];
        let bytes = all.concat();
        let block = PREFACE + 15 + 9..PREFACE + 15 + 14 + 12 + 11;
        let last = bytes.len() - 1..bytes.len();
        for step in [1, 2, 3, 7, 1000] {
            let mut scan = Scan::new();
            let mut at = 0;
            for piece in bytes.chunks(step) {
                scan.feed(piece);
                at += piece.len();
                assert_eq!(scan.head_is_open(), block.contains(&at) || last.contains(&at), "step {step}, byte {at}");
            }
            assert!(!scan.frame_is_open());
            assert_eq!(scan.number, 4, "a block is one with its continuations");
        }
    }

    #[test]
    fn a_frame_without_its_end_is_open_unless_it_is_data() {
        let mut scan = Scan::new();
        scan.feed(&[b'P'; PREFACE - 1]);
        assert!(!scan.frame_is_open());
        scan.feed(&[b'P', 0]);
        assert!(scan.frame_is_open() && !scan.head_is_open());
        scan.feed(&[0, 9, DATA, 0, 0, 0, 0, 1]);
        assert!(!scan.frame_is_open());
    }
}
