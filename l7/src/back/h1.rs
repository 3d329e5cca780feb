// SPDX-License-Identifier: GPL-3.0-only
//! HTTP/1.1 to a backend: one request on one connection, and whether the connection may serve another.

use crate::back::pool::Connected;
use crate::error::Cause;
use crate::h1::body::Decoder;
use crate::h1::encode::{self, Manner};
use crate::h1::wire::Wire;
use crate::h1::{Bad, Bounds, Length, parse};
use crate::head::Head;
use crate::stream::{Abort, Back, Frame, Response, Sink, Source};
use crate::worker::{Slot, Worker};
use bytes::{Buf, Bytes, BytesMut};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Informational heads before the final one: more than any protocol needs, few enough that a backend cannot keep us
/// parsing for ever.
const INFORMATIONAL: u32 = 32;

/// One exchange with a backend.
pub(crate) struct H1 {
    wire: Wire,
    bounds: Bounds,
    to_head: bool,
    decoder: Option<Decoder>,
    scanned: usize,
    informed: u32,
    /// Bytes of the response have come.
    answered: bool,
    /// The request was sent to its end.
    sent: bool,
    /// The connection can be used again once the response has ended.
    keep: bool,
    /// How the backend failed, once it has.
    fault: Option<Cause>,
    slot: Slot,
}

impl H1 {
    /// Begins a request; it leaves with the first flush. `head` went through hygiene: its Content-Length, if any, is right.
    pub(crate) fn begin(worker: &Rc<Worker>, connected: Connected, head: &Head, end: bool, bounds: Bounds) -> H1 {
        let Connected { io, slot } = connected;
        let mut wire = Wire::new(worker, io, BytesMut::new());
        wire.sending = if end { Length::None } else { encode::length(head).unwrap_or(Length::Chunked) };
        let chunked = wire.sending == Length::Chunked;
        encode::request(wire.out.text(), head, Manner { chunked, close: false, keep_alive: false, empty: false });
        // After Expect both sides may disagree about whether the body was sent: such a connection serves no other request.
        let keep = head.get("expect").is_none();
        let to_head = head.method() == b"HEAD";
        let (decoder, scanned, informed) = (None, 0, 0);
        H1 { wire, bounds, to_head, decoder, scanned, informed, answered: false, sent: false, keep, fault: None, slot }
    }

    /// Whether any byte of a response came: if not, and the connection had been idle before, the backend most likely
    /// closed it just as we wrote.
    pub(crate) fn answered(&self) -> bool {
        self.answered
    }

    /// How the backend failed, if it did.
    pub(crate) fn fault(&self) -> Option<Cause> {
        self.fault
    }

    fn failed(&mut self, cause: Cause) -> Abort {
        self.fault = Some(cause);
        Abort::Truncated
    }

    /// The connection ended before the message did.
    fn cut(&mut self, how: &std::io::Result<usize>) -> Abort {
        self.failed(if how.is_ok() { Cause::Closed } else { Cause::Reset })
    }

    /// The connection, if both messages ended exactly where they should and nothing came behind them.
    pub(crate) fn into_idle(self) -> Option<Connected> {
        let ended = self.sent && self.decoder.as_ref().is_some_and(Decoder::done);
        let clean = self.wire.read.is_empty() && self.wire.out.is_empty();
        let H1 { mut wire, keep, slot, .. } = self;
        wire.rest();
        (ended && clean && keep).then_some(Connected { io: wire.io, slot })
    }

    fn parse(&mut self) -> Result<Option<Response>, Bad> {
        let Some(end) = parse::end(&self.wire.read, &mut self.scanned, self.bounds)? else { return Ok(None) };
        self.scanned = 0;
        let bytes = self.wire.read.get(..end).unwrap_or_default();
        let parsed = parse::response(bytes, self.to_head, self.bounds)?;
        self.wire.read.advance(end);
        let status = parsed.head.status();
        if status < 200 {
            self.informed += 1;
            // 101 answers an Upgrade, which we never sent.
            if status == 101 || self.informed > INFORMATIONAL {
                return Err(Bad::Malformed);
            }
            return Ok(Some(Response::Informational(parsed.head)));
        }
        self.keep &= parsed.keep_alive;
        let decoder = Decoder::new(parsed.body, self.bounds);
        let end = decoder.done();
        self.decoder = Some(decoder);
        Ok(Some(Response::Final(parsed.head, end)))
    }
}

impl Source for H1 {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Abort>> {
        let Some(decoder) = &mut self.decoder else { return Poll::Ready(Err(Abort::Internal)) };
        loop {
            match decoder.decode(&mut self.wire.read) {
                Ok(Some(frame)) => return Poll::Ready(Ok(frame)),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Err(self.failed(Cause::Malformed))),
            }
            match ready!(self.wire.poll_fill(cx)) {
                Ok(0) if decoder.until_close() => {
                    *decoder = Decoder::new(Length::None, self.bounds);
                    return Poll::Ready(Ok(Frame::End));
                }
                how @ (Ok(0) | Err(_)) => return Poll::Ready(Err(self.cut(&how))),
                Ok(_) => {}
            }
        }
    }
}

impl Sink for H1 {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Abort>> {
        self.wire.poll_send(cx, data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: Option<&Head>) -> Poll<Result<(), Abort>> {
        ready!(self.wire.poll_finish(cx, trailers))?;
        self.sent = true;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Abort>> {
        self.wire.poll_flush(cx)
    }

    fn written(&self) -> u64 {
        self.wire.written
    }

    fn abort(&mut self, _why: Abort) {
        self.keep = false;
        self.wire.io.reset();
    }
}

impl Back for H1 {
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Abort>> {
        loop {
            match self.parse() {
                Ok(Some(response)) => return Poll::Ready(Ok(response)),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Err(self.failed(Cause::Malformed))),
            }
            match ready!(self.wire.poll_fill(cx)) {
                how @ (Ok(0) | Err(_)) => return Poll::Ready(Err(self.cut(&how))),
                Ok(_) => self.answered = true,
            }
        }
    }
}
