// SPDX-License-Identifier: GPL-3.0-only
//! One request and its response on an HTTP/1 connection, as the exchange sees them.

use crate::h1::body::Decoder;
use crate::h1::encode::{self, Manner};
use crate::h1::wire::Wire;
use crate::h1::{Bounds, Length, parse};
use crate::head::Head;
use crate::stream::{Abort, Frame, Front, Sink, Source};
use crate::worker::{Phase, Worker};
use bytes::Bytes;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Bytes of following requests that are read while one is served: reading is how we hear that the client is gone.
const PIPELINED: usize = 16 * 1024;

/// One exchange with a client.
pub(super) struct Stream {
    worker: Rc<Worker>,
    wire: Wire,
    decoder: Decoder,
    to_head: bool,
    http10: bool,
    /// The connection may serve another request.
    keep: bool,
    aborted: bool,
}

impl Stream {
    pub(super) fn new(worker: &Rc<Worker>, wire: Wire, request: &parse::Request, bounds: Bounds) -> Stream {
        let decoder = Decoder::new(request.body, bounds);
        Stream {
            worker: Rc::clone(worker),
            wire,
            decoder,
            to_head: request.head.method() == b"HEAD",
            http10: request.http10,
            keep: request.keep_alive,
            aborted: false,
        }
    }

    /// Whether the request's end was read.
    pub(super) fn request_done(&self) -> bool {
        self.decoder.done()
    }

    /// The connection, whether the request's end was read, and whether it may serve another.
    pub(super) fn into_wire(mut self) -> (Wire, bool, bool) {
        self.wire.rest();
        self.wire.out.shrink();
        (self.wire, self.decoder.done(), self.keep && !self.aborted)
    }
}

impl Source for Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Abort>> {
        loop {
            match self.decoder.decode(&mut self.wire.read) {
                Ok(Some(frame)) => return Poll::Ready(Ok(frame)),
                Ok(None) => {}
                Err(_) => {
                    self.keep = false;
                    return Poll::Ready(Err(Abort::Malformed));
                }
            }
            match ready!(self.wire.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Abort::Cancelled)),
                Ok(_) => {}
            }
        }
    }
}

impl Sink for Stream {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Abort>> {
        self.wire.poll_send(cx, data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: Option<&Head>) -> Poll<Result<(), Abort>> {
        self.wire.poll_finish(cx, trailers)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Abort>> {
        self.wire.poll_flush(cx)
    }

    fn written(&self) -> u64 {
        self.wire.written
    }

    fn abort(&mut self, _why: Abort) {
        self.aborted = true;
        self.wire.io.reset();
    }
}

impl Front for Stream {
    fn poll_inform(&mut self, cx: &mut Context<'_>, head: &Head) -> Poll<Result<(), Abort>> {
        // RFC 9110 section 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client".
        if self.http10 {
            return Poll::Ready(Ok(()));
        }
        if !self.wire.out.has_room() {
            ready!(self.wire.poll_flush(cx))?;
        }
        encode::response(
            self.wire.out.text(),
            head,
            Manner { chunked: false, close: false, keep_alive: false, empty: false },
        );
        // It leaves at once if it can; if it cannot, it leaves with what follows.
        let _ = self.wire.poll_flush(cx)?;
        Poll::Ready(Ok(()))
    }

    fn poll_respond(&mut self, cx: &mut Context<'_>, head: &Head, end: bool) -> Poll<Result<(), Abort>> {
        if !self.wire.out.has_room() {
            ready!(self.wire.poll_flush(cx))?;
        }
        let status = head.status();
        let bodiless = self.to_head || status == 204 || status == 304;
        let declared = encode::length(head);
        self.wire.sending = match declared {
            _ if end || bodiless => Length::None,
            Some(length) => length,
            None if self.http10 => Length::Close,
            None => Length::Chunked,
        };
        // RFC 9112 section 9.6: a server that is going to close the connection "SHOULD send a close connection option in its
        // final response". With the request unread, which bytes begin the next one depends on when the rest of it comes.
        if self.wire.sending == Length::Close || !self.decoder.done() || self.worker.phase() >= Phase::Draining {
            self.keep = false;
        }
        // RFC 9112 section 9.3: an HTTP/1.0 client must be told that the connection persists.
        let manner = Manner {
            chunked: self.wire.sending == Length::Chunked,
            close: !self.keep,
            keep_alive: self.keep && self.http10,
            empty: end && !bodiless && declared.is_none(),
        };
        encode::response(self.wire.out.text(), head, manner);
        Poll::Ready(Ok(()))
    }

    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        // Until the request has ended, reading its body tells.
        while self.decoder.done() && self.wire.read.len() < PIPELINED {
            match self.wire.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Abort::Cancelled),
                Poll::Ready(Ok(_)) => {}
            }
        }
        Poll::Pending
    }
}
