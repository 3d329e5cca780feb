// SPDX-License-Identifier: GPL-3.0-only
//! One HTTP/1 connection's bytes in and out, with the framing of the body that is being sent: what the front and the back
//! have in common.

use super::out::Out;
use super::{Length, encode};
use crate::head::Head;
use crate::io::Io;
use crate::stream::Abort;
use crate::worker::Worker;
use bytes::{Bytes, BytesMut};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Bytes read at once, at least. A head nearly always fits; a body that fills it gets [`LARGE`].
const ROOM: usize = 16 * 1024;

/// Bytes read at once while a body fills every buffer: fewer system calls, and the frame that the exchange may hold.
const LARGE: usize = 64 * 1024;

/// A connection between the codec and its socket.
pub(crate) struct Wire {
    pub(crate) io: Io,
    /// What was read and not yet taken. Owns no memory while the connection is idle.
    pub(crate) read: BytesMut,
    pub(crate) out: Out,
    /// What is left to send of the current message's body.
    pub(crate) sending: Length,
    /// Bytes that have left: progress for deadlines.
    pub(crate) written: u64,
    worker: Rc<Worker>,
    filled: bool,
}

impl Wire {
    pub(crate) fn new(worker: &Rc<Worker>, io: Io, read: BytesMut) -> Wire {
        let worker = Rc::clone(worker);
        Wire { io, read, out: Out::default(), sending: Length::None, written: 0, worker, filled: false }
    }

    /// Reads more; 0 is the end. While nothing is there the connection holds no buffer, unless it holds bytes.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.is_empty() && self.read.capacity() == 0 {
            self.read = self.worker.buffers.take(ROOM);
        }
        let room = if self.filled { LARGE } else { ROOM };
        if self.read.capacity() - self.read.len() < ROOM / 4 {
            self.read.reserve(room);
        }
        let room = self.read.capacity() - self.read.len();
        let poll = self.io.poll_fill(cx, &mut self.read);
        match poll {
            Poll::Ready(Ok(n)) => self.filled = n == room,
            _ => self.rest(),
        }
        poll
    }

    /// Gives the read buffer back if nothing is in it.
    pub(crate) fn rest(&mut self) {
        if self.read.is_empty() && self.read.capacity() > 0 {
            self.worker.buffers.give(std::mem::take(&mut self.read));
        }
    }

    /// Takes a frame of the body; Ready when it was taken whole. It leaves with the next flush.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Abort>> {
        if data.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if !self.out.has_room() {
            ready!(self.poll_flush(cx))?;
        }
        let data = std::mem::take(data);
        match self.sending {
            Length::Exact(left) => match left.checked_sub(data.len() as u64) {
                Some(left) => self.sending = Length::Exact(left),
                None => return Poll::Ready(Err(Abort::Truncated)),
            },
            Length::Chunked => encode::chunk_size(self.out.text(), data.len()),
            Length::Close => {}
            // The message has no body (it answers HEAD, say): what comes nonetheless goes nowhere.
            Length::None => return Poll::Ready(Ok(())),
        }
        self.out.data(data);
        if self.sending == Length::Chunked {
            self.out.text().extend_from_slice(b"\r\n");
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the body; Ready when everything has left.
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: Option<&Head>) -> Poll<Result<(), Abort>> {
        match self.sending {
            Length::Exact(1..) => return Poll::Ready(Err(Abort::Truncated)),
            Length::Chunked => encode::last_chunk(self.out.text(), trailers),
            Length::Exact(0) | Length::Close | Length::None => {}
        }
        self.sending = Length::None;
        self.poll_flush(cx)
    }

    /// Writes all that waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Abort>> {
        self.io.poll_drain(cx, &mut self.out, &mut self.written).map_err(|_| Abort::Cancelled)
    }
}
